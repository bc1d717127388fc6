use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::credential::Now;
use crate::credential::keeper::LONGEST_SLEEP;

const MINUTE: Duration = Duration::from_secs(60);

/// A source with scripted outcomes. Each fetch takes a second, and the last outcome repeats for ever.
struct ScriptedFetches {
    outcomes: Mutex<VecDeque<Result<Duration, Retry>>>,
    clock: Clock,
    fetches: AtomicUsize,
}

impl Fetch for ScriptedFetches {
    fn fetch<'a>(&'a self, _recipe: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>> {
        async {
            sleep(Duration::from_secs(1)).await;
            let number = self.fetches.fetch_add(1, Ordering::Relaxed) + 1;
            let mut outcomes = base::mutex::locked(&self.outcomes);
            let outcome = match outcomes.len() {
                0 | 1 => outcomes.front().copied(),
                _ => outcomes.pop_front(),
            };
            match outcome.expect("a script has at least one line") {
                Ok(life) => Ok(Credential {
                    address: None,
                    user: "bob".into(),
                    password: format!("string {number}").into(),
                    expires: Some(self.clock.now().wall + life),
                    valid_for: None,
                    issuer_time: None,
                }),
                Err(retry) => Err(FetchError {
                    kind: ErrorKind::ControlPlane,
                    retry,
                    message: format!("failure {number}"),
                    remedy: "none".into(),
                }),
            }
        }
        .boxed()
    }
}

fn cache(outcomes: &[Result<Duration, Retry>]) -> (Credentials, Arc<ScriptedFetches>, Recipe) {
    let (started, wall) = (Instant::now(), SystemTime::now());
    let clock = Clock::from_fn(move || Now {
        wall: wall + started.elapsed(),
        mono: Instant::now().into_std(),
    });
    let script = Arc::new(ScriptedFetches {
        outcomes: Mutex::new(outcomes.iter().copied().collect()),
        clock: clock.clone(),
        fetches: AtomicUsize::new(0),
    });
    let source: Arc<dyn Fetch> = Arc::<ScriptedFetches>::clone(&script);
    (Credentials::new(source, clock), script, recipe("alice"))
}

fn recipe(user: &str) -> Recipe {
    Recipe::Command {
        command: crate::config::LoginCommand {
            argv: vec!["/bin/login".into()],
            env: Vec::new(),
        },
        endpoint: "rdb".into(),
        local_user: user.into(),
    }
}

fn fetches(script: &ScriptedFetches) -> usize {
    script.fetches.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_demands_on_a_cold_cache_make_one_fetch() {
    let (credentials, script, recipe) = cache(&[Ok(15 * MINUTE)]);
    let issued = join_all((0..1_000).map(|_| credentials.obtain(&recipe))).await;
    assert!(issued.iter().all(|i| i.as_ref().unwrap().generation == 1));
    assert_eq!(fetches(&script), 1);
}

/// For ten hours, once a second, a session asks for a string that lives 15 minutes. It never waits, and
/// each string is replaced before it expires.
#[tokio::test(start_paused = true)]
async fn nobody_ever_waits_for_a_refresh() {
    let (credentials, script, recipe) = cache(&[Ok(15 * MINUTE)]);
    credentials.prefetch(&recipe);
    sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    let mut generation = 0;
    while start.elapsed() < 600 * MINUTE {
        let issued = credentials.obtain(&recipe).now_or_never();
        let issued = issued.expect("a demand had to wait").unwrap();
        let expires = issued.credential.expires.unwrap();
        assert!(script.clock.now().wall < expires);
        generation = generation.max(issued.generation);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        (50..=58).contains(&generation),
        "{generation} strings in ten hours"
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_string_serves_through_two_hours_without_aws_as_long_as_it_lives() {
    let (credentials, _, recipe) = cache(&[Ok(60 * MINUTE), Err(Retry::Soon)]);
    credentials.obtain(&recipe).await.unwrap();
    advance(58 * MINUTE).await;
    credentials.obtain(&recipe).await.unwrap();
    advance(62 * MINUTE).await;
    let error = credentials.obtain(&recipe).await.unwrap_err();
    assert!(error.message.starts_with("failure"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn aws_gone_is_asked_with_growing_pauses_and_found_again() {
    let mut outcomes = vec![Err(Retry::Soon); 40];
    outcomes.push(Ok(60 * MINUTE));
    let (credentials, script, recipe) = cache(&outcomes);
    credentials.prefetch(&recipe);
    sleep(20 * MINUTE).await;
    let tried = fetches(&script);
    assert!((20..=60).contains(&tried), "{tried} tries in 20 minutes");
    sleep(40 * MINUTE).await;
    credentials.obtain(&recipe).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_at_once_to_those_who_ask_again() {
    let (credentials, script, recipe) = cache(&[Err(Retry::Refused)]);
    let first = credentials.obtain(&recipe).await.unwrap_err();
    let again = credentials.obtain(&recipe).now_or_never();
    assert_eq!(again.expect("it had to wait").unwrap_err(), first);
    assert_eq!(fetches(&script), 1);
    sleep(Duration::from_secs(11)).await;
    credentials.obtain(&recipe).await.unwrap_err();
    assert_eq!(fetches(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_drops_its_own_generation_only() {
    let (credentials, script, recipe) = cache(&[Ok(15 * MINUTE)]);
    let first = credentials.obtain(&recipe).await.unwrap();
    credentials.reject(&recipe, first.generation);
    let second = credentials.obtain(&recipe).await.unwrap();
    assert_eq!(second.generation, 2);
    // Other sessions had the first string and were refused, too.
    credentials.reject(&recipe, first.generation);
    assert_eq!(credentials.obtain(&recipe).await.unwrap().generation, 2);
    assert_eq!(fetches(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn a_generation_stands_until_it_is_refused_or_none_can_be_had() {
    let (credentials, _, recipe) = cache(&[
        Ok(15 * MINUTE),
        Ok(15 * MINUTE),
        Ok(15 * MINUTE),
        Err(Retry::Refused),
    ]);
    let status = |generation| credentials.generation_status(&recipe, generation);
    assert_eq!(status(1), GenerationStatus::Invalid);
    credentials.prefetch(&recipe);
    sleep(MINUTE).await;
    assert_eq!(status(1), GenerationStatus::Current);
    sleep(13 * MINUTE).await;
    assert_eq!(
        [status(1), status(2)],
        [GenerationStatus::Replaced, GenerationStatus::Current]
    );
    credentials.reject(&recipe, 1);
    assert_eq!(
        [status(1), status(2)],
        [GenerationStatus::Invalid, GenerationStatus::Current]
    );
    credentials.reject(&recipe, 2);
    assert_eq!([status(1), status(2)], [GenerationStatus::Invalid; 2]);
    credentials.obtain(&recipe).await.unwrap();
    assert_eq!(
        [status(2), status(3)],
        [GenerationStatus::Invalid, GenerationStatus::Current]
    );
    sleep(20 * MINUTE).await;
    assert_eq!(status(3), GenerationStatus::Invalid, "it has expired");
}

#[tokio::test(start_paused = true)]
async fn each_identity_has_its_own() {
    let (credentials, script, alice) = cache(&[Ok(15 * MINUTE)]);
    let hers = credentials.obtain(&alice).await.unwrap();
    let his = credentials.obtain(&recipe("bob")).await.unwrap();
    assert_ne!(hers.credential.password, his.credential.password);
    assert_eq!(fetches(&script), 2);
    let states = credentials.statuses();
    assert_eq!(states.len(), 2);
    assert!(states.iter().all(|state| state.left.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_demand_does_not_stand_behind_fetches_ahead_of_demand() {
    let (credentials, _, _) = cache(&[Ok(15 * MINUTE)]);
    for number in 0..100 {
        credentials.prefetch(&recipe(&number.to_string()));
    }
    tokio::task::yield_now().await;
    let start = Instant::now();
    credentials.obtain(&recipe("99")).await.unwrap();
    assert!(
        start.elapsed() <= 2 * Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

/// The clock jumps past the string's expiry, a fetch fails meanwhile, and the clock is corrected.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumped_and_came_back_leaves_nobody_waiting() {
    let (started, wall) = (Instant::now(), SystemTime::now());
    let ahead = Arc::new(AtomicUsize::new(0));
    let minutes = Arc::clone(&ahead);
    let clock = Clock::from_fn(move || Now {
        wall: wall
            + started.elapsed()
            + MINUTE * u32::try_from(minutes.load(Ordering::Relaxed)).unwrap(),
        mono: Instant::now().into_std(),
    });
    let outcomes = [Ok(60 * MINUTE), Err(Retry::Refused), Ok(60 * MINUTE)];
    let script = Arc::new(ScriptedFetches {
        outcomes: Mutex::new(outcomes.into_iter().collect()),
        clock: clock.clone(),
        fetches: AtomicUsize::new(0),
    });
    let source: Arc<dyn Fetch> = Arc::<ScriptedFetches>::clone(&script);
    let (credentials, recipe) = (Credentials::new(source, clock), recipe("alice"));
    credentials.obtain(&recipe).await.unwrap();
    ahead.store(120, Ordering::Relaxed);
    sleep(LONGEST_SLEEP + Duration::from_secs(5)).await;
    assert_eq!(fetches(&script), 2, "the keeper noticed");
    ahead.store(0, Ordering::Relaxed);
    let answered = timeout(Duration::from_secs(5), credentials.obtain(&recipe)).await;
    answered.expect("a demand waits for ever").unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_keepers_end_with_the_cache() {
    let (credentials, script, recipe) = cache(&[Ok(15 * MINUTE)]);
    credentials.prefetch(&recipe);
    sleep(2 * MINUTE).await;
    drop(credentials);
    sleep(60 * MINUTE).await;
    assert_eq!(fetches(&script), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_leaves_memory_and_is_fetched_no_more() {
    let (credentials, script, alice) = cache(&[Ok(15 * MINUTE)]);
    let bob = recipe("bob");
    credentials.obtain(&alice).await.unwrap();
    credentials.obtain(&bob).await.unwrap();
    credentials.forget(|recipe| *recipe == alice);
    assert!(!credentials.is_ready(&alice) && credentials.is_ready(&bob));
    sleep(LONGEST_SLEEP).await;
    let left: Vec<_> = credentials
        .statuses()
        .into_iter()
        .map(|s| s.recipe)
        .collect();
    assert_eq!(left, [bob]);
    sleep(14 * MINUTE).await;
    assert_eq!(fetches(&script), 3, "only the other one was refreshed");
    credentials.obtain(&alice).await.unwrap();
    assert!(credentials.is_ready(&alice), "it can be asked for again");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_is_forgotten_gets_it_all_the_same() {
    let (credentials, _, alice) = cache(&[Ok(15 * MINUTE)]);
    let mut waiting = Box::pin(credentials.obtain(&alice));
    assert!(waiting.as_mut().now_or_never().is_none());
    credentials.forget(|_| true);
    let limit = Duration::from_secs(5);
    timeout(limit, waiting).await.expect("it waits").unwrap();
}
