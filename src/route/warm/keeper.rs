//! The task that fills a warm pool and looks after its connections.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::time::sleep_until;

use super::WarmPools;
use super::connection::WarmConnection;
use super::plan::NextOpening;
use super::user_pool::{LostConnection, PoolChanges, UserPool};
use crate::credential::Credentials;
use crate::route::connection::LoggedInConnection;
use crate::route::{OpenError, Route};
use base::error::chain;

/// How often the keeper checks whether each connection is still needed.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Looks after the pool of one user.
pub(super) struct PoolKeeper {
    pub(super) route: Arc<Route>,
    pub(super) pools: Arc<WarmPools>,
    pub(super) pool: Arc<UserPool>,
    pub(super) credentials: Credentials,
}

/// The result of opening a connection for a pool.
struct OpeningResult {
    capability: Option<u8>,
    opened: Result<LoggedInConnection, OpenError>,
}

impl PoolKeeper {
    /// Looks after the pool until it is removed. If the keeper panics, the pool is removed at once, so
    /// that the user's next session creates another one.
    pub(super) async fn run(self) {
        let keeping = AssertUnwindSafe(self.keep()).catch_unwind().await;
        if keeping.is_err() {
            self.pools.remove(&self.pool);
            self.pool.lock().clear();
        }
    }

    async fn keep(&self) {
        let Self {
            route,
            pools,
            pool,
            credentials,
        } = self;
        let user = &pool.user;
        let mut opening = None;
        loop {
            let now = Instant::now();
            if pools.remove_if_unused(pool, now) {
                break;
            }
            let addresses = route.preferred(&user.name);
            // `None`, because the keeper does not compare passwords. hopend reads the password file when
            // a session takes the connection.
            let login_status =
                |warm: &LoggedInConnection| warm.login.generation_status(None, credentials);
            let (PoolChanges { useless, open }, due) = {
                let mut state = pool.lock();
                let changes = state.check(now, &addresses, login_status);
                (changes, state.due(now))
            };
            for connection in useless {
                pools.close(&user.name, connection, &"another one replaces it");
            }
            if let (NextOpening::Announcing(capability), None) = (open, &opening) {
                opening = Some(Box::pin(self.open(capability)));
            }
            let opened = async {
                match &mut opening {
                    Some(opening) => opening.await,
                    None => std::future::pending().await,
                }
            };
            let lost = std::future::poll_fn(|context| pool.lock().poll(context, Instant::now()));
            tokio::select! {
                biased;
                () = pools.closing.cancelled() => {}
                lost = lost => for LostConnection { connection, cause } in lost {
                    pools.close(&user.name, connection, &cause);
                },
                opened = opened => {
                    opening = None;
                    self.add(opened);
                }
                () = pool.wake.notified() => {}
                () = sleep_until(due.into()) => {}
            }
        }
        let all = pool.lock().clear();
        for connection in all {
            let cause = &"nothing is kept for this user any more";
            pools.close(&user.name, connection, cause);
        }
    }

    /// Opens a connection. First waits until fewer than `CONCURRENT_OPENINGS` connections of the endpoint
    /// are being opened.
    async fn open(&self, capability: Option<u8>) -> OpeningResult {
        let _permit = self.pools.openings.acquire().await;
        let (user, credentials) = (&self.pool.user, &self.credentials);
        let opening = self.route.open_for_warm_pool(user, capability, credentials);
        OpeningResult {
            capability,
            opened: opening.await,
        }
    }

    /// Adds a connection to the pool, or notes the failure.
    fn add(&self, opening: OpeningResult) {
        let (pools, mut state) = (&self.pools, self.pool.lock());
        match opening.opened {
            Ok(connection) => state.add(WarmConnection::new(
                connection,
                opening.capability,
                &pools.keepalive,
                pools.answer_limit,
            )),
            Err(error) => {
                let reason = chain(&error);
                let user = &self.pool.user.name;
                tracing::debug!(user, "no warm connection: {reason}");
                state.failed(&reason, Instant::now());
            }
        }
    }
}
