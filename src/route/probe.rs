//! Probes ask addresses that rest, in the background, whether they work again. So no session waits for
//! an address that may still be down.
//!
//! - An address has one probe at a time, and an endpoint has at most [`CONCURRENT_PROBES`].
//! - A probe presents the login of the session that failed: the endpoint's own, or that user's if the
//!   cache has it. A probe never fetches a login. If clients bring the login, hopend has no login to
//!   present. The probe then only connects, with TCP and TLS, and after that a single session tries to
//!   log in.
//! - Probes end when any login succeeds at the address, and when the endpoint is no longer served.

use base::mutex::locked;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Semaphore;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::OpenError;
use super::attempt::{LoginAttempt, PooledTarget};
use super::context::DialContext;
use super::dialer::close_in_order;
use super::health::FailureScope;
use crate::upstream::UpstreamError;
use base::error::chain;
use base::kdb_address::KdbAddress;
use q_ipc::handshake::Hello;

/// How many probes of one endpoint may dial at a time.
const CONCURRENT_PROBES: usize = 4;

/// Probes the addresses of one endpoint.
pub(super) struct Prober {
    /// Ends all probes.
    closing: CancellationToken,
    tasks: TaskTracker,
    permits: Semaphore,
    /// The names of the addresses that have a probe.
    probed: Mutex<HashSet<String>>,
}

/// How to probe an address.
pub(super) enum ProbePlan {
    /// Log in with the endpoint's own login.
    LogInAsEndpoint(KdbAddress, Hello),
    /// Log in with the login of the user whose session failed.
    LogInAsUser(KdbAddress, Hello),
    /// Connect and do not log in.
    Connect(KdbAddress),
    /// Do nothing, because hopend knows no login, and the address is part of the login.
    Skip,
}

/// The result of a probe.
enum ProbeOutcome {
    /// The address accepts logins.
    Accepts,
    /// The address may work. The next session finds out whether it accepts logins.
    MayWork,
    /// The address does not answer, or refuses the login that all users share.
    Fails(OpenError),
}

impl Prober {
    /// A prober without probes. `closing` ends them.
    pub(super) fn new(closing: CancellationToken) -> Self {
        Self {
            closing,
            tasks: TaskTracker::new(),
            permits: Semaphore::new(CONCURRENT_PROBES),
            probed: Mutex::default(),
        }
    }

    /// Probes `address` until it accepts a login. The session of `context` has failed there.
    pub(super) fn watch<T: PooledTarget>(
        &self,
        target: &Arc<T>,
        address: &str,
        context: &Arc<DialContext>,
    ) {
        if let Some(probed) = self.begin(target, address) {
            target.pool().probing_began(address);
            self.spawn(probe_until_it_works(probed, Arc::clone(context)));
        }
    }

    /// Continues an attempt whose session has found another address. The attempt becomes the first probe
    /// of its address, unless that address has a probe already.
    pub(super) fn take_over<T: PooledTarget>(
        &self,
        target: &Arc<T>,
        attempt: LoginAttempt,
        context: &Arc<DialContext>,
    ) {
        let Some(probed) = self.begin(target, &attempt.address) else {
            return;
        };
        let context = Arc::clone(context);
        self.spawn(async move {
            match attempt.await.connection() {
                Some(connection) => close_in_order(connection.upstream.stream).await,
                None => {
                    probed.target.pool().probing_began(&probed.address);
                    probe_until_it_works(probed, context).await;
                }
            }
        });
    }

    /// Waits until all probes have ended, once the endpoint is no longer served.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many addresses have a probe.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.probed().len()
    }

    /// `None` if the address has a probe already, or if the endpoint is no longer served.
    fn begin<T: PooledTarget>(&self, target: &Arc<T>, address: &str) -> Option<ProbedAddress<T>> {
        let begins = !self.closing.is_cancelled() && self.probed().insert(address.to_owned());
        begins.then(|| ProbedAddress {
            target: Arc::clone(target),
            address: address.to_owned(),
        })
    }

    fn spawn(&self, probing: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            closing.run_until_cancelled(probing).await;
        });
    }

    fn probed(&self) -> MutexGuard<'_, HashSet<String>> {
        locked(&self.probed)
    }
}

/// An address that has a probe until this is dropped.
struct ProbedAddress<T: PooledTarget> {
    target: Arc<T>,
    address: String,
}

impl<T: PooledTarget> Drop for ProbedAddress<T> {
    fn drop(&mut self) {
        self.target.prober().probed().remove(&self.address);
        // If the probe has panicked, the next session tries the address.
        self.target.pool().probing_ended(&self.address);
    }
}

async fn probe_until_it_works<T: PooledTarget>(
    probed: ProbedAddress<T>,
    context: Arc<DialContext>,
) {
    let ProbedAddress { target, address } = &probed;
    let pool = target.pool();
    while let Some(next) = pool.next_probe(address) {
        sleep_until(next.into()).await;
        let _permit = target.prober().permits.acquire().await;
        // A session that found no other address may have logged in meanwhile.
        if pool.next_probe(address).is_none() {
            return;
        }
        match probe(&**target, address, &context).await {
            ProbeOutcome::Accepts => return pool.succeeded(address, &context.user.name),
            ProbeOutcome::MayWork => return,
            ProbeOutcome::Fails(error) => {
                pool.failed(address, FailureScope::AllUsers, &chain(&error));
            }
        }
    }
}

async fn probe<T: PooledTarget>(target: &T, address: &str, context: &DialContext) -> ProbeOutcome {
    let dialer = target.dialer();
    let (dialed, is_shared) = match target.probe_plan(address, context).await {
        Ok(ProbePlan::LogInAsEndpoint(address, hello)) => {
            (dialer.dial(&address, &hello, context).await, true)
        }
        Ok(ProbePlan::LogInAsUser(address, hello)) => {
            (dialer.dial(&address, &hello, context).await, false)
        }
        Ok(ProbePlan::Connect(address)) => {
            return match dialer.reach(&address).await {
                Ok(stream) => {
                    close_in_order(stream).await;
                    ProbeOutcome::MayWork
                }
                Err(error) => ProbeOutcome::Fails(error),
            };
        }
        Ok(ProbePlan::Skip) => return ProbeOutcome::MayWork,
        Err(error) => return ProbeOutcome::Fails(error),
    };
    match dialed {
        Ok(upstream) => {
            close_in_order(upstream.stream).await;
            ProbeOutcome::Accepts
        }
        Err(OpenError::Upstream(UpstreamError::Rejected { .. })) if !is_shared => {
            ProbeOutcome::MayWork
        }
        Err(error) => ProbeOutcome::Fails(error),
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("probed", &*self.probed())
            .finish_non_exhaustive()
    }
}
