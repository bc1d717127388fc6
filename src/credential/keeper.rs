//! The keeper of a credential: the task that fetches the credential at the times that its schedule
//! sets.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{sleep, timeout};

use super::cache::{CachedCredential, CredentialCache};
use super::schedule::{Expiry, KeeperStep};
use super::{Credential, FetchError, IssuedCredential, Now, Recipe, Retry};
use base::error::ErrorKind;
use finspace::ClockSkew;

/// The most fetches at the same time for which no session waits. Fetches for which a session waits are
/// not limited.
pub(super) const FETCHES_AHEAD: usize = 8;
/// The longest time for a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause between two readings of the wall clock, because that clock may jump.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Keeps one credential until the cache forgets it.
pub(super) async fn keep(cache: Arc<CredentialCache>, cached: Arc<CachedCredential>) {
    loop {
        let now = cache.clock.now();
        let (step, usable) = {
            let mut state = cached.lock();
            let step = state.schedule.step(now);
            let usable = state.schedule.usable(now);
            // The schedule forgets the credential together with the cache. Otherwise the schedule would
            // call the credential usable again if the clock jumped back.
            if !usable && state.issued.take().is_some() {
                state.schedule.rejected();
            }
            (step, usable)
        };
        match step {
            KeeperStep::Fetch => {
                let outcome = fetch(&cache, &cached).await;
                record(&cache, &cached, outcome, usable);
            }
            KeeperStep::SleepUntil(at) => {
                let time = at.duration_since(now.wall).unwrap_or_default();
                sleep_or_wake(&cached, time.min(LONGEST_SLEEP)).await;
            }
            KeeperStep::Idle if cache.remove_if_forgotten(&cached) => return,
            // The keeper wakes again to wipe an unused credential when it expires, and to remove a
            // forgotten credential when no reader holds it any more.
            KeeperStep::Idle if usable || cached.lock().forgotten => {
                sleep_or_wake(&cached, LONGEST_SLEEP).await;
            }
            KeeperStep::Idle => cached.wake.notified().await,
        }
    }
}

async fn sleep_or_wake(cached: &CachedCredential, time: Duration) {
    tokio::select! {
        () = sleep(time) => {}
        () = cached.wake.notified() => {}
    }
}

/// Fetches the credential once. The fetch queues behind others until a session waits for it.
async fn fetch(
    cache: &CredentialCache,
    cached: &CachedCredential,
) -> Result<Credential, FetchError> {
    let _permit = tokio::select! {
        biased;
        permit = cache.ahead.acquire() => permit.ok(),
        () = cached.demand.notified() => None,
    };
    // A panic of the source counts as a failed fetch, so that the keeper goes on.
    let fetch = AssertUnwindSafe(cache.source.fetch(&cached.recipe)).catch_unwind();
    match timeout(FETCH_TIMEOUT, fetch).await {
        Ok(Ok(fetched)) => {
            fetched.and_then(|credential| check_life(credential, &cached.recipe, cache.clock.now()))
        }
        Ok(Err(_panic)) => Err(FetchError {
            kind: ErrorKind::Internal,
            retry: Retry::Soon,
            message: format!(
                "a fault of hopend's own while fetching the {}",
                cached.recipe
            ),
            remedy: "report it, with the panic in the log".into(),
        }),
        Err(_elapsed) => Err(FetchError {
            kind: ErrorKind::ControlPlane,
            retry: Retry::Soon,
            message: format!("no {} within {} s", cached.recipe, FETCH_TIMEOUT.as_secs()),
            remedy: "check the way to AWS, or what the login command does".into(),
        }),
    }
}

/// Rejects a credential that expired before it arrived. Otherwise the keeper would fetch again without
/// the pauses that follow a failure.
fn check_life(credential: Credential, recipe: &Recipe, now: Now) -> Result<Credential, FetchError> {
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
        message: format!(
            "the {recipe} has expired already by {whose} clock, although it was fetched just now"
        ),
        remedy: remedy.into(),
    })
}

/// Records the outcome of a fetch and wakes the sessions that wait for it. `still_serving` is true if
/// the previous credential can still be used.
fn record(
    cache: &CredentialCache,
    cached: &CachedCredential,
    outcome: Result<Credential, FetchError>,
    still_serving: bool,
) {
    let now = cache.clock.now();
    {
        let mut state = cached.lock();
        match outcome {
            Ok(credential) => {
                if let Some(issuer) = credential.issuer_time {
                    let skew = ClockSkew::between(now.wall, issuer.now());
                    cache.skew_reports.report(skew);
                }
                state
                    .schedule
                    .fetched(now, credential.expiry(), fastrand::f64());
                state.generation += 1;
                tracing::debug!(
                    recipe = %cached.recipe,
                    generation = state.generation,
                    usable_seconds = state.schedule.left(now).unwrap_or_default().as_secs(),
                    "credential fetched"
                );
                state.issued = Some(IssuedCredential {
                    credential: Arc::new(credential),
                    generation: state.generation,
                });
                state.last_error = None;
            }
            Err(error) => {
                state.schedule.failed(now, error.retry, fastrand::f64());
                state.failures += 1;
                tracing::warn!(
                    recipe = %cached.recipe,
                    kind = %error.kind,
                    still_serving,
                    "{error}"
                );
                state.last_error = Some(Arc::new(error));
            }
        }
    }
    cached.attempts.send_modify(|attempts| *attempts += 1);
}
