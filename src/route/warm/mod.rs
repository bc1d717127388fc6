//! `warm = n`: connections that are logged in before a session needs them. So hopen waits for no dial,
//! no TLS handshake and no login.
//!
//! - Each user of an endpoint has a pool. No connection ever goes to another user, whatever login it was
//!   made with. The pool is created when the user opens the first session, and removed when the user has
//!   opened none for [`REMOVED_AFTER`].
//! - A session takes a connection only if it would get the same login now. A connection whose credential
//!   kdb+ has refused, or whose credential or password is no longer valid, goes to no session.
//! - A connection announced the same capability to kdb+ as the client that takes it, so that the client
//!   gets the same answer.
//! - A connection leads to an address that a session would choose now. hopend avoids an address for some time
//!   after a failure: the address rests. The second address is chosen only while the first one rests.
//! - A pool opens one connection at a time. After a failure it pauses, longer each time.

mod connection;
mod keeper;
mod plan;
mod user_pool;

use base::mutex::locked;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Route;
use super::connection::{LoggedInConnection, PreferredAddresses};
use super::dialer::{CLOSE_LIMIT, close_in_order};
use crate::config::{Endpoint, User};
use crate::credential::{Credentials, GenerationStatus};
use crate::telemetry::status::WarmRow;
use connection::WarmConnection;
use keeper::PoolKeeper;
use q_relay::relay::KeepaliveSettings;
use user_pool::{TakenConnection, UserPool};

/// The pool of a user who has opened no session for this long is removed.
const REMOVED_AFTER: Duration = Duration::from_secs(10 * 60);
/// How many connections of one endpoint may be opened at a time, for all users together.
const CONCURRENT_OPENINGS: usize = 2;

/// The warm pools of an endpoint, one for each user who has opened a session lately.
pub(super) struct WarmPools {
    /// How many connections each user has.
    count: usize,
    keepalive: KeepaliveSettings,
    /// How long kdb+ may take to answer a ping.
    answer_limit: Duration,
    /// The runtime on which connections wait.
    runtime: Handle,
    /// Closes all pools.
    closing: CancellationToken,
    tasks: TaskTracker,
    openings: Semaphore,
    /// By the user's name.
    pools: Mutex<HashMap<String, Arc<UserPool>>>,
}

/// The connection that a session can take from a pool.
pub(super) struct WarmRequest<'r> {
    /// The capability that the client announces.
    pub(super) capability: Option<u8>,
    /// The addresses to which the session would go.
    pub(super) addresses: PreferredAddresses,
    /// Whether the login of a connection is still valid.
    pub(super) login_status: &'r (dyn Fn(&LoggedInConnection) -> GenerationStatus + Sync),
}

impl WarmPools {
    /// `None` if the endpoint keeps no connections warm. `closing` closes all pools for good. Must be
    /// called within a tokio runtime, on which the connections wait.
    pub(super) fn new(endpoint: &Endpoint, closing: CancellationToken) -> Option<Self> {
        (endpoint.warm > 0).then(|| Self {
            count: endpoint.warm,
            keepalive: endpoint.keepalive.clone(),
            answer_limit: endpoint.connect_timeout,
            runtime: Handle::current(),
            closing,
            tasks: TaskTracker::new(),
            openings: Semaphore::new(CONCURRENT_OPENINGS),
            pools: Mutex::default(),
        })
    }

    /// A session of `user` is open. The pool prepares connections for further sessions like it.
    pub(super) fn session_opened(
        self: &Arc<Self>,
        route: &Arc<Route>,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) {
        let now = Instant::now();
        let mut pools = locked(&self.pools);
        if self.closing.is_cancelled() {
            return;
        }
        if let Some(pool) = pools.get(&user.name) {
            pool.session_opened(capability, now);
            return;
        }
        let pool = Arc::new(UserPool::new(user, self.count, capability, now));
        pools.insert(user.name.clone(), Arc::clone(&pool));
        let keeper = PoolKeeper {
            route: Arc::clone(route),
            pools: Arc::clone(self),
            pool,
            credentials: credentials.clone(),
        };
        self.tasks.spawn_on(keeper.run(), &self.runtime);
    }

    /// Whether the pool of this user has a connection of this capability. A session may find it unusable
    /// all the same.
    pub(super) fn may_have(&self, user: &str, capability: Option<u8>) -> bool {
        self.pool(user)
            .is_some_and(|pool| pool.lock().has_capability(capability))
    }

    /// Takes a connection out of the pool of `user`, and moves it to the caller's runtime. The pool
    /// replaces the connection after [`Self::session_opened`].
    pub(super) fn take(&self, user: &str, request: &WarmRequest<'_>) -> Option<LoggedInConnection> {
        let pool = self.pool(user)?;
        loop {
            let TakenConnection { taken, unusable } = pool.lock().take(request);
            for connection in unusable {
                self.close(user, connection, &"its login is over");
            }
            let LoggedInConnection {
                upstream,
                address,
                login,
            } = taken?.connection;
            match upstream.rehome() {
                Ok(upstream) => {
                    return Some(LoggedInConnection {
                        upstream,
                        address,
                        login,
                    });
                }
                Err(error) => tracing::debug!(user, "a warm connection was lost: {error}"),
            }
        }
    }

    /// The rows of the pools in `hopend status`, by user.
    pub(super) fn rows(&self) -> Vec<WarmRow> {
        let pools: Vec<_> = locked(&self.pools).values().cloned().collect();
        let mut rows: Vec<_> = pools.iter().map(|pool| pool.row(self.count)).collect();
        rows.sort_by(|a, b| a.user.cmp(&b.user));
        rows
    }

    /// Waits until all connections are closed, at most 1 s. Call it after `closing` was cancelled.
    pub(super) async fn closed(&self) {
        self.tasks.close();
        let _ = timeout(CLOSE_LIMIT, self.tasks.wait()).await;
    }

    fn pool(&self, user: &str) -> Option<Arc<UserPool>> {
        if self.closing.is_cancelled() {
            return None;
        }
        locked(&self.pools).get(user).cloned()
    }

    /// Removes a pool whose user has opened no session for too long, or whose endpoint is closing.
    /// Returns whether it did.
    fn remove_if_unused(&self, pool: &UserPool, now: Instant) -> bool {
        let mut pools = locked(&self.pools);
        let idle = now.duration_since(pool.lock().last_session);
        if idle >= REMOVED_AFTER || self.closing.is_cancelled() {
            pools.remove(&pool.user.name);
            return true;
        }
        false
    }

    /// Removes a pool whose keeper has panicked. The user's next session creates another one.
    fn remove(&self, pool: &Arc<UserPool>) {
        locked(&self.pools).retain(|_, other| !Arc::ptr_eq(other, pool));
    }

    /// Closes a connection in the background.
    fn close(&self, user: &str, connection: WarmConnection, cause: &dyn fmt::Display) {
        let upstream = connection.connection.upstream;
        tracing::debug!(user, to = %upstream.peer, "a warm connection ends: {cause}");
        self.tasks
            .spawn_on(close_in_order(upstream.stream), &self.runtime);
    }
}

impl fmt::Debug for WarmPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarmPools")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::keeper::CHECK_EVERY;
    use super::*;
    use crate::route::tests::config;

    #[tokio::test]
    async fn the_pool_of_a_user_who_stays_away_is_removed() {
        let config = config("warm = 2");
        let (endpoint, user) = (&config.endpoints[0], &config.users[0]);
        let closing = CancellationToken::new();
        let warm = WarmPools::new(endpoint, closing.clone()).unwrap();
        let now = Instant::now();
        let pool = Arc::new(UserPool::new(user, 2, Some(6), now));
        locked(&warm.pools).insert(user.name.clone(), Arc::clone(&pool));
        let almost = now + REMOVED_AFTER - CHECK_EVERY;
        assert!(!warm.remove_if_unused(&pool, almost));
        pool.lock().last_session = almost;
        assert!(
            !warm.remove_if_unused(&pool, now + REMOVED_AFTER),
            "the user came again"
        );
        assert!(warm.pool(&user.name).is_some());
        assert!(warm.remove_if_unused(&pool, almost + REMOVED_AFTER));
        assert!(warm.pool(&user.name).is_none());

        locked(&warm.pools).insert(user.name.clone(), Arc::clone(&pool));
        closing.cancel();
        assert!(warm.pool(&user.name).is_none(), "the endpoint is gone");
        assert!(warm.remove_if_unused(&pool, almost));
    }
}
