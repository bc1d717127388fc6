//! The warm pool of one user of one endpoint.

use base::mutex::locked;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::WarmRequest;
use super::connection::{WarmConnection, WarmLoss};
use super::keeper::CHECK_EVERY;
use super::plan::{NextOpening, PoolPlan, PooledConnection, Usability, WantedCapabilities};
use crate::config::User;
use crate::credential::GenerationStatus;
use crate::route::backoff::FailureBackoff;
use crate::route::connection::{LoggedInConnection, PreferredAddresses};
use crate::telemetry::status::WarmRow;

/// A connection that has lasted this long shows that kdb+ works, so the pool forgets earlier failures.
const PROVEN_AFTER: Duration = Duration::from_secs(60);

/// The warm pool of one user.
pub(super) struct UserPool {
    pub(super) user: Arc<User>,
    state: Mutex<PoolState>,
    /// Wakes the keeper of the pool.
    pub(super) wake: Notify,
}

/// The connections that a pool holds, and the capabilities that it wants.
pub(super) struct PoolState {
    /// The oldest first.
    connections: Vec<WarmConnection>,
    wanted: WantedCapabilities,
    /// When the user opened the latest session.
    pub(super) last_session: Instant,
    /// Delays the next opening after failures and losses.
    backoff: FailureBackoff,
    /// The last failure or loss, for people to read.
    last_error: Option<String>,
}

/// The result of looking for a connection for a session.
pub(super) struct TakenConnection {
    /// `None` if no connection suits the session.
    pub(super) taken: Option<WarmConnection>,
    /// Connections with a login that is no longer valid. They have left the pool.
    pub(super) unusable: Vec<WarmConnection>,
}

/// A connection that has left the pool by itself.
pub(super) struct LostConnection {
    pub(super) connection: WarmConnection,
    pub(super) cause: WarmLoss,
}

/// The changes that a check of the pool has found.
pub(super) struct PoolChanges {
    /// Connections that are no longer needed. They have left the pool.
    pub(super) useless: Vec<WarmConnection>,
    /// The connection to open next.
    pub(super) open: NextOpening,
}

impl UserPool {
    /// An empty pool, which wants `count` connections for clients like the first one.
    pub(super) fn new(
        user: &Arc<User>,
        count: usize,
        capability: Option<u8>,
        now: Instant,
    ) -> Self {
        Self {
            user: Arc::clone(user),
            state: Mutex::new(PoolState {
                connections: Vec::new(),
                wanted: WantedCapabilities::new(count, capability),
                last_session: now,
                backoff: FailureBackoff::default(),
                last_error: None,
            }),
            wake: Notify::new(),
        }
    }

    /// The user has opened a session, with this capability.
    pub(super) fn session_opened(&self, capability: Option<u8>, now: Instant) {
        let mut state = self.lock();
        state.wanted.session_opened(capability);
        state.last_session = now;
        self.wake.notify_one();
    }

    /// The row of the pool in `hopend status`. `wanted` is how many connections it should hold.
    pub(super) fn row(&self, wanted: usize) -> WarmRow {
        let state = self.lock();
        let is_full = state.connections.len() >= wanted;
        WarmRow {
            user: self.user.name.clone(),
            ready: state.connections.len() as u64,
            wanted: wanted as u64,
            reason: state.last_error.clone().filter(|_| !is_full),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PoolState> {
        locked(&self.state)
    }
}

impl PoolState {
    /// Whether a connection of this capability is in the pool.
    pub(super) fn has_capability(&self, capability: Option<u8>) -> bool {
        let mut connections = self.connections.iter();
        connections.any(|connection| connection.capability == capability)
    }

    /// Takes the oldest connection that suits a session.
    pub(super) fn take(&mut self, request: &WarmRequest<'_>) -> TakenConnection {
        let mut unusable = Vec::new();
        let mut index = 0;
        while let Some(warm) = self.connections.get(index) {
            if (request.login_status)(&warm.connection) == GenerationStatus::Invalid {
                unusable.push(self.connections.remove(index));
            } else if warm.capability == request.capability
                && request.addresses.include(&warm.connection.address)
                && warm.is_clean()
            {
                self.backoff.succeeded();
                return TakenConnection {
                    taken: Some(self.connections.remove(index)),
                    unusable,
                };
            } else {
                index += 1;
            }
        }
        TakenConnection {
            taken: None,
            unusable,
        }
    }

    /// Reads from all connections and sends the pings that are due. Ready when some connections are lost.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Vec<LostConnection>> {
        let mut lost = Vec::new();
        let mut index = 0;
        while let Some(connection) = self.connections.get_mut(index) {
            match connection.poll(context, now) {
                Ok(()) => index += 1,
                Err(cause) => {
                    self.failed(&cause.to_string(), now);
                    let connection = self.connections.remove(index);
                    lost.push(LostConnection { connection, cause });
                }
            }
        }
        if lost.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(lost)
        }
    }

    /// Adds a connection that has just been opened.
    pub(super) fn add(&mut self, connection: WarmConnection) {
        self.connections.push(connection);
    }

    /// An opening has failed, or a connection was lost.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) {
        self.backoff.failed(now);
        self.last_error = Some(reason.to_owned());
    }

    /// Takes out the connections that are no longer needed, and decides whether to open one. The pool
    /// opens no connection while it pauses after a failure, or while all addresses rest.
    pub(super) fn check(
        &mut self,
        now: Instant,
        addresses: &PreferredAddresses,
        login_status: impl Fn(&LoggedInConnection) -> GenerationStatus,
    ) -> PoolChanges {
        let is_proven = |warm: &WarmConnection| now.duration_since(warm.since) >= PROVEN_AFTER;
        if self.connections.iter().any(is_proven) {
            self.backoff.succeeded();
        }
        let pooled = |warm: &WarmConnection| PooledConnection {
            capability: warm.capability,
            usability: match login_status(&warm.connection) {
                GenerationStatus::Invalid => Usability::Unusable,
                GenerationStatus::Current
                    if addresses.include(&warm.connection.address) && !warm.is_old(now) =>
                {
                    Usability::Fresh
                }
                GenerationStatus::Current | GenerationStatus::Replaced => Usability::Stale,
            },
        };
        let pooled: Vec<_> = self.connections.iter().map(pooled).collect();
        let PoolPlan { close, open } = self.wanted.plan(&pooled);
        // Removes from the end, because each removal moves the connections behind it.
        let useless = close.into_iter().rev();
        let useless = useless.map(|index| self.connections.remove(index));
        let useless = useless.collect();
        let may_open = self.backoff.paused_until(now).is_none() && !addresses.is_empty();
        PoolChanges {
            useless,
            open: if may_open { open } else { NextOpening::Nothing },
        }
    }

    /// When the keeper must act if nothing happens before.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let pings = self.connections.iter().filter_map(WarmConnection::due);
        let pause = self.backoff.paused_until(now);
        pings.chain(pause).fold(now + CHECK_EVERY, Instant::min)
    }

    /// Takes out all connections.
    pub(super) fn clear(&mut self) -> Vec<WarmConnection> {
        std::mem::take(&mut self.connections)
    }
}
