//! The admin address: what other hosts see of it, in which format metrics come, and TLS.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use hopend::config::{Exposure, ServerTls, TlsVersion};
use hopend::identity::client_tls::Certificates;
use hopend::primitives::shutdown::ShutdownSender;
use hopend::surface::admin::{self, Audience};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::certificates::Authority;
use crate::support::configuration::table;
use crate::support::{Daemon, Stage, python};
use crate::telemetry::{ask, ask_with};

const OPEN_METRICS: &str = "Accept: application/openmetrics-text; version=1.0.0\r\n";

/// The admin address of a stage's daemon, on all addresses of this host. Served until `ShutdownSender` is dropped.
async fn everywhere(
    stage: &Stage,
    stop: &ShutdownSender,
    audience: watch::Receiver<Audience>,
) -> u16 {
    let listener = admin::bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let services = Arc::clone(stage.app.services());
    tokio::spawn(admin::serve(listener, stop.subscribe(), services, audience));
    port
}

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The same port at an address that other hosts use: what comes in there is not of this host.
fn beyond(port: u16) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // Nothing is sent: the system only chooses the address that it would send from.
    let routed = socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9));
    routed.expect("this test needs an address beyond the loopback, with a route");
    (socket.local_addr().unwrap().ip(), port).into()
}

async fn status(address: SocketAddr, path: &str) -> String {
    // As a Prometheus server names it.
    let (head, _) = ask(address, &format!("GET {path}"), "bastion.example:5099").await;
    head.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_see_what_is_exposed_and_no_user_names() {
    let stage = Stage::start().await;
    stage.open("hdb").await.ask("1+1").await.unwrap();
    let stop = ShutdownSender::default();
    let (sender, audience) = watch::channel(Audience {
        exposure: Exposure::of(&["/metrics", "/readyz"]),
        ..Audience::default()
    });
    let port = everywhere(&stage, &stop, audience).await;
    let (here, beyond) = (here(port), beyond(port));

    assert_eq!(status(beyond, "/metrics").await, "200");
    assert_eq!(status(beyond, "/readyz").await, "200");
    // Those below it as well, whichever there are.
    assert_ne!(status(beyond, "/readyz/hdb").await, "403");
    let hidden = [
        "/",
        "/livez",
        "/status",
        "/status/facts",
        "/status.json",
        "/metricsx",
        "//status",
        "/nothing",
    ];
    for path in hidden {
        assert_eq!(status(beyond, path).await, "403", "{path}");
        let (_, body) = ask(beyond, &format!("GET {path}"), "localhost").await;
        assert!(!body.contains("hdb"), "{path}: {body}");
    }

    assert_eq!(status(beyond, "/metrics/../status").await, "404");

    let (_, full) = ask(here, "GET /metrics", "localhost").await;
    assert!(full.contains("user=\"alice\""), "{full}");
    for headers in ["Host: bastion.example\r\n", "Host: localhost\r\n"] {
        let headers = format!("{headers}{OPEN_METRICS}");
        let (_, withheld) = ask_with(beyond, "GET /metrics", &headers).await;
        assert!(!withheld.contains("alice"), "{withheld}");
        assert!(!withheld.contains("user="), "{withheld}");
        assert!(
            withheld.contains("hopend_sessions{endpoint=\"hdb\"}"),
            "{withheld}"
        );
        assert!(
            withheld.contains("hopend_credential_fetches_total"),
            "{withheld}"
        );
    }
    // This host sees all of it.
    let (head, _) = ask(here, "GET /", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 307 "), "{head}");
    assert!(head.contains("location: /status"), "{head}");
    for path in ["/livez", "/status"] {
        let (head, _) = ask(here, &format!("GET {path}"), "localhost").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    }

    let mut exposure = Exposure::of(&["/metrics"]);
    exposure.metrics_users = true;
    sender.send_replace(Audience {
        exposure,
        ..Audience::default()
    });
    let (_, named) = ask(beyond, "GET /metrics", "bastion.example").await;
    assert!(named.contains("user=\"alice\""), "{named}");
    assert_eq!(status(beyond, "/readyz").await, "403");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_an_exposed_page_back() {
    let exposes = |page: &str| {
        let expose = vec![page.to_owned()];
        table::<toml::Value, 2>([("listen", "0.0.0.0:0".into()), ("expose", expose.into())])
    };
    let mut daemon =
        Daemon::with(|config| config.daemon(|daemon| daemon.admin(exposes("/livez")))).await;
    let seen = daemon.process.seen();
    let address = seen.split("admin address=").nth(1).unwrap();
    let address: SocketAddr = address.lines().next().unwrap().parse().unwrap();
    let beyond = beyond(address.port());
    assert_eq!(status(beyond, "/livez").await, "200");
    assert_eq!(status(beyond, "/readyz").await, "403");

    daemon.rewrite(|config| config.daemon(|daemon| daemon.admin(exposes("/readyz"))));
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("reloaded: ");
    assert_eq!(status(beyond, "/livez").await, "403");
    assert_eq!(status(beyond, "/readyz").await, "200");
}

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// An audience that is served with the certificate in the folder.
fn over_tls(folder: &Path, client_ca: Option<PathBuf>) -> Audience {
    let tls = ServerTls {
        cert: folder.join("server.pem"),
        key: folder.join("server.key"),
        client_ca,
        min_version: TlsVersion::Tls12,
    };
    Audience {
        tls: Some(Arc::new(Certificates::new("[daemon] admin", &tls))),
        ..Audience::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let stage = Stage::start().await;
    let folder = stage.folder.path();
    let authority = Authority::new("admin CA");
    authority.server().write(folder);
    let stop = ShutdownSender::default();
    let (_sender, audience) = watch::channel(over_tls(folder, None));
    let address = here(everywhere(&stage, &stop, audience).await);

    let mut client = authority.dial(address, None).await.unwrap();
    client.write_all(LIVEZ).await.unwrap();
    let mut answer = Vec::new();
    // It may leave without a close_notify.
    let _ = client.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("alive\n"), "{answer}");

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(LIVEZ).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        !answer.contains("alive") && !answer.contains("HTTP"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_client_ca_only_holders_of_a_certificate_see_it() {
    let stage = Stage::start().await;
    let folder = stage.folder.path();
    let authority = Authority::new("admin CA");
    authority.server().write(folder);
    let authorities = folder.join("clients.pem");
    std::fs::write(&authorities, &authority.pem).unwrap();
    let stop = ShutdownSender::default();
    let (_sender, audience) = watch::channel(over_tls(folder, Some(authorities)));
    let address = here(everywhere(&stage, &stop, audience).await);
    let scraper = authority.client("scraper");
    for (certificate, sees) in [(Some(&scraper), true), (None, false)] {
        let mut answer = Vec::new();
        if let Ok(mut client) = authority.dial(address, certificate).await {
            // TLS 1.3 refuses a client's certificate behind the client's handshake.
            let _ = client.write_all(LIVEZ).await;
            let _ = client.read_to_end(&mut answer).await;
        }
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.ends_with("alive\n"), sees, "{answer}");
    }
}

/// Both formats of a daemon that has served a session.
async fn expositions(stage: &Stage) -> [String; 2] {
    stage.open("hdb").await.ask("1+1").await.unwrap();
    let stop = ShutdownSender::default();
    let address = crate::telemetry::admin(stage, &stop).await;
    let host = "Host: localhost\r\n";
    let (head, text) = ask_with(address, "GET /metrics", host).await;
    let content = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(
        head.contains(content) && head.contains("vary: Accept"),
        "{head}"
    );
    let headers = format!("{host}{OPEN_METRICS}");
    let (head, openmetrics) = ask_with(address, "GET /metrics", &headers).await;
    let content = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(content), "{head}");
    [text, openmetrics]
}

/// Names and labels of all samples.
async fn samples(stage: &Stage, exposition: &str) -> Vec<String> {
    let path = stage.folder.path().join("exposition");
    tokio::fs::write(&path, exposition).await.unwrap();
    let lines = python::run("openmetrics.py", &[path.to_str().unwrap()], &[]).await;
    let name = |line: &String| line.rsplit_once(", ").unwrap().0.to_owned();
    let mut names: Vec<_> = lines.iter().map(name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_hold_the_same_samples() {
    let stage = Stage::start().await;
    let [text, openmetrics] = expositions(&stage).await;
    assert!(
        !text.contains("# EOF") && !text.contains("# UNIT"),
        "{text}"
    );
    let (told, meant) = (
        samples(&stage, &text).await,
        samples(&stage, &openmetrics).await,
    );
    assert!(told.len() > 50, "{told:?}");
    assert_eq!(told, meant);
}

/// promtool reads both formats as a Prometheus server does, and finds nothing to say about names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs promtool at $HOPEND_PROMTOOL, as .ci/run runs it"]
async fn promtool_takes_both_formats() {
    let promtool = PathBuf::from(std::env::var_os("HOPEND_PROMTOOL").expect("HOPEND_PROMTOOL"));
    let stage = Stage::start().await;
    let [text, openmetrics] = expositions(&stage).await;
    let run = async |arguments: &[&str], input: &str| {
        let mut child = tokio::process::Command::new(&promtool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (well, said) = run(&["check", "metrics"], &text).await;
    assert!(well && said.trim().is_empty(), "{said}\n{text}");

    // `check metrics` reads the text format alone; what makes blocks reads OpenMetrics, and wants to know
    // when each sample was taken.
    let (well, _) = run(&["check", "metrics"], &openmetrics).await;
    assert!(
        !well,
        "promtool has learnt OpenMetrics: check it here as well"
    );
    let stamped = openmetrics.lines().map(|line| match line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("{line} 1700000000\n"),
    });
    let file = stage.folder.path().join("openmetrics");
    std::fs::write(&file, stamped.collect::<String>()).unwrap();
    let (file, blocks) = (file.to_str().unwrap(), stage.folder.path().join("blocks"));
    let make = [
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        file,
        blocks.to_str().unwrap(),
    ];
    let (well, said) = run(&make, "").await;
    assert!(well, "{said}\n{openmetrics}");
}
