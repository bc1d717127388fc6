//! Attempts to log in at several addresses of a target. They overlap if one is slow, and hopend keeps the
//! connection of the first that succeeds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::OpenError;
use super::connection::LoggedInConnection;
use super::context::{DialContext, DialPurpose};
use super::dialer::Dialer;
use super::failures::{FailedAttempt, FailedAttempts};
use super::health::FailureScope;
use super::pool::{AddressPool, LoginOwner};
use super::probe::{ProbePlan, Prober};
use crate::credential::Retry;
use crate::primitives::race::{Late, Race, RaceEvent};
use crate::upstream::{Upstream, UpstreamError};
use base::error::chain;

/// A target among whose addresses hopend chooses: nodes of a cluster, or the addresses of `connect`.
pub(super) trait PooledTarget: Send + Sync + Sized + 'static {
    /// Identifies an address: the address itself, or a node's id.
    type Candidate: Send;

    fn pool(&self) -> &AddressPool;
    fn prober(&self) -> &Prober;
    fn dialer(&self) -> &Dialer;

    /// Whether hopend can try this address without asking AWS for a login first.
    fn has_login_ready(&self, candidate: &Self::Candidate, context: &DialContext) -> bool;

    /// Whether clients bring the login themselves.
    fn passes_on_logins(&self) -> bool;

    /// How to probe an address at which the session of `context` has failed.
    fn probe_plan(
        &self,
        address: &str,
        context: &DialContext,
    ) -> impl Future<Output = Result<ProbePlan, OpenError>> + Send;

    /// Notes that an address has failed for the users in `scope`. If it has failed for all users and a
    /// session can go elsewhere, probes find out when it works again.
    fn note_failure(
        self: &Arc<Self>,
        address: &str,
        scope: FailureScope<'_>,
        error: &OpenError,
        context: &Arc<DialContext>,
    ) {
        self.pool().failed(address, scope, &chain(error));
        if scope == FailureScope::AllUsers && self.pool().has_alternatives() {
            self.prober().watch(self, address, context);
        }
    }

    /// Whether to try no other address. The cause is that hopend lacks file descriptors, or that kdb+
    /// refused the client's own login. To try that login elsewhere would look like guessing.
    fn is_final(&self, error: &OpenError) -> bool {
        match error {
            OpenError::Upstream(UpstreamError::Descriptors { .. }) => true,
            OpenError::Upstream(UpstreamError::Rejected { .. }) => self.passes_on_logins(),
            _ => false,
        }
    }
}

/// An attempt at one address. It owns all its data, because the prober may continue it after the session
/// has found another address.
pub(super) struct LoginAttempt {
    /// The name of the address in the pool.
    pub(super) address: String,
    /// The address or the node, as messages name it.
    pub(super) label: String,
    pub(super) work: BoxFuture<'static, Result<LoggedInConnection, OpenError>>,
}

/// The result of an attempt.
pub(super) struct AttemptResult {
    /// The address or the node, as messages name it.
    label: String,
    result: Result<LoggedInConnection, OpenError>,
}

impl Future for LoginAttempt {
    type Output = AttemptResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.work.poll_unpin(context).map(|result| AttemptResult {
            label: std::mem::take(&mut self.label),
            result,
        })
    }
}

impl AttemptResult {
    /// The connection, if the attempt has succeeded.
    pub(super) fn connection(self) -> Option<LoggedInConnection> {
        self.result.ok()
    }
}

/// Tries the candidates in order, and returns the first connection. Each attempt has a head start on the
/// next one. If an attempt fails, the next one begins at once.
///
/// AWS, or the cluster, may refuse a login for one node. It is then likely to refuse the others too, and
/// each refusal costs time. From then on, hopend tries only candidates whose login is ready.
///
/// # Errors
/// All attempts have failed. Or one has failed for a cause that the other addresses share. Or there is no
/// candidate, because all addresses rest.
pub(super) async fn open_first<T: PooledTarget>(
    target: &Arc<T>,
    candidates: Vec<T::Candidate>,
    context: &Arc<DialContext>,
    attempt: impl Fn(T::Candidate, Late) -> LoginAttempt,
) -> Result<LoggedInConnection, OpenError> {
    let mut race = Race::new();
    let mut waiting = candidates.into_iter();
    let mut failed: Option<FailedAttempts> = None;
    let mut needs_ready_login = false;
    if let Some(first) = waiting.next() {
        race.begin(attempt(first, race.late()));
    }
    while let Some(event) = race.next().await {
        match event {
            RaceEvent::Ended(AttemptResult {
                label,
                result: Err(error),
            }) if !target.is_final(&error) => {
                needs_ready_login |= matches!(
                    &error,
                    OpenError::Credential(why) if why.retry == Retry::Soon
                );
                let failure = FailedAttempt {
                    label,
                    refused: matches!(&error, OpenError::Upstream(UpstreamError::Rejected { .. })),
                    error,
                };
                match &mut failed {
                    Some(failed) => failed.add(failure),
                    None => failed = Some(failure.into()),
                }
            }
            RaceEvent::Ended(ended) => {
                let slow = race.under_way();
                for slow in slow.filter(|slow| target.pool().rests_for_all(&slow.address)) {
                    target.prober().take_over(target, slow, context);
                }
                return ended.result;
            }
            RaceEvent::Late => {}
        }
        let may_try = |next: &_| !needs_ready_login || target.has_login_ready(next, context);
        if let Some(next) = waiting.find(may_try) {
            race.begin(attempt(next, race.late()));
        }
    }
    Err(failed.map_or(OpenError::AllAddressesRest, FailedAttempts::into_error))
}

/// The head start that an attempt at one address has on the next one.
pub(super) struct HeadStart<'a> {
    pub(super) pool: &'a AddressPool,
    /// The name of the address in the pool.
    pub(super) address: &'a str,
    pub(super) owner: LoginOwner<'a>,
    /// Starts the attempt at the next address.
    pub(super) late: &'a Late,
    pub(super) purpose: DialPurpose,
}

impl HeadStart<'_> {
    /// Dials. If the dial takes longer than the head start, the address counts as late. The dial goes
    /// on, and the attempt at the next address begins.
    pub(super) async fn dial(
        self,
        dial: impl Future<Output = Result<Upstream, OpenError>>,
    ) -> Result<Upstream, OpenError> {
        let begun = Instant::now();
        let dialed = match self.pool.head_start(self.purpose) {
            Some(head_start) => {
                let when_late = || self.pool.late(self.address, self.owner, begun);
                self.late.after(head_start, dial, when_late).await
            }
            None => dial.await,
        };
        if dialed.is_ok() {
            self.pool.learn_pace(begun.elapsed());
        }
        dialed
    }
}
