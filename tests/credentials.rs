//! Credentials are ready before they are asked for, one fetch serves all, and a refused login is
//! fetched anew, once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use q_ipc::value::Value;
use simulator::{ApiFault, ClusterFault, Options, Simulator, Times};

use crate::support::qclient::Refused;
use crate::support::{Configuration, Log, QClient, Stage, account};

/// A simulator whose first calls take a second, so that they are under way when everybody comes.
async fn slow_to_answer() -> Stage {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let slow = ApiFault::Delay(Duration::from_secs(1));
    sim.faults().api("AssumeRole", slow, Times::Always);
    Stage::builder()
        .simulator(sim)
        .configure(only_hdb_of_one_user)
        .start()
        .await
}

/// The first endpoint and the first user only: one credential in all.
pub fn only_hdb_of_one_user(config: Configuration) -> Configuration {
    config
        .only_endpoints(&["hdb"])
        .only_users(&[&account()])
        .daemon(|daemon| daemon.control("off"))
}

#[tokio::test]
async fn a_thousand_hopens_on_a_cold_cache_make_one_assume_role_and_one_connection_string() {
    let stage = slow_to_answer().await;
    let address = stage.address("hdb");
    let opened = join_all((0..1_000).map(|_| QClient::open(address, "", ""))).await;
    let failed: Vec<_> = opened.iter().filter_map(|o| o.as_ref().err()).collect();
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed[0]
    );
    for operation in ["GetKxUser", "AssumeRole", "GetKxConnectionString"] {
        assert_eq!(stage.sim.calls(operation), 1, "{operation}");
    }
    assert_eq!(stage.sim.live("hdb-cluster"), 1_000);
}

#[tokio::test]
async fn fetched_ahead_for_every_user_and_endpoint_that_can_be_told_apart() {
    let stage = Stage::start().await;
    // Two users, two FinSpace endpoints.
    stage.sim.wait_for_calls("GetKxConnectionString", 4).await;
    let slow = ApiFault::Hang;
    stage.sim.faults().api("*", slow, Times::Always);
    while stage
        .app
        .services()
        .credentials
        .statuses()
        .iter()
        .any(|state| state.left.is_none())
    {
        tokio::task::yield_now().await;
    }
    let mut handle = stage.open("hdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    let who: Vec<_> = stage
        .sim
        .assumed()
        .into_iter()
        .map(|call| (call.session_name, call.source_identity))
        .collect();
    let account = crate::support::account();
    assert!(who.contains(&(account.clone(), Some(account))), "{who:?}");
    assert!(
        who.contains(&("alice".into(), Some("alice".into()))),
        "{who:?}"
    );
}

#[tokio::test]
async fn a_refused_login_is_fetched_anew_and_tried_once_more() {
    let stage = Stage::start().await;
    stage.open("hdb").await;
    let before = stage.sim.calls("GetKxConnectionString");
    stage
        .sim
        .faults()
        .cluster("hdb-cluster", ClusterFault::RefuseLogin, Times::Next(1));
    let mut handle = stage.open("hdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    assert_eq!(stage.sim.calls("GetKxConnectionString"), before + 1);
}

#[tokio::test]
async fn a_login_refused_twice_is_an_access_error() {
    let stage = Stage::start().await;
    let mut live = stage.open("hdb").await;
    stage
        .sim
        .faults()
        .cluster("hdb-cluster", ClusterFault::RefuseLogin, Times::Always);
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Access)));
    assert_eq!(
        live.ask("1+1").await,
        Ok(Value::Long(2)),
        "live sessions stay"
    );
}

#[tokio::test]
async fn strings_of_a_second_are_replaced_again_and_again() {
    let options = Options {
        string_life: Duration::from_secs(4),
        ..Options::default()
    };
    let stage = Stage::builder()
        .options(options)
        .configure(only_hdb_of_one_user)
        .start()
        .await;
    stage.open("hdb").await;
    let first = stage.sim.calls("GetKxConnectionString");
    stage
        .sim
        .wait_for_calls("GetKxConnectionString", first + 2)
        .await;
    let start = Instant::now();
    stage.open("hdb").await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(stage.sim.refusals(), Vec::<String>::new());
}

/// The signatures of the first calls are refused; the SDK signs anew by the time that the refusal told.
#[tokio::test]
async fn a_clock_that_is_off_by_an_hour_stops_no_hopen_and_makes_no_string_live_longer() {
    for (offset, told) in [
        (-3_660, "61 min ahead of AWS's"),
        (3_660, "min behind AWS's"),
    ] {
        let (log, _guard) = Log::capture();
        let shift = Duration::from_secs(3_660);
        let options = Options {
            clock: Arc::new(move || match offset {
                0.. => SystemTime::now() + shift,
                _ => SystemTime::now() - shift,
            }),
            ..Options::default()
        };
        let sim = Simulator::start(options).await.unwrap();
        let stage = Stage::builder()
            .simulator(sim)
            .configure(only_hdb_of_one_user)
            .start()
            .await;
        let mut handle = stage.open("hdb").await;
        assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)), "{told}");
        log.line_with(&["WARN", told, "Fix: set this host's clock"])
            .await;
        let states = stage.app.services().credentials.statuses();
        let left = states[0].left.unwrap();
        let life = Duration::from_secs(15 * 60);
        assert!(left > life / 2 && left <= life, "{told}: {left:?}");
    }
}
