//! The way to kdb+ breaks while a handle is opened: at the dial, in the TLS handshake, at the login.

use simulator::ClusterFault;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Case, Row, Sees};
use crate::support::{BusyKdb, Configuration, QClient, vanish};

const AT_ONCE: &str = "the next hopen, as soon as the fault is gone";
const AFTER_A_SECOND: &str = "given up after `connect_timeout`; then the next hopen";

/// A hopen while the fault holds, another cluster meanwhile, a hopen behind it.
async fn opening(row: &Row, fault: ClusterFault) {
    let case = Case::start().await;
    case.set(fault);
    row.saw(case.hopen().await);
    row.logged(&case.log).await;
    case.stage.open("rdb").await;
    case.stage.sim.faults().clear();
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

/// The same for an address where nothing of the simulator's listens; `break_it` has the listener.
async fn dialling(row: &Row, break_it: impl FnOnce(TcpListener) -> Option<TcpListener>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = break_it(listener);
    let plain_at = |config: Configuration, port: u16| {
        config.endpoint("plain", |plain| {
            plain.connect(format!(":tcps://localhost:{port}"))
        })
    };
    let mut case = Case::with(|config| plain_at(config, port)).await;
    let opened = QClient::open(case.stage.address("plain"), "", "").await;
    row.saw(Sees::of(opened));
    row.logged(&case.log).await;
    case.stage.open("hdb").await;
    drop(held);
    let there = case.stage.sim.plain().port;
    let changes = case.stage.reload(|config| plain_at(config, there));
    assert_eq!(changes.changed, ["plain"]);
    case.stage.open("plain").await;
    case.end();
}

/// The first of two addresses computes, and is done behind the hopen.
async fn first_is_busy(row: &Row, failover_after: &str) {
    let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
    let case = Case::with(|config| {
        config.endpoint("plain", |plain| {
            plain
                .connect([first.connect(), second.connect()])
                .failover_after(failover_after)
        })
    })
    .await;
    first.set_busy(true);
    let address = case.stage.address("plain");
    row.saw(Sees::of(QClient::open(address, "", "").await));
    row.logged(&case.log).await;
    first.set_busy(false);
    case.log.line_with(&["works again", &first.connect()]).await;
    case.end();
}

async fn old_client(row: &Row) {
    let kdb = BusyKdb::answering(1).await;
    kdb.refuse(Some(1));
    let case =
        Case::with(|config| config.endpoint("plain", |plain| plain.connect(kdb.connect()))).await;
    let mut stream = TcpStream::connect(case.stage.address("plain"))
        .await
        .unwrap();
    stream.write_all(b":\x01\0").await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    row.saw(Sees::Access);
    row.logged(&case.log).await;
    case.stage.open("plain").await;
    case.end();
}

faults! {
    #[tokio::test]
    the_port_is_closed {
        fault: "kdb+ does not listen",
        sees: Sees::Reset,
        log: &["session refused", "no connection: Connection refused", "Fix: check that kdb+ listens there", "kind=\"upstream\""],
        recovers: "the next hopen behind a reload that names another address",
        test(row): dialling(row, |listener| { drop(listener); None }),
    }
    the_way_swallows_packets {
        fault: "a firewall drops what goes to kdb+",
        sees: Sees::Reset,
        log: &["session refused", "nothing within 1 s while connecting", "kind=\"upstream\""],
        recovers: "given up after `connect_timeout`; the next hopen behind a reload that names another address",
        test(row): dialling(row, |listener| { vanish(&SockRef::from(&listener)); Some(listener) }),
    }
    closed_at_accept {
        fault: "kdb+ closes the connection at once",
        sees: Sees::Reset,
        log: &["session refused", "TLS failed: ", "Fix: check that the port speaks TLS", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::CloseAtAccept),
    }
    reset_at_accept {
        fault: "kdb+ resets the connection at once",
        sees: Sees::Reset,
        log: &["session refused", "TLS failed: ", "Fix: check that the port speaks TLS", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::ResetAtAccept),
    }
    stalled_at_accept {
        fault: "kdb+ accepts and says nothing",
        sees: Sees::Reset,
        log: &["session refused", "nothing within 1 s while shaking hands over TLS", "kind=\"upstream\""],
        recovers: AFTER_A_SECOND,
        test(row): opening(row, ClusterFault::Stall),
    }
    closed_in_the_tls_handshake {
        fault: "closed inside the TLS handshake",
        sees: Sees::Reset,
        log: &["session refused", "TLS failed: ", "Fix: check that the port speaks TLS", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::CloseAtTls),
    }
    reset_in_the_tls_handshake {
        fault: "reset inside the TLS handshake",
        sees: Sees::Reset,
        log: &["session refused", "TLS failed: ", "Fix: check that the port speaks TLS", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::ResetAtTls),
    }
    no_tls_there {
        fault: "the port speaks q without TLS",
        sees: Sees::Reset,
        log: &["session refused", "TLS failed", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::Plaintext),
    }
    closed_after_the_tls_handshake {
        fault: "closed when TLS stands, as q looks that refuses a login",
        sees: Sees::Access,
        log: &["session refused", "refused the login", "allow finspace:ConnectKxCluster", "kind=\"denied\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::CloseAfterTls),
    }
    reset_after_the_tls_handshake {
        fault: "reset when TLS stands",
        sees: Sees::Reset,
        log: &["session refused", "the connection broke during the login", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::ResetAfterTls),
    }
    stalled_after_the_tls_handshake {
        fault: "TLS stands, and nothing more",
        sees: Sees::Reset,
        log: &["session refused", "nothing within 1 s while logging in", "kind=\"upstream\""],
        recovers: AFTER_A_SECOND,
        test(row): opening(row, ClusterFault::StallAfterTls),
    }
    closed_after_the_login {
        fault: "the login is refused, also with a new string",
        sees: Sees::Access,
        log: &["session refused", "refused the login", "allow finspace:ConnectKxCluster", "kind=\"denied\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::RefuseLogin),
    }
    reset_after_the_login {
        fault: "reset when the login was read",
        sees: Sees::Reset,
        log: &["session refused", "the connection broke during the login", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): opening(row, ClusterFault::ResetAfterLogin),
    }
    stalled_after_the_login {
        fault: "the login is read, and nothing more",
        sees: Sees::Reset,
        log: &["session refused", "nothing within 1 s while logging in", "kind=\"upstream\""],
        recovers: AFTER_A_SECOND,
        test(row): opening(row, ClusterFault::StallAfterLogin),
    }
    the_first_address_is_busy {
        fault: "the first of two addresses accepts and does not answer the login, as a q that computes",
        sees: Sees::Nothing,
        log: &["WARN", "rests: no answer within 0."],
        recovers: "the session goes on to the next address after `failover_after`; the first serves again as soon as it answers",
        test(row): first_is_busy(row, "100ms"),
    }
    the_first_address_does_not_answer_at_all {
        fault: "the same for longer than `connect_timeout`",
        sees: Sees::Nothing,
        log: &["WARN", "rests: ", "nothing within 1 s while logging in"],
        recovers: "hopend asks the address in the background, with growing pauses, and no session waits for it",
        test(row): first_is_busy(row, "2s"),
    }
    old_clients {
        fault: "kdb+ closes on the capability of an old client",
        sees: Sees::Access,
        log: &["session refused", "a client of capability 1", "accepts the login", "Fix: use a client", "kind=\"client\""],
        recovers: "nothing to recover: other clients are served, no address rests, and no login is fetched anew",
        test(row): old_client(row),
    }
}
