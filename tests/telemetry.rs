//! What the daemon has done can be scraped, and is read by others' parsers.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use hopend::admin;
use hopend::sim::Options;
use hopend::stop::Stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Stage, any_ports, python};

type Samples = HashMap<(String, BTreeMap<String, String>), f64>;

/// The admin address of a stage's daemon. Served until `Stop` is dropped.
async fn admin(stage: &Stage, stop: &Stop) -> SocketAddr {
    let listener = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = Arc::clone(stage.app.services());
    tokio::spawn(admin::serve(listener, stop.listen(), services));
    address
}

/// Head and body of what is answered to one request.
async fn ask(address: SocketAddr, request: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn scrape(stage: &Stage, address: SocketAddr) -> Samples {
    let (head, body) = ask(address, "GET /metrics", "localhost:9100").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let content = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(content), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let path = stage.folder.path().join("metrics.txt");
    std::fs::write(&path, &body).unwrap();
    let lines = python::run("openmetrics.py", &[path.to_str().unwrap()], &[]).await;
    let samples = lines.iter().map(|line| {
        let (name, labels, value) = serde_json::from_str(line).unwrap();
        ((name, labels), value)
    });
    samples.collect()
}

fn value(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let key = (name.to_owned(), labels.collect());
    *samples
        .get(&key)
        .unwrap_or_else(|| panic!("no {key:?} in {samples:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_messages_and_refusals_are_counted_also_when_they_are_over() {
    let stage = Stage::with(Options::default(), any_ports).await;
    let stop = Stop::default();
    let address = admin(&stage, &stop).await;
    let hdb = [("endpoint", "hdb")];
    let message = |direction, message_type| {
        [
            ("endpoint", "hdb"),
            ("direction", direction),
            ("type", message_type),
        ]
    };

    let mut first = stage.open("hdb").await;
    let mut second = stage.open("hdb").await;
    for client in [&mut first, &mut second] {
        client.ask("1+1").await.unwrap();
    }
    // One of the two is over.
    drop(first);
    let open = async || value(&scrape(&stage, address).await, "hopend_sessions", &hdb);
    while open().await > 1.0 {}

    let samples = scrape(&stage, address).await;
    assert_eq!(value(&samples, "hopend_opens_total", &hdb), 2.0);
    assert_eq!(
        value(
            &samples,
            "hopend_messages_total",
            &message("to_cluster", "sync")
        ),
        2.0
    );
    assert_eq!(
        value(
            &samples,
            "hopend_messages_total",
            &message("to_client", "response")
        ),
        2.0
    );
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(value(&samples, "hopend_build_info", &version), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_with_a_name_of_its_own_reads_nothing() {
    let stage = Stage::with(Options::default(), any_ports).await;
    let stop = Stop::default();
    let address = admin(&stage, &stop).await;
    let status = async |request: &str, host: &str| {
        let (head, _) = ask(address, request, host).await;
        head.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status("GET /metrics", "rebound.example:9100").await, "421");
    for host in ["localhost:9100", "127.0.0.1:9100", "[::1]:9100"] {
        assert_eq!(status("GET /metrics", host).await, "200", "{host}");
    }
    assert_eq!(status("POST /metrics", "localhost").await, "405");
}
