//! Credentials kept ready: one keeper a recipe fetches and refreshes, everybody else only reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::schedule::{Demand, Schedule, Step};
use super::{Clock, Credential, Fetch, FetchError, Issued, Recipe, Retry};
use crate::error::ErrorKind;

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
    last_error: Option<Arc<FetchError>>,
}

/// How a credential stands, for people to read.
#[derive(Debug, Clone)]
pub struct State {
    /// What it is.
    pub recipe: Recipe,
    /// How long it may still be used.
    pub left: Option<Duration>,
    /// Successful fetches so far.
    pub fetches: u64,
    /// What the last failed fetch said, if none succeeded since.
    pub last_error: Option<Arc<FetchError>>,
}

impl Credentials {
    /// An empty cache over a source.
    pub fn new(source: Arc<dyn Fetch>, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                entries: Mutex::default(),
                source,
                clock,
                ahead: Semaphore::new(AHEAD_AT_A_TIME),
            }),
            keepers: Arc::default(),
        }
    }

    /// Has the credential fetched now and kept fresh, as it will be asked for.
    pub fn expect(&self, recipe: &Recipe) {
        let entry = self.entry(recipe);
        entry.lock().schedule.expect(self.shared.clock.now());
        entry.wake.notify_one();
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
                match (
                    state.schedule.demand(self.shared.clock.now()),
                    &state.last_error,
                ) {
                    (Demand::Use, _) => {
                        if let Some(issued) = state.issued.clone() {
                            return Ok(issued);
                        }
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
        if state
            .issued
            .as_ref()
            .is_some_and(|issued| issued.generation == generation)
        {
            state.issued = None;
            state.schedule.rejected();
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
                    left: state.schedule.left(now),
                    fetches: state.generation,
                    last_error: state.last_error.clone(),
                }
            })
            .collect()
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
                last_error: None,
            }),
            attempts: watch::Sender::new(0),
            wake: Notify::new(),
            demand: Notify::new(),
        });
        entries.insert(recipe.clone(), Arc::clone(&entry));
        let keeper = keep(Arc::clone(&self.shared), Arc::clone(&entry));
        lock(&self.keepers).spawn(keeper);
        entry
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
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
            if !serving {
                state.issued = None;
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
            // An unused credential still has to leave memory when its life ends.
            Step::Idle if serving => {
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
    let fetched = timeout(FETCH_TIMEOUT, shared.source.fetch(&entry.recipe)).await;
    fetched.unwrap_or_else(|_| {
        Err(FetchError {
            kind: ErrorKind::ControlPlane,
            retry: Retry::Soon,
            message: format!("no {} within {} s", entry.recipe, FETCH_TIMEOUT.as_secs()),
            remedy: "check the way to AWS, or what the login command does".into(),
        })
    })
}

fn settle(shared: &Shared, entry: &Entry, outcome: Result<Credential, FetchError>, serving: bool) {
    let now = shared.clock.now();
    {
        let mut state = entry.lock();
        match outcome {
            Ok(credential) => {
                state
                    .schedule
                    .fetched(now, credential.expires, fastrand::f64());
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
        remedy: "find out why kdb+ refuses the logins; hopend tries again in a few seconds".into(),
    }
}
