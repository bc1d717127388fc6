//! `errors = "explain"`: hopen succeeds, and the first question is answered with the reason why kdb+
//! can't be had.

use std::time::{Duration, Instant};

use q_ipc::frame::MessageType;
use q_ipc::message;
use simulator::{ClusterFault, Options, Simulator, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::qclient::Refused;
use crate::support::{Configuration, Log, QClient, Stage, account, python};

/// The endpoint `hdb` explains failures.
fn explaining(config: Configuration) -> Configuration {
    config.endpoint("hdb", |hdb| hdb.errors("explain"))
}

/// GetKxConnectionString is denied.
async fn denied(change: impl FnOnce(Configuration) -> Configuration) -> Stage {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let action = "finspace:GetKxConnectionString";
    sim.faults().deny("*", action, "*");
    Stage::builder()
        .simulator(sim)
        .configure(change)
        .start()
        .await
}

#[tokio::test]
async fn what_aws_denies_is_told_with_the_remedy_and_then_the_handle_closes() {
    let (log, _guard) = Log::capture();
    let stage = denied(explaining).await;
    let mut handle = stage.open("hdb").await;
    handle.send(MessageType::Async, "a:1").await;
    let told = handle.ask("a+1").await.unwrap_err();
    for part in [
        "hopend: ",
        "finspace:GetKxConnectionString",
        "cluster hdb-cluster",
        ". Fix: allow finspace:GetKxConnectionString and finspace:ConnectKxCluster on it to ",
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    assert!(handle.sees_end().await);
    // For the audit it is what it was: a refusal.
    let refusal = [
        "session refused",
        "GetKxConnectionString",
        "kind=\"denied\"",
    ];
    log.line_with(&refusal).await;
    assert_eq!(log.find(&["session open"]), None);
    let status = stage.app.status();
    assert_eq!(
        (status.endpoints[0].opened, status.endpoints[0].refused),
        (0, 1)
    );
    assert_eq!(status.sessions, []);
}

#[tokio::test]
async fn each_way_that_kdb_can_be_gone_is_told() {
    let stage = Stage::builder().configure(explaining).start().await;
    for (fault, reason) in [
        (ClusterFault::RefuseLogin, "refused the login"),
        (
            ClusterFault::ResetAfterLogin,
            "the connection broke during the login",
        ),
        (ClusterFault::Plaintext, "TLS failed"),
    ] {
        let faults = stage.sim.faults();
        faults.cluster("hdb-cluster", fault, Times::Always);
        let mut handle = stage.open("hdb").await;
        let told = handle.ask("1+1").await.unwrap_err();
        assert!(told.contains(reason), "{told}");
        faults.clear();
    }
    let mut handle = stage.open("hdb").await;
    handle.ask("1+1").await.unwrap();
}

#[tokio::test]
async fn each_address_that_was_tried_is_named_and_so_it_is_in_the_log() {
    let (log, _guard) = Log::capture();
    // Nothing listens at these.
    let held = ["127.0.0.1:0"; 2].map(|any| std::net::TcpListener::bind(any).unwrap());
    let addresses = held.each_ref().map(|held| held.local_addr().unwrap());
    let [a, b] = addresses.map(|address| format!(":{address}"));
    let stage = Stage::builder()
        .endpoint("plain", |plain| plain.errors("explain").connect([&*a, &*b]))
        .start()
        .await;
    drop(held);
    let mut handle = stage.open("plain").await;
    let told = handle.ask("1+1").await.unwrap_err();
    let expected = format!(
        "hopend: no kdb+ at {a}, {b}: no connection: Connection refused (os error 111). Fix: "
    );
    assert!(told.starts_with(&expected), "{told}");
    assert_eq!(told.matches("Connection refused").count(), 1, "{told}");
    log.line_with(&["session refused", &*a, &*b, "kind=\"upstream\""])
        .await;
}

#[tokio::test]
async fn the_capability_is_the_clients_and_never_more_than_kdbs() {
    let stage = denied(explaining).await;
    for (hello, answer) in [
        (&b":\x03\0"[..], 3),
        (b":\x06\0", 6),
        (b":\x07\0", 6),
        (b":\0", 0),
    ] {
        let mut stream = TcpStream::connect(stage.address("hdb")).await.unwrap();
        // With its first request right behind.
        let request = message::text(MessageType::Sync, "1+1");
        stream.write_all(&[hello, &request].concat()).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got[0], answer, "{hello:?}");
        let error = [&got[1..3], &got[9..17]].concat();
        assert_eq!(error, b"\x01\x02\x80hopend:", "{got:?}");
        assert_eq!(got.last(), Some(&0));
    }
}

#[tokio::test]
async fn who_is_nobody_here_is_told_nothing() {
    let stage = denied(explaining).await;
    for (user, password) in [("nobody-here", ""), ("alice", "wrong")] {
        let refused = QClient::open(stage.address("hdb"), user, password).await;
        assert!(matches!(refused, Err(Refused::Access)), "{user}");
    }
}

#[tokio::test]
async fn it_has_to_be_asked_for() {
    let stage = denied(|config| config).await;
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Access)));
}

#[tokio::test]
async fn a_stop_waits_for_nobody_who_is_being_told() {
    let stage = denied(explaining).await;
    let mut handle = stage.open("hdb").await;
    let Stage { app, sim, folder } = stage;
    let start = Instant::now();
    let (summary, end) = tokio::join!(app.stop(), handle.sees_end());
    assert!(end);
    assert_eq!((summary.open, summary.cut), (1, 0));
    assert!(start.elapsed() < Duration::from_secs(20));
    drop((sim, folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn pykx_kola_and_aiokdb_show_the_reason_as_an_error_of_qs() {
    let stage = denied(explaining).await;
    let port = stage.address("hdb").port().to_string();
    let account = account();
    let variables = [
        ("HOPEND_PORT", port.as_str()),
        ("HOPEND_USER", account.as_str()),
        ("PYKX_UNLICENSED", "true"),
    ];
    let said = python::run("explained.py", &["all"], &variables).await;
    assert_eq!(said.len(), 3, "{said:?}");
    for line in said {
        // KX's library cuts an error off behind 256 bytes: the remedy has to be within them.
        let parts = ["hopend: finspace:GetKxConnectionString on", ". Fix: allow "];
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
