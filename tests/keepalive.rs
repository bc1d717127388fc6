//! With keepalives, FinSpace's idle limit closes no handle: neither an idle one nor one that waits for a
//! query. Without keepalives, it closes both.

use std::time::{Duration, Instant};

use q_ipc::value::Value;
use simulator::{ConnectionEnd, Options};

use crate::support::Stage;
use crate::support::configuration::table;

/// The time without a byte in either direction after which the simulated FinSpace resets a connection.
const IDLE_LIMIT: Duration = Duration::from_millis(400);

/// The keepalive interval. It is short enough that the pings stay within the limit even on a busy machine.
const EVERY: &str = "100ms";

async fn stage(keepalive: impl Into<toml::Value>) -> Stage {
    let options = Options {
        idle_limit: IDLE_LIMIT,
        ..Options::default()
    };
    let keepalive = keepalive.into();
    Stage::builder()
        .options(options)
        .configure(|config| config.every_kdb_endpoint(|kdb| kdb.keepalive(keepalive.clone())))
        .start()
        .await
}

#[tokio::test]
async fn a_query_that_takes_longer_than_the_idle_limit_returns() {
    let stage = stage(EVERY).await;
    let mut handle = stage.open("hdb").await;
    let start = Instant::now();
    handle.ask("system\"sleep 1.5\"").await.unwrap();
    assert!(start.elapsed() > 3 * IDLE_LIMIT);
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
}

#[tokio::test]
async fn an_idle_handle_outlives_ten_limits() {
    let stage = stage(EVERY).await;
    let mut handle = stage.open("hdb").await;
    let start = Instant::now();
    // The simulator evaluates this condition again at each ping that it receives.
    stage
        .sim
        .wait_until(|sim| {
            let records = sim.connections();
            assert!(records.iter().all(|record| record.ended.is_none()));
            start.elapsed() > 10 * IDLE_LIMIT
        })
        .await;
    let Ok(Value::Long(pings)) = handle.ask("pings[]").await else {
        panic!("no count of pings");
    };
    assert!(pings >= 30, "{pings} pings in ten limits");
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
}

#[tokio::test]
async fn without_keepalives_both_are_lost() {
    let stage = stage("off").await;
    let (mut idle, mut busy) = (stage.open("hdb").await, stage.open("hdb").await);
    let lost = busy.ask("system\"sleep 1.5\"").await.unwrap_err();
    assert!(lost.contains("hopend: the cluster closed"), "{lost}");
    assert!(idle.sees_end().await);
    let ended: Vec<_> = stage.sim.connections().iter().map(|r| r.ended).collect();
    assert_eq!(
        ended,
        [Some(ConnectionEnd::Idle), Some(ConnectionEnd::Idle)]
    );
}

#[tokio::test]
async fn a_sync_ping_is_answered_and_its_answer_kept_from_the_client() {
    let stage = stage(table([
        ("every", EVERY),
        ("message", "1+1"),
        ("mode", "sync"),
    ]))
    .await;
    let mut handle = stage.open("hdb").await;
    stage
        .sim
        .wait_until(|sim| sim.connections().iter().any(|record| record.syncs >= 5))
        .await;
    for number in 0..100 {
        let answer = handle.ask(&format!("{number}+0")).await;
        assert_eq!(answer, Ok(Value::Long(number)));
    }
}
