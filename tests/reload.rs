//! A reload changes what the file changed, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use q_ipc::value::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::qclient::Refused;
use crate::support::{Configuration, Log, QClient, Stage};

/// Without `rdb`, and with `hdb` leading to the gateway cluster.
fn without_rdb_and_hdb_elsewhere(config: Configuration) -> Configuration {
    config
        .without_endpoint("rdb")
        .endpoint("hdb", |hdb| hdb.cluster("gateway-cluster"))
}

/// Sessions that ask all the time, on every endpoint, while the file is changed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_live_session_is_disturbed() {
    let mut stage = Stage::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = watch::Sender::new(0_u64);
    let mut sessions = Vec::new();
    for endpoint in ["hdb", "rdb", "plain"].repeat(8) {
        let mut handle = stage.open(endpoint).await;
        let (stop, asked) = (Arc::clone(&stop), asked.clone());
        sessions.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
                asked.send_modify(|count| *count += 1);
            }
            handle
        }));
    }
    let original = stage.configuration();
    for round in 0..20 {
        let before = *asked.borrow();
        let changes = stage.reload(without_rdb_and_hdb_elsewhere);
        assert_eq!(changes.changed, ["hdb"], "round {round}");
        assert_eq!(changes.removed, ["rdb"]);
        let changes = stage.reload(|_| original.clone());
        assert_eq!(changes.added, ["rdb"]);
        let mut asking = asked.subscribe();
        asking
            .wait_for(|count| *count >= before + 24)
            .await
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for session in sessions {
        let mut handle = session.await.unwrap();
        assert_eq!(handle.ask("2+2").await, Ok(Value::Long(4)));
    }
}

#[tokio::test]
async fn a_removed_endpoint_stops_accepting_and_a_changed_one_changes() {
    let mut stage = Stage::start().await;
    let (hdb, rdb) = (stage.address("hdb"), stage.address("rdb"));
    let (mut old_hdb, mut old_rdb) = (stage.open("hdb").await, stage.open("rdb").await);
    let changes = stage.reload(without_rdb_and_hdb_elsewhere);
    assert_eq!(
        (changes.changed, changes.removed),
        (vec!["hdb".into()], vec!["rdb".into()])
    );

    // The listener goes with its task; from then on nobody is let in.
    while TcpStream::connect(rdb).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.address("hdb"), hdb, "the same socket");
    let cluster = |text: &str| Ok(Value::Symbol(text.into()));
    assert_eq!(
        stage.open("hdb").await.ask("clusterName[]").await,
        cluster("gateway-cluster")
    );
    assert_eq!(old_hdb.ask("clusterName[]").await, cluster("hdb-cluster"));
    assert_eq!(old_rdb.ask("clusterName[]").await, cluster("rdb-cluster"));
}

#[tokio::test]
async fn users_change_too() {
    let mut stage = Stage::start().await;
    let address = stage.address("hdb");
    let password = stage.password();
    QClient::open(address, "alice", &password).await.unwrap();
    stage.reload(|config| config.endpoint("hdb", |hdb| hdb.users("alice")));
    let refused = QClient::open(address, "", "").await;
    assert!(matches!(refused, Err(Refused::Access)));
    QClient::open(address, "alice", &password).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_keeps_nothing_else_from_being_reloaded() {
    let (log, _guard) = Log::capture();
    let mut stage = Stage::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    stage.reload(|config| {
        config
            .endpoint("hdb", |hdb| hdb.listen(address.to_string()))
            .endpoint("rdb", |rdb| rdb.cluster("gateway-cluster"))
    });
    let told = ["ERROR", "endpoint=\"hdb\"", "another process listens there"];
    log.line_with(&[&told[..], &["goes on trying"]].concat())
        .await;
    let mut handle = stage.open("rdb").await;
    assert_eq!(
        handle.ask("clusterName[]").await,
        Ok(Value::Symbol("gateway-cluster".into()))
    );
    drop(taken);
    log.line_with(&["listening at last", &address.to_string()])
        .await;
    let password = stage.password();
    QClient::open(address, "alice", &password).await.unwrap();
}

/// An endpoint keeps its address while the new one can't be bound, here because of the old one itself.
#[tokio::test]
async fn no_address_is_given_up_for_one_that_cannot_be_bound() {
    let (log, _guard) = Log::capture();
    let mut stage = Stage::start().await;
    let old = stage.address("rdb");
    let wider = format!("0.0.0.0:{}", old.port());
    let before = stage.configuration();
    stage.reload(|config| config.endpoint("rdb", |rdb| rdb.listen(wider).expose(true)));
    let own = format!("hopend itself listens at {old}. Fix: restart hopend");
    log.line_with(&["ERROR", "endpoint=\"rdb\"", "hopend itself listens at"])
        .await;
    assert!(
        log.text()
            .contains(&own.replace(". Fix", "; hopend goes on trying. Fix"))
    );
    log.line_with(&["WARN", "endpoint=\"rdb\"", "goes on listening at"])
        .await;
    assert_eq!(stage.address("rdb"), old);
    let password = stage.password();
    QClient::open(old, "alice", &password).await.unwrap();
    // The next reload says where it listens, and nothing is left of the other address.
    stage.reload(|_| before);
    QClient::open(old, "alice", &password).await.unwrap();
    let status = stage.app.status();
    let rdb = status.endpoints.iter().find(|row| row.name == "rdb");
    assert!(rdb.unwrap().unbound.is_empty(), "{rdb:?}");
}

#[tokio::test]
async fn at_start_one_taken_address_keeps_no_other_from_serving() {
    let (log, _guard) = Log::capture();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen(&address))
        .start()
        .await;
    stage.open("rdb").await;
    log.line_with(&[
        "ERROR",
        "endpoint=\"hdb\"",
        &address,
        "goes on trying",
        "ss -ltnp",
    ])
    .await;
}
