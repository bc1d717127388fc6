//! AWS does not give what is asked for, with strings that live and then without; and clocks jump.
//! Time is the test's own: nobody waits for it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use finspace::environment::Environment;
use finspace::{CallLimits, Cluster, Node};
use futures_util::future::{BoxFuture, FutureExt};
use hopend::credential::Discover;
use hopend::credential::{Clock, Credential, Fetch, FetchError, Now, Recipe, Sources};
use q_ipc::value::Value;
use simulator::{ApiFault, Faults, Options, Simulator, Times};

use super::{Case, Row, Sees};
use crate::credentials::only_hdb_of_one_user;
use crate::support::{Log, Stage};

const MINUTE: Duration = Duration::from_secs(60);
/// As often as a string's life ends within two hours.
const ROUNDS: u32 = 8;
const IN_A_MINUTE: &str = "live strings serve to their end, live sessions stay; the first hopen \
                           within a minute of AWS's return";

/// What time it is for a test's daemon.
#[derive(Clone, Default)]
struct Time(Arc<Mutex<Offsets>>);

#[derive(Default)]
struct Offsets {
    /// What has passed, by every clock.
    passed: Duration,
    /// How far ahead the daemon's wall clock is besides, in seconds.
    wall: i64,
}

impl Time {
    fn pass(&self, time: Duration) {
        self.0.lock().unwrap().passed += time;
    }

    fn set_wall(&self, ahead: i64) {
        self.0.lock().unwrap().wall = ahead;
    }

    fn passed(&self) -> Duration {
        self.0.lock().unwrap().passed
    }

    fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::from_fn(move || {
            let offsets = time.0.lock().unwrap();
            let jump = Duration::from_secs(offsets.wall.unsigned_abs());
            let wall = SystemTime::now() + offsets.passed;
            Now {
                wall: if offsets.wall < 0 {
                    wall - jump
                } else {
                    wall + jump
                },
                mono: Instant::now() + offsets.passed,
            }
        })
    }
}

/// The real sources against the simulator, whose clock stands: what they bring lives as long as it
/// would have lived in the time that has passed.
struct Passing {
    sources: Sources,
    time: Time,
}

impl Fetch for Passing {
    fn fetch<'a>(&'a self, recipe: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>> {
        async move {
            let mut credential = self.sources.fetch(recipe).await?;
            credential.expires = credential.expires.map(|at| at + self.time.passed());
            Ok(credential)
        }
        .boxed()
    }
}

impl Discover for Passing {
    fn clusters<'a>(
        &'a self,
        environment: &'a Arc<Environment>,
    ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>> {
        self.sources.clusters(environment)
    }

    fn nodes<'a>(
        &'a self,
        environment: &'a Arc<Environment>,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Node>, FetchError>> {
        self.sources.nodes(environment, cluster)
    }

    fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>> {
        self.sources.zone()
    }
}

/// One endpoint and one user, its string at hand.
async fn with_a_string(time: &Time) -> Case {
    with_a_string_of(time, Sources::default()).await
}

async fn with_a_string_of(time: &Time, sources: Sources) -> Case {
    let (log, guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    let source = Arc::new(Passing {
        sources,
        time: time.clone(),
    });
    let stage = Stage::builder()
        .simulator(sim)
        .configure(only_hdb_of_one_user)
        .in_time(source, time.clock())
        .start()
        .await;
    log.line_with(&["credential fetched", "hdb-cluster"]).await;
    Case::of(stage, log, guard)
}

/// Has the keepers look at the clock now.
fn look_at_the_clock(case: &Case) {
    let credentials = &case.stage.app.services().credentials;
    for state in credentials.statuses() {
        credentials.prefetch(&state.recipe);
    }
}

/// With a live string, and for two hours without.
async fn aws(row: &Row, set: impl FnOnce(&Faults)) {
    aws_by(row, set, Sources::default()).await;
}

async fn aws_by(row: &Row, set: impl FnOnce(&Faults), sources: Sources) {
    let time = Time::default();
    let case = with_a_string_of(&time, sources).await;
    let mut live = case.stage.open("hdb").await;
    set(case.stage.sim.faults());
    time.pass(12 * MINUTE);
    look_at_the_clock(&case);
    case.log.line_with(&["still_serving=true"]).await;
    assert_eq!(case.hopen().await, Sees::Nothing, "the string still lives");
    time.pass(3 * MINUTE);
    row.saw(case.hopen().await);
    row.logged(&case.log).await;
    for _ in 0..ROUNDS {
        time.pass(15 * MINUTE);
        row.saw(case.hopen().await);
    }
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    case.stage.sim.faults().clear();
    time.pass(MINUTE);
    let before = case.stage.sim.calls("GetKxConnectionString");
    assert_eq!(case.hopen().await, Sees::Nothing);
    assert_eq!(case.stage.sim.calls("GetKxConnectionString"), before + 1);
    case.end();
}

/// Who waits a second for an answer and not for three times five.
fn impatient() -> Sources {
    Sources::with_limits(CallLimits {
        attempts: 1,
        attempt_timeout: Duration::from_secs(1),
        call_timeout: Duration::from_secs(1),
    })
}

/// Each call fails so.
fn each(fault: ApiFault) -> impl FnOnce(&Faults) {
    move |faults| faults.api("*", fault, Times::Always)
}

fn internal() -> ApiFault {
    ApiFault::Error {
        status: 500,
        code: "InternalServerException".into(),
        message: "try again".into(),
    }
}

/// Fetched in time, though each call takes its time.
async fn slow(row: &Row) {
    let time = Time::default();
    let case = with_a_string(&time).await;
    each(ApiFault::Delay(Duration::from_secs(1)))(case.stage.sim.faults());
    time.pass(12 * MINUTE);
    look_at_the_clock(&case);
    row.saw(case.hopen().await);
    row.logged(&case.log).await;
    case.end();
}

/// The sessions that signed the strings are over, and the strings with them.
async fn sessions_ended(row: &Row) {
    let case = with_a_string(&Time::default()).await;
    let mut live = case.stage.open("hdb").await;
    case.stage.sim.end_sessions();
    row.saw(case.hopen().await);
    row.logged(&case.log).await;
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    case.end();
}

/// The daemon's clock jumps by an hour and is corrected.
async fn clock(row: &Row, seconds: i64) {
    let time = Time::default();
    let case = with_a_string(&time).await;
    let mut live = case.stage.open("hdb").await;
    time.set_wall(seconds);
    look_at_the_clock(&case);
    row.logged(&case.log).await;
    row.saw(case.hopen().await);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    time.set_wall(0);
    // What the limiter may ask for, by the clock that only runs forward.
    time.pass(MINUTE);
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

faults! {
    #[tokio::test]
    slow_answers {
        fault: "each call takes a second",
        sees: Sees::Nothing,
        log: &["credential fetched", "generation=2"],
        recovers: "nothing to recover: strings are fetched ahead of their end",
        test(row): slow(row),
    }
    internal_errors {
        fault: "500 for two hours",
        sees: Sees::Reset,
        log: &["session refused", "InternalServerException", "kind=\"control-plane\""],
        recovers: IN_A_MINUTE,
        test(row): aws(row, each(internal())),
    }
    throttled {
        fault: "throttled for two hours",
        sees: Sees::Reset,
        log: &["session refused", "Throttling", "kind=\"control-plane\""],
        recovers: IN_A_MINUTE,
        test(row): aws(row, each(ApiFault::Throttle)),
    }
    denied {
        fault: "denied for two hours",
        sees: Sees::Access,
        log: &["session refused", "AccessDenied", "allow ", "kind=\"denied\""],
        recovers: IN_A_MINUTE,
        test(row): aws(row, |faults| faults.deny("*", "sts:*", "*")),
    }
    garbage {
        fault: "200 with a body that means nothing, for two hours",
        sees: Sees::Reset,
        log: &["session refused", "kind=\"control-plane\""],
        recovers: IN_A_MINUTE,
        test(row): aws(row, each(ApiFault::Garbage)),
    }
    gone {
        fault: "each connection reset for two hours",
        sees: Sees::Reset,
        log: &["session refused", "kind=\"control-plane\""],
        recovers: IN_A_MINUTE,
        test(row): aws(row, each(ApiFault::Close)),
    }
    silent {
        fault: "connections stand and no call is ever answered, for two hours",
        sees: Sees::Reset,
        log: &["session refused", "timeout", "kind=\"control-plane\""],
        recovers: IN_A_MINUTE,
        test(row): aws_by(row, each(ApiFault::Hang), impatient()),
    }
    the_signing_session_ended {
        fault: "the STS session that signed a live string is ended early",
        sees: Sees::Nothing,
        log: &["kdb+ refused the login: fetching it anew", "generation=1"],
        recovers: "within the same hopen: one fetch, one more login",
        test(row): sessions_ended(row),
    }
    the_clock_jumps_ahead {
        fault: "this host's clock jumps an hour ahead",
        sees: Sees::Nothing,
        log: &["this host's clock is 60 min ahead of AWS's", "Fix: set this host's clock"],
        recovers: "nothing to recover: strings are fetched anew and live as long as AWS's clock says; live sessions stay",
        test(row): clock(row, 3_600),
    }
    the_clock_jumps_back {
        fault: "this host's clock jumps an hour back",
        sees: Sees::Nothing,
        log: &["credential fetched", "generation=2"],
        recovers: "at once: a string whose end means nothing any more is replaced; live sessions stay",
        test(row): clock(row, -3_600),
    }
}
