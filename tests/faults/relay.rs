//! kdb+ goes away from a session that is open.

use q_ipc::frame::MessageType;
use q_ipc::value::Value;
use simulator::{ClusterFault, Cut, Simulator};

use super::{Case, Row, Sees};
use crate::support::configuration::table;
use crate::support::{Configuration, QClient};

const NEXT: &str = "the next hopen, at once";
const REMEDY: &str = "look for the reason in the log of kdb+ there, and hopen again";
const TOLD: Sees =
    Sees::Error("hopend: the cluster closed the connection with a request outstanding");

/// A handle of the cluster's that has asked what takes long.
async fn waiting(case: &Case) -> QClient {
    let mut handle = case.stage.open("hdb").await;
    handle.send(MessageType::Sync, "system\"sleep 600\"").await;
    case.stage.sim.wait_until(asked).await;
    handle
}

/// Whether a sync request has come to kdb+.
pub fn asked(sim: &Simulator) -> bool {
    sim.connections().iter().any(|c| c.syncs == 1)
}

async fn lost(row: &Row, waits: bool, how: Cut) {
    let case = Case::start().await;
    let mut other = case.stage.open("rdb").await;
    let handle = if waits {
        waiting(&case).await
    } else {
        case.stage.open("hdb").await
    };
    assert_eq!(case.stage.sim.cut("hdb-cluster", how), 1);
    row.saw(Sees::end_of(handle).await);
    row.logged(&case.log).await;
    assert_eq!(other.ask("1+1").await, Ok(Value::Long(2)));
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

/// As under plain q, a handle waits for as long as its client wants to wait.
async fn silent(row: &Row) {
    let case = Case::start().await;
    case.set(ClusterFault::Silent);
    let mut handle = case.stage.open("hdb").await;
    handle.send(MessageType::Async, "a:1").await;
    row.saw(Sees::Nothing);
    drop(handle);
    row.logged(&case.log).await;
    case.stage.sim.faults().clear();
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

async fn leaves_a_ping_unanswered(row: &Row) {
    let keepalive = table([
        ("every", "100ms"),
        ("mode", "sync"),
        ("answer_timeout", "1s"),
    ]);
    let change = |config: Configuration| config.endpoint("hdb", |hdb| hdb.keepalive(keepalive));
    let case = Case::with(change).await;
    case.set(ClusterFault::Silent);
    let mut handle = case.stage.open("hdb").await;
    let pinged = |sim: &Simulator| sim.connections().iter().any(|c| c.bytes_in > 0);
    case.stage.sim.wait_until(pinged).await;
    // Longer than the ping takes: it goes first.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    handle.send(MessageType::Sync, "1+1").await;
    row.saw(Sees::end_of(handle).await);
    row.logged(&case.log).await;
    case.stage.sim.faults().clear();
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

faults! {
    #[tokio::test]
    closed_while_idle {
        fault: "closed between messages, nothing outstanding",
        sees: Sees::End,
        log: &["session ended", "the cluster closed the connection", REMEDY, "kind=\"upstream\""],
        recovers: NEXT,
        test(row): lost(row, false, Cut::Fin),
    }
    reset_while_idle {
        fault: "reset between messages, nothing outstanding",
        sees: Sees::End,
        log: &["session ended", "the cluster closed the connection: Connection reset by peer", REMEDY, "kind=\"upstream\""],
        recovers: NEXT,
        test(row): lost(row, false, Cut::Reset),
    }
    closed_with_a_request_outstanding {
        fault: "closed between messages, a request outstanding",
        sees: TOLD,
        log: &["session ended", "the cluster closed the connection with a request outstanding", REMEDY, "kind=\"upstream\""],
        recovers: NEXT,
        test(row): lost(row, true, Cut::Fin),
    }
    reset_with_a_request_outstanding {
        fault: "reset between messages, a request outstanding",
        sees: TOLD,
        log: &["session ended", "with a request outstanding: Connection reset by peer", REMEDY, "kind=\"upstream\""],
        recovers: NEXT,
        test(row): lost(row, true, Cut::Reset),
    }
    closed_inside_a_message {
        fault: "closed inside a message",
        sees: Sees::Reset,
        log: &["session ended", "the cluster's connection ended inside a message", REMEDY, "kind=\"upstream\""],
        recovers: NEXT,
        test(row): lost(row, true, Cut::InsideFrame),
    }
    reset_inside_a_message {
        fault: "reset inside a message",
        sees: Sees::Reset,
        log: &["session ended", "the cluster's connection ended inside a message", REMEDY, "kind=\"upstream\""],
        recovers: NEXT,
        test(row): lost(row, true, Cut::InsideFrameReset),
    }
    sync_keepalive_unanswered {
        fault: "kdb+ leaves a sync keepalive without an answer while a request of the client waits behind it",
        sees: Sees::Error("hopend: the cluster has not answered a sync keepalive for 1 s while messages of the client waited behind it (answer_timeout)"),
        log: &["session ended", "answer_timeout", "raise answer_timeout of the endpoint's keepalive", "lost_up=1", "kind=\"upstream\""],
        recovers: NEXT,
        test(row): leaves_a_ping_unanswered(row),
    }
    stalled {
        fault: "kdb+ reads nothing and says nothing, its connection stands",
        sees: Sees::Nothing,
        log: &["session ended", "the client closed", "messages_up=1", "kind=\"none\""],
        recovers: "waits as q would; ends seconds after the client closes",
        test(row): silent(row),
    }
}
