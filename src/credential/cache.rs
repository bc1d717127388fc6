//! Credentials kept ready: one keeper a recipe fetches and refreshes, everybody else only reads.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::schedule::{Demand, Expiry, Schedule, Step};
use super::skew::SkewReports;
use super::{CallCount, Clock, Credential, Fetch, FetchError, Issued, Now, Recipe, Retry};
use base::error::ErrorKind;
use finspace::ClockSkew;

/// Fetches ahead of demand that may run at a time; those that somebody waits for are not counted.
const AHEAD_AT_A_TIME: usize = 8;
/// A fetch that takes longer is given up.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// A keeper looks at the wall clock at least this often, as it may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Every credential of this process. Cheap to clone; the keepers end with the last clone.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
    keepers: Arc<Mutex<JoinSet<()>>>,
}

struct Shared {
    entries: Mutex<HashMap<Recipe, Arc<Entry>>>,
    source: Arc<dyn Fetch>,
    clock: Clock,
    ahead: Semaphore,
    skew_reports: SkewReports,
    /// Where the keepers run, whoever asks first.
    runtime: Handle,
}

struct Entry {
    recipe: Recipe,
    state: Mutex<EntryState>,
    /// Counts finished fetches, for those who wait for one.
    attempts: watch::Sender<u64>,
    wake: Notify,
    /// Somebody waits: a fetch that stands behind others need not.
    demand: Notify,
}

struct EntryState {
    schedule: Schedule,
    issued: Option<Issued>,
    generation: u64,
    failures: u64,
    /// The last generation that kdb+ refused.
    refused: u64,
    last_error: Option<Arc<FetchError>>,
    /// There is no use for it any more: it goes as soon as nobody waits for it.
    forgotten: bool,
}

/// What a generation that was handed out is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is what would be handed out.
    Current,
    /// A newer one is, which whoever gives them has granted since.
    Replaced,
    /// kdb+ refused it, or none can be had without asking anew.
    Over,
}

/// How a credential stands, for people to read.
#[derive(Debug, Clone)]
pub struct State {
    /// What it is.
    pub recipe: Recipe,
    /// How long ago it was fetched, while it may be used.
    pub age: Option<Duration>,
    /// How long it may still be used.
    pub left: Option<Duration>,
    /// How long until it is fetched again; `None` while nobody uses it.
    pub refresh: Option<Duration>,
    /// Successful fetches so far.
    pub fetches: u64,
    /// Fetches that failed so far.
    pub failures: u64,
    /// What the last failed fetch said, if none succeeded since.
    pub last_error: Option<Arc<FetchError>>,
}

impl Credentials {
    /// An empty cache over a source. Must be called within a tokio runtime, which it stays with.
    pub fn new(source: Arc<dyn Fetch>, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                entries: Mutex::default(),
                source,
                clock,
                ahead: Semaphore::new(AHEAD_AT_A_TIME),
                skew_reports: SkewReports::default(),
                runtime: Handle::current(),
            }),
            keepers: Arc::default(),
        }
    }

    /// Has the credential fetched now and kept fresh, as it will be asked for.
    pub fn expect(&self, recipe: &Recipe) {
        let entry = self.entry(recipe);
        {
            let mut state = entry.lock();
            state.forgotten = false;
            state.schedule.expect(self.shared.clock.now());
        }
        entry.wake.notify_one();
    }

    /// Whether the credential can be had at once.
    pub fn is_ready(&self, recipe: &Recipe) -> bool {
        let entry = lock(&self.shared.entries).get(recipe).cloned();
        entry.is_some_and(|entry| {
            let state = entry.lock();
            state.issued.is_some() && state.schedule.usable(self.shared.clock.now())
        })
    }

    /// The credential if it can be had at once. This counts as no demand: it is not kept fresh for it.
    pub fn at_hand(&self, recipe: &Recipe) -> Option<Arc<Credential>> {
        let entry = lock(&self.shared.entries).get(recipe).cloned()?;
        let state = entry.lock();
        let issued = state.issued.as_ref();
        let usable = state.schedule.usable(self.shared.clock.now());
        issued
            .filter(|_| usable)
            .map(|issued| Arc::clone(&issued.credential))
    }

    /// Lets go of those that are of no use any more: they leave memory, and are fetched no more
    /// unless somebody asks again.
    pub fn forget(&self, useless: impl Fn(&Recipe) -> bool) {
        let entries: Vec<_> = {
            let entries = lock(&self.shared.entries);
            let useless = entries.values().filter(|entry| useless(&entry.recipe));
            useless.cloned().collect()
        };
        for entry in entries {
            {
                let mut state = entry.lock();
                state.forgotten = true;
                state.issued = None;
                state.schedule.forgotten();
            }
            entry.wake.notify_one();
        }
    }

    /// The credential: at once when one is at hand, else as soon as it is fetched. However many ask,
    /// one fetch is made. Cancel-safe.
    pub async fn obtain(&self, recipe: &Recipe) -> Result<Issued, Arc<FetchError>> {
        let entry = self.entry(recipe);
        let mut attempts = entry.attempts.subscribe();
        let mut waited = false;
        loop {
            attempts.mark_unchanged();
            {
                let mut state = entry.lock();
                state.forgotten = false;
                match (
                    state.schedule.demand(self.shared.clock.now()),
                    &state.last_error,
                ) {
                    (Demand::Use, _) => {
                        if let Some(issued) = state.issued.clone() {
                            return Ok(issued);
                        }
                        state.schedule.rejected();
                        continue;
                    }
                    (Demand::Refuse(_), Some(error)) => return Err(Arc::clone(error)),
                    (_, Some(error)) if waited => return Err(Arc::clone(error)),
                    (Demand::Refuse(_), None) => return Err(Arc::new(rate_limited(recipe))),
                    (Demand::Wait, _) => {}
                }
            }
            entry.wake.notify_one();
            entry.demand.notify_one();
            if attempts.changed().await.is_err() {
                return Err(Arc::new(rate_limited(recipe)));
            }
            waited = true;
        }
    }

    /// kdb+ refused the login: this generation is not handed out again. A newer one stays.
    pub fn reject(&self, recipe: &Recipe, generation: u64) {
        let entry = self.entry(recipe);
        let mut state = entry.lock();
        state.refused = state.refused.max(generation);
        if state
            .issued
            .as_ref()
            .is_some_and(|issued| issued.generation == generation)
        {
            state.issued = None;
            state.schedule.rejected();
        }
    }

    /// What a generation is worth to whoever has logged in with it.
    pub fn standing(&self, recipe: &Recipe, generation: u64) -> Standing {
        let Some(entry) = lock(&self.shared.entries).get(recipe).cloned() else {
            return Standing::Over;
        };
        let state = entry.lock();
        match &state.issued {
            Some(issued) if state.schedule.usable(self.shared.clock.now()) => {
                if generation == issued.generation {
                    Standing::Current
                } else if generation > state.refused {
                    Standing::Replaced
                } else {
                    Standing::Over
                }
            }
            _ => Standing::Over,
        }
    }

    /// How every credential stands.
    pub fn states(&self) -> Vec<State> {
        let now = self.shared.clock.now();
        let entries = lock(&self.shared.entries);
        entries
            .values()
            .map(|entry| {
                let state = entry.lock();
                State {
                    recipe: entry.recipe.clone(),
                    age: state.schedule.age(now),
                    left: state.schedule.left(now),
                    refresh: state.schedule.next(now),
                    fetches: state.generation,
                    failures: state.failures,
                    last_error: state.last_error.clone(),
                }
            })
            .collect()
    }

    /// The calls of AWS that the source has made.
    pub fn calls(&self) -> Vec<CallCount> {
        self.shared.source.calls()
    }

    fn entry(&self, recipe: &Recipe) -> Arc<Entry> {
        let mut entries = lock(&self.shared.entries);
        if let Some(entry) = entries.get(recipe) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            recipe: recipe.clone(),
            state: Mutex::new(EntryState {
                schedule: Schedule::new(self.shared.clock.now()),
                issued: None,
                generation: 0,
                failures: 0,
                refused: 0,
                last_error: None,
                forgotten: false,
            }),
            attempts: watch::Sender::new(0),
            wake: Notify::new(),
            demand: Notify::new(),
        });
        entries.insert(recipe.clone(), Arc::clone(&entry));
        let keeper = keep(Arc::clone(&self.shared), Arc::clone(&entry));
        let mut keepers = lock(&self.keepers);
        while keepers.try_join_next().is_some() {}
        keepers.spawn_on(keeper, &self.shared.runtime);
        entry
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Shared {
    /// Takes an entry out that has been forgotten and that nobody else holds: nobody can wait for
    /// its keeper then.
    fn lets_go(&self, entry: &Arc<Entry>) -> bool {
        let mut entries = lock(&self.entries);
        // Its keeper's and the map's own.
        let goes = entry.lock().forgotten && Arc::strong_count(entry) == 2;
        if goes {
            entries.remove(&entry.recipe);
        }
        goes
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, EntryState> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fetches one credential whenever its schedule says so.
async fn keep(shared: Arc<Shared>, entry: Arc<Entry>) {
    loop {
        let now = shared.clock.now();
        let (step, serving) = {
            let mut state = entry.lock();
            let step = state.schedule.step(now);
            let serving = state.schedule.usable(now);
            // Both go together: a clock that jumps back must not revive what has left memory.
            if !serving && state.issued.take().is_some() {
                state.schedule.rejected();
            }
            (step, serving)
        };
        match step {
            Step::Fetch => {
                let outcome = fetch(&shared, &entry).await;
                settle(&shared, &entry, outcome, serving);
            }
            Step::SleepUntil(at) => {
                let time = at.duration_since(now.wall).unwrap_or_default();
                tokio::select! {
                    () = sleep(time.min(LONGEST_SLEEP)) => {}
                    () = entry.wake.notified() => {}
                }
            }
            Step::Idle if shared.lets_go(&entry) => return,
            // An unused credential still has to leave memory when its life ends, and a forgotten one
            // when those who look at it are through.
            Step::Idle if serving || entry.lock().forgotten => {
                tokio::select! {
                    () = sleep(LONGEST_SLEEP) => {}
                    () = entry.wake.notified() => {}
                }
            }
            Step::Idle => entry.wake.notified().await,
        }
    }
}

/// One fetch. While nobody waits it takes its turn behind others; a demand ends that wait.
async fn fetch(shared: &Shared, entry: &Entry) -> Result<Credential, FetchError> {
    let _turn = tokio::select! {
        biased;
        turn = shared.ahead.acquire() => turn.ok(),
        () = entry.demand.notified() => None,
    };
    // A source that panics fails like any other: the keeper has to go on.
    let fetch = AssertUnwindSafe(shared.source.fetch(&entry.recipe)).catch_unwind();
    let fetched = timeout(FETCH_TIMEOUT, fetch).await;
    let fetched = fetched.map(|fetched| {
        let fetched = fetched.map(|fetched| {
            fetched.and_then(|credential| alive(credential, &entry.recipe, shared.clock.now()))
        });
        fetched.unwrap_or_else(|_| {
            Err(FetchError {
                kind: ErrorKind::Internal,
                retry: Retry::Soon,
                message: format!(
                    "a fault of hopend's own while fetching the {}",
                    entry.recipe
                ),
                remedy: "report it, with the panic in the log".into(),
            })
        })
    });
    fetched.unwrap_or_else(|_| {
        Err(FetchError {
            kind: ErrorKind::ControlPlane,
            retry: Retry::Soon,
            message: format!("no {} within {} s", entry.recipe, FETCH_TIMEOUT.as_secs()),
            remedy: "check the way to AWS, or what the login command does".into(),
        })
    })
}

/// One that is over when it comes would be fetched again and again.
fn alive(credential: Credential, recipe: &Recipe, now: Now) -> Result<Credential, FetchError> {
    let (whose, remedy) = match credential.expiry() {
        Expiry::At(end) if end <= now.wall => (
            "this host's",
            "correct this host's clock (see timedatectl), or the expires that a login command prints",
        ),
        Expiry::After(left) if left.is_zero() => (
            "AWS's",
            "check what answers at endpoint_url and sts_endpoint_url, and whether a proxy changes the \
             Date of answers",
        ),
        Expiry::Unknown | Expiry::At(_) | Expiry::After(_) => return Ok(credential),
    };
    Err(FetchError {
        kind: ErrorKind::Internal,
        retry: Retry::Soon,
        message: format!("the {recipe} came now and is over already by {whose} clock"),
        remedy: remedy.into(),
    })
}

fn settle(shared: &Shared, entry: &Entry, outcome: Result<Credential, FetchError>, serving: bool) {
    let now = shared.clock.now();
    {
        let mut state = entry.lock();
        match outcome {
            Ok(credential) => {
                if let Some(issuer) = credential.issuer_time {
                    let skew = ClockSkew::between(now.wall, issuer.now());
                    shared.skew_reports.take_in(skew);
                }
                state
                    .schedule
                    .fetched(now, credential.expiry(), fastrand::f64());
                state.generation += 1;
                tracing::debug!(
                    recipe = %entry.recipe,
                    generation = state.generation,
                    usable_seconds = state.schedule.left(now).unwrap_or_default().as_secs(),
                    "credential fetched"
                );
                state.issued = Some(Issued {
                    credential: Arc::new(credential),
                    generation: state.generation,
                });
                state.last_error = None;
            }
            Err(error) => {
                state.schedule.failed(now, error.retry, fastrand::f64());
                state.failures += 1;
                tracing::warn!(
                    recipe = %entry.recipe,
                    kind = %error.kind,
                    still_serving = serving,
                    "{error}"
                );
                state.last_error = Some(Arc::new(error));
            }
        }
    }
    entry.attempts.send_modify(|attempts| *attempts += 1);
}

fn rate_limited(recipe: &Recipe) -> FetchError {
    FetchError {
        kind: ErrorKind::ControlPlane,
        retry: Retry::Soon,
        message: format!("{recipe} was fetched too often in the last minute"),
        remedy: "find out why kdb+ refuses the logins: hopend tries again in a few seconds".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use futures_util::future::{BoxFuture, join_all};
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::credential::Now;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A source whose answers take a second each and follow a script, the last of it for ever.
    struct Script {
        outcomes: Mutex<VecDeque<Result<Duration, Retry>>>,
        clock: Clock,
        fetches: AtomicUsize,
    }

    impl Fetch for Script {
        fn fetch<'a>(
            &'a self,
            _recipe: &'a Recipe,
        ) -> BoxFuture<'a, Result<Credential, FetchError>> {
            async {
                sleep(Duration::from_secs(1)).await;
                let number = self.fetches.fetch_add(1, Ordering::Relaxed) + 1;
                let mut outcomes = lock(&self.outcomes);
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

    fn cache(outcomes: &[Result<Duration, Retry>]) -> (Credentials, Arc<Script>, Recipe) {
        let (started, wall) = (Instant::now(), SystemTime::now());
        let clock = Clock::from_fn(move || Now {
            wall: wall + started.elapsed(),
            mono: Instant::now().into_std(),
        });
        let script = Arc::new(Script {
            outcomes: Mutex::new(outcomes.iter().copied().collect()),
            clock: clock.clone(),
            fetches: AtomicUsize::new(0),
        });
        let source: Arc<dyn Fetch> = Arc::<Script>::clone(&script);
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

    fn fetches(script: &Script) -> usize {
        script.fetches.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_demands_on_a_cold_cache_make_one_fetch() {
        let (credentials, script, recipe) = cache(&[Ok(15 * MINUTE)]);
        let issued = join_all((0..1_000).map(|_| credentials.obtain(&recipe))).await;
        assert!(issued.iter().all(|i| i.as_ref().unwrap().generation == 1));
        assert_eq!(fetches(&script), 1);
    }

    /// Over ten hours, once a second, somebody asks for a string that lives 15 minutes: it is there
    /// at once each time, and each is replaced before its end.
    #[tokio::test(start_paused = true)]
    async fn nobody_ever_waits_for_a_refresh() {
        let (credentials, script, recipe) = cache(&[Ok(15 * MINUTE)]);
        credentials.expect(&recipe);
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
        credentials.expect(&recipe);
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
        // Others who had the first one and were refused as well.
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
        let standing = |generation| credentials.standing(&recipe, generation);
        assert_eq!(standing(1), Standing::Over);
        credentials.expect(&recipe);
        sleep(MINUTE).await;
        assert_eq!(standing(1), Standing::Current);
        sleep(13 * MINUTE).await;
        assert_eq!(
            [standing(1), standing(2)],
            [Standing::Replaced, Standing::Current]
        );
        credentials.reject(&recipe, 1);
        assert_eq!(
            [standing(1), standing(2)],
            [Standing::Over, Standing::Current]
        );
        credentials.reject(&recipe, 2);
        assert_eq!([standing(1), standing(2)], [Standing::Over; 2]);
        credentials.obtain(&recipe).await.unwrap();
        assert_eq!(
            [standing(2), standing(3)],
            [Standing::Over, Standing::Current]
        );
        sleep(20 * MINUTE).await;
        assert_eq!(standing(3), Standing::Over, "it has expired");
    }

    #[tokio::test(start_paused = true)]
    async fn each_identity_has_its_own() {
        let (credentials, script, alice) = cache(&[Ok(15 * MINUTE)]);
        let hers = credentials.obtain(&alice).await.unwrap();
        let his = credentials.obtain(&recipe("bob")).await.unwrap();
        assert_ne!(hers.credential.password, his.credential.password);
        assert_eq!(fetches(&script), 2);
        let states = credentials.states();
        assert_eq!(states.len(), 2);
        assert!(states.iter().all(|state| state.left.is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_demand_does_not_stand_behind_fetches_ahead_of_demand() {
        let (credentials, _, _) = cache(&[Ok(15 * MINUTE)]);
        for number in 0..100 {
            credentials.expect(&recipe(&number.to_string()));
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

    /// The clock jumps past the string's end, a fetch fails meanwhile, and the clock is corrected.
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
        let script = Arc::new(Script {
            outcomes: Mutex::new(outcomes.into_iter().collect()),
            clock: clock.clone(),
            fetches: AtomicUsize::new(0),
        });
        let source: Arc<dyn Fetch> = Arc::<Script>::clone(&script);
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
        credentials.expect(&recipe);
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
        let left: Vec<_> = credentials.states().into_iter().map(|s| s.recipe).collect();
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
}
