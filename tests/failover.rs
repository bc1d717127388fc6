//! Several addresses of which one hangs: no hopen fails for it, no session waits for it twice, nobody is
//! given a connection to it, and it serves again as soon as it answers.

use std::time::Duration;

use q_ipc::value::Value;
use simulator::{ClusterFault, ConnectionRecord, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::configuration::{Change, EndpointTable};
use crate::support::{BusyKdb, Log, QClient, Stage, account};

/// What a client gives hopen, as many do.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(5);
/// For what has to happen, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

const HDB_NODE: &str = "sim-hdb-node-1";

/// The endpoint `plain` in front of these, with more keys.
async fn stage(
    addresses: &[&BusyKdb],
    plain: impl FnOnce(EndpointTable) -> EndpointTable,
) -> Stage {
    let connect: Vec<_> = addresses.iter().map(|kdb| kdb.connect()).collect();
    Stage::builder()
        .endpoint("plain", |endpoint| {
            plain(endpoint.connect(connect).without("ca_file"))
        })
        .start()
        .await
}

/// `hopen` with the timeout of a client that is not patient.
async fn hopen(stage: &Stage) -> QClient {
    let opening = stage.open("plain");
    timeout(CLIENTS_TIMEOUT, opening)
        .await
        .expect("the hopen failed: 'timeout")
}

async fn answer(handle: &mut QClient) -> i64 {
    match timeout(CLIENTS_TIMEOUT, handle.ask("1")).await {
        Ok(Ok(Value::Long(answer))) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

/// Who serves a new handle.
async fn served_by(stage: &Stage) -> i64 {
    answer(&mut hopen(stage).await).await
}

/// Opens handles until this one serves one.
async fn until_served_by(stage: &Stage, wanted: i64) {
    let served = async { while served_by(stage).await != wanted {} };
    timeout(PATIENCE, served)
        .await
        .expect("it never serves again");
}

#[tokio::test]
async fn clients_with_a_timeout_never_fail_while_the_first_address_hangs() {
    for policy in ["failover", "spread"] {
        let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
        let stage = stage(&[&first, &second], |plain| plain.policy(policy)).await;
        first.set_busy(true);
        let all = (0..8).map(|_| served_by(&stage));
        let all = futures_util::future::join_all(all).await;
        assert_eq!(all, [2; 8], "{policy}");
        // From then on nobody waits for it: no session goes there.
        let before = first.seen().connections;
        for _ in 0..20 {
            assert_eq!(served_by(&stage).await, 2, "{policy}");
        }
        assert!(
            first.seen().connections <= before + 1,
            "{policy}: {:?}",
            first.seen()
        );
    }
}

#[tokio::test]
async fn an_address_that_answers_later_serves_again() {
    let policies: [(&str, Change<EndpointTable>); 2] = [
        ("failover", |plain| plain.failover_after("50ms")),
        ("spread", |plain| plain.policy("spread")),
    ];
    for (policy, keys) in policies {
        let (log, _guard) = Log::capture();
        let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
        let stage = stage(&[&first, &second], keys).await;
        first.set_busy(true);
        while first.seen().logins == 0 {
            assert_eq!(served_by(&stage).await, 2, "{policy}");
        }
        // The login that nobody waits for any more is answered.
        first.set_busy(false);
        until_served_by(&stage, 1).await;
        assert_eq!(
            log.find(&["WARN", "rests: "]).is_some(),
            policy == "failover"
        );
    }
}

#[tokio::test]
async fn an_address_that_rests_is_asked_by_hopend_and_by_no_session() {
    let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
    let keys = |plain: EndpointTable| plain.failover_after("50ms").connect_timeout("300ms");
    let stage = stage(&[&first, &second], keys).await;
    first.set_busy(true);
    assert_eq!(served_by(&stage).await, 2);
    // The session's own, and those behind it.
    let probed = first.has_seen(|seen| seen.logins >= 3);
    timeout(PATIENCE, probed).await.expect("nobody asks it");
    first.set_busy(false);
    until_served_by(&stage, 1).await;
}

/// Where the client gives the login, hopend has none of its own: it looks whether the address can be
/// reached, and one session tries the login.
#[tokio::test]
async fn without_a_login_of_its_own_hopend_lets_one_session_try() {
    let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
    let keys = |plain: EndpointTable| {
        plain
            .failover_after("50ms")
            .connect_timeout("300ms")
            .login("client")
    };
    let stage = stage(&[&first, &second], keys).await;
    first.set_busy(true);
    assert_eq!(served_by(&stage).await, 2);
    for tries in 1..3 {
        let reached = first.has_seen(|seen| seen.connections >= 2 * tries);
        timeout(PATIENCE, reached).await.expect("nobody looks");
        assert_eq!(first.seen().logins, tries, "nobody logged in");
        // The next session tries, and is served all the same; those beside it do not.
        while first.seen().logins == tries {
            let all = futures_util::future::join_all((0..4).map(|_| served_by(&stage)));
            assert_eq!(all.await, [2; 4]);
        }
        assert_eq!(first.seen().logins, tries + 1);
    }
    first.set_busy(false);
    until_served_by(&stage, 1).await;
}

#[tokio::test]
async fn what_waits_at_an_address_that_hangs_is_given_to_nobody() {
    let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
    let keys = |plain: EndpointTable| plain.warm(3).connect_timeout("1s");
    let stage = stage(&[&first, &second], keys).await;
    assert_eq!(served_by(&stage).await, 1);
    let status = || {
        let status = stage.app.status();
        let mut endpoints = status.endpoints.into_iter();
        endpoints.find(|row| row.name == "plain").unwrap()
    };
    let mine = || {
        status()
            .warm
            .iter()
            .any(|row| row.user == account() && row.ready == 3)
    };
    let full = async {
        while !mine() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.expect("nothing is kept");
    first.set_busy(true);
    // What takes the place of the one that is given out can't be made there.
    let _taken = hopen(&stage).await;
    let noticed = async {
        while status().addresses[0].resting_s.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, noticed).await.expect("nobody notices");
    // Also while it is asked again and again whether it answers.
    let before = first.seen().logins;
    while first.seen().logins < before + 2 {
        assert_eq!(served_by(&stage).await, 2);
    }
}

#[tokio::test]
async fn a_node_that_hangs_costs_no_open_and_is_used_again_when_it_answers() {
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.node("spread").connect_timeout("8s"))
        .start()
        .await;
    let faults = stage.sim.faults();
    faults.cluster(HDB_NODE, ClusterFault::StallAfterLogin, Times::Always);
    let node = async || {
        let opening = stage.open("hdb");
        let opened = timeout(CLIENTS_TIMEOUT, opening).await;
        let mut handle = opened.expect("the hopen failed: 'timeout");
        handle.ask("nodeId[]").await.unwrap()
    };
    let hangs = Value::Symbol(HDB_NODE.into());
    for _ in 0..9 {
        assert_ne!(node().await, hangs);
    }
    faults.clear();
    let back = async { while node().await != hangs {} };
    timeout(PATIENCE, back)
        .await
        .expect("it never serves again");
    // Whoever asked whether it answers was the user whose sessions failed there.
    let records = stage.sim.connections();
    let mine = |record: &ConnectionRecord| record.user == account();
    assert!(records.iter().all(mine), "{records:?}");
}

/// What a client says that announces this capability, or none, and whether it is let in.
async fn says(stage: &Stage, capability: Option<u8>) -> bool {
    let mut stream = TcpStream::connect(stage.address("plain")).await.unwrap();
    let mut hello = b":".to_vec();
    hello.extend(capability);
    hello.push(0);
    stream.write_all(&hello).await.unwrap();
    let mut answer = [0];
    // The end of the stream, as kdb+ itself would have it, and no reset.
    stream.read(&mut answer).await.unwrap() == 1
}

#[tokio::test]
async fn a_capability_that_kdb_refuses_is_no_refused_login_and_nothing_rests_for_it() {
    for (login, others_first) in [("fixed", false), ("fixed", true), ("client", true)] {
        let (log, _guard) = Log::capture();
        let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
        for capability in [None, Some(0), Some(1)] {
            first.refuse(capability);
            second.refuse(capability);
        }
        let keys = |plain: EndpointTable| match login {
            "client" => plain.login("client"),
            _ => plain,
        };
        let stage = stage(&[&first, &second], keys).await;
        if others_first {
            assert_eq!(served_by(&stage).await, 1);
        }
        for (capability, told) in [
            (Some(1), "a client of capability 1"),
            (None, "no capability"),
        ] {
            assert!(!says(&stage, capability).await);
            let line = log
                .line_with(&["session refused", told, "kind=\"client\""])
                .await;
            assert!(
                line.contains("Fix: use a client that announces capability 3"),
                "{line}"
            );
        }
        assert_eq!(log.find(&["refused the login"]), None);
        assert_eq!(log.find(&["rests: "]), None);
        assert_eq!(served_by(&stage).await, 1, "{login}: it rests");
    }
}

#[tokio::test]
async fn an_old_client_is_served_where_kdb_serves_it() {
    let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
    first.refuse(Some(1));
    let stage = stage(&[&first, &second], |plain| plain).await;
    assert!(says(&stage, Some(1)).await);
    assert_eq!(served_by(&stage).await, 1, "it rests");
}
