//! The cache of credentials. A keeper fetches and refreshes each credential; everybody else only reads it.

use base::mutex::locked;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use super::keeper::{self, FETCHES_AHEAD};
use super::schedule::{Demand, Schedule};
use super::skew::SkewReports;
use super::{CallCount, Clock, Credential, Fetch, FetchError, IssuedCredential, Recipe, Retry};
use base::error::ErrorKind;

/// All credentials of this process. Cheap to clone. The keepers end when the last clone is dropped.
#[derive(Clone)]
pub struct Credentials {
    cache: Arc<CredentialCache>,
    keepers: Arc<Mutex<JoinSet<()>>>,
}

/// The state that the readers and the keepers of all credentials share.
pub(super) struct CredentialCache {
    credentials: Mutex<HashMap<Recipe, Arc<CachedCredential>>>,
    pub(super) source: Arc<dyn Fetch>,
    pub(super) clock: Clock,
    /// Limits the fetches for which no session waits.
    pub(super) ahead: Semaphore,
    pub(super) skew_reports: SkewReports,
    /// The runtime of all keepers.
    runtime: Handle,
}

/// One recipe's credential. Before the first fetch it holds none.
pub(super) struct CachedCredential {
    pub(super) recipe: Recipe,
    state: Mutex<CredentialState>,
    /// The number of finished fetches. Sessions that wait for a fetch watch it.
    pub(super) attempts: watch::Sender<u64>,
    /// Wakes the keeper, as the schedule may have changed.
    pub(super) wake: Notify,
    /// Tells a fetch that a session waits: it need not queue behind others.
    pub(super) demand: Notify,
}

pub(super) struct CredentialState {
    pub(super) schedule: Schedule,
    pub(super) issued: Option<IssuedCredential>,
    /// The number of fetches that succeeded.
    pub(super) generation: u64,
    /// The number of fetches that failed.
    pub(super) failures: u64,
    /// The last generation that kdb+ refused. 0 if it refused none.
    refused: u64,
    pub(super) last_error: Option<Arc<FetchError>>,
    /// Nobody needs the credential any more. It is removed when nobody waits for it.
    pub(super) forgotten: bool,
}

/// Whether a generation of a credential is still valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationStatus {
    /// It is the generation in the cache.
    Current,
    /// The cache holds a newer generation. kdb+ has not refused this one.
    Replaced,
    /// kdb+ refused it, or the cache holds no credential that can be used.
    Invalid,
}

/// A credential in the cache, for people to read.
#[derive(Debug, Clone)]
pub struct CredentialStatus {
    /// The key of the credential.
    pub recipe: Recipe,
    /// The time since the fetch. `None` if the credential cannot be used.
    pub age: Option<Duration>,
    /// The time for which the credential can still be used. `None` if it cannot.
    pub left: Option<Duration>,
    /// The time until the next fetch. `None` while nobody uses the credential.
    pub refresh: Option<Duration>,
    /// The fetches that succeeded.
    pub fetches: u64,
    /// The fetches that failed.
    pub failures: u64,
    /// The error of the last fetch. `None` if it succeeded.
    pub last_error: Option<Arc<FetchError>>,
}

impl Credentials {
    /// An empty cache. Call it within a tokio runtime: all keepers run on that one.
    pub fn new(source: Arc<dyn Fetch>, clock: Clock) -> Self {
        Self {
            cache: Arc::new(CredentialCache {
                credentials: Mutex::default(),
                source,
                clock,
                ahead: Semaphore::new(FETCHES_AHEAD),
                skew_reports: SkewReports::default(),
                runtime: Handle::current(),
            }),
            keepers: Arc::default(),
        }
    }

    /// Fetches the credential now and keeps it fresh, as sessions will need it.
    pub fn prefetch(&self, recipe: &Recipe) {
        let cached = self.find_or_add(recipe);
        {
            let mut state = cached.lock();
            state.forgotten = false;
            state.schedule.expect(self.cache.clock.now());
        }
        cached.wake.notify_one();
    }

    /// Whether [`Self::obtain`] would return the credential at once.
    pub fn is_ready(&self, recipe: &Recipe) -> bool {
        self.cached(recipe).is_some()
    }

    /// The credential, if the cache holds one that can be used. Unlike [`Self::obtain`], this does not keep
    /// the credential fresh.
    pub fn cached(&self, recipe: &Recipe) -> Option<Arc<Credential>> {
        let cached = self.find(recipe)?;
        let state = cached.lock();
        let usable = state.schedule.usable(self.cache.clock.now());
        let issued = state.issued.as_ref().filter(|_| usable);
        issued.map(|issued| Arc::clone(&issued.credential))
    }

    /// Wipes the credentials that nobody needs any more, and stops fetching them. A later
    /// [`Self::obtain`] fetches such a credential again.
    pub fn forget(&self, is_unneeded: impl Fn(&Recipe) -> bool) {
        let unneeded: Vec<_> = {
            let credentials = locked(&self.cache.credentials);
            let unneeded = credentials
                .values()
                .filter(|cached| is_unneeded(&cached.recipe));
            unneeded.cloned().collect()
        };
        for cached in unneeded {
            {
                let mut state = cached.lock();
                state.forgotten = true;
                state.issued = None;
                state.schedule.forgotten();
            }
            cached.wake.notify_one();
        }
    }

    /// Returns the credential: at once if the cache holds it, or as soon as it is fetched. Any number of
    /// callers wait for one fetch. Cancel-safe.
    ///
    /// # Errors
    /// The fetch failed, or the last one failed a short time ago.
    pub async fn obtain(&self, recipe: &Recipe) -> Result<IssuedCredential, Arc<FetchError>> {
        let cached = self.find_or_add(recipe);
        let mut attempts = cached.attempts.subscribe();
        let mut has_waited = false;
        loop {
            attempts.mark_unchanged();
            {
                let mut state = cached.lock();
                state.forgotten = false;
                match (
                    state.schedule.demand(self.cache.clock.now()),
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
                    (_, Some(error)) if has_waited => return Err(Arc::clone(error)),
                    (Demand::Refuse(_), None) => return Err(Arc::new(rate_limited(recipe))),
                    (Demand::Wait, _) => {}
                }
            }
            cached.wake.notify_one();
            cached.demand.notify_one();
            if attempts.changed().await.is_err() {
                return Err(Arc::new(rate_limited(recipe)));
            }
            has_waited = true;
        }
    }

    /// Reports that kdb+ refused the login of this generation. The cache does not return it again, and keeps
    /// a newer one.
    pub fn reject(&self, recipe: &Recipe, generation: u64) {
        let cached = self.find_or_add(recipe);
        let mut state = cached.lock();
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

    /// Whether a generation with which a connection has logged in is still valid.
    pub fn generation_status(&self, recipe: &Recipe, generation: u64) -> GenerationStatus {
        let Some(cached) = self.find(recipe) else {
            return GenerationStatus::Invalid;
        };
        let state = cached.lock();
        match &state.issued {
            Some(issued) if state.schedule.usable(self.cache.clock.now()) => {
                if generation == issued.generation {
                    GenerationStatus::Current
                } else if generation > state.refused {
                    GenerationStatus::Replaced
                } else {
                    GenerationStatus::Invalid
                }
            }
            _ => GenerationStatus::Invalid,
        }
    }

    /// The status of every credential, in no order.
    pub fn statuses(&self) -> Vec<CredentialStatus> {
        let now = self.cache.clock.now();
        let credentials = locked(&self.cache.credentials);
        credentials
            .values()
            .map(|cached| {
                let state = cached.lock();
                CredentialStatus {
                    recipe: cached.recipe.clone(),
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

    /// The number of calls to AWS so far, by kind.
    pub fn calls(&self) -> Vec<CallCount> {
        self.cache.source.calls()
    }

    fn find(&self, recipe: &Recipe) -> Option<Arc<CachedCredential>> {
        locked(&self.cache.credentials).get(recipe).cloned()
    }

    /// The credential of this recipe. If the cache does not know the recipe yet, starts a keeper for it.
    fn find_or_add(&self, recipe: &Recipe) -> Arc<CachedCredential> {
        let mut credentials = locked(&self.cache.credentials);
        if let Some(cached) = credentials.get(recipe) {
            return Arc::clone(cached);
        }
        let cached = Arc::new(CachedCredential {
            recipe: recipe.clone(),
            state: Mutex::new(CredentialState {
                schedule: Schedule::new(self.cache.clock.now()),
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
        credentials.insert(recipe.clone(), Arc::clone(&cached));
        let keeper = keeper::keep(Arc::clone(&self.cache), Arc::clone(&cached));
        let mut keepers = locked(&self.keepers);
        while keepers.try_join_next().is_some() {}
        keepers.spawn_on(keeper, &self.cache.runtime);
        cached
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl CredentialCache {
    /// Removes a forgotten credential if only its keeper holds it: then nobody waits for a fetch. Returns
    /// whether it did.
    pub(super) fn remove_if_forgotten(&self, cached: &Arc<CachedCredential>) -> bool {
        let mut credentials = locked(&self.credentials);
        // Two references: the keeper's and the map's.
        let removable = cached.lock().forgotten && Arc::strong_count(cached) == 2;
        if removable {
            credentials.remove(&cached.recipe);
        }
        removable
    }
}

impl CachedCredential {
    pub(super) fn lock(&self) -> MutexGuard<'_, CredentialState> {
        locked(&self.state)
    }
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
#[path = "cache_tests.rs"]
mod tests;
