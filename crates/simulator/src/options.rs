//! The options of a simulation.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Gives the time of day. Tests pass a clock of their own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The options of a simulation. The default is like FinSpace, with one user, `alice`.
#[derive(Clone)]
pub struct Options {
    /// Resets a connection to a cluster after this time without a byte in either direction. FinSpace:
    /// 350 seconds.
    pub idle_limit: Duration,
    /// The time for which a connection string opens connections (`X-Amz-Expires`), in whole seconds.
    /// FinSpace: 900 seconds.
    pub string_life: Duration,
    /// Number of nodes of each cluster.
    pub nodes: usize,
    /// FinSpace users. The role of each is `user-NAME`.
    pub users: Vec<String>,
    /// The capability byte of the nodes. A node answers a login with the lower of this and the client's.
    pub capability: u8,
    /// Whether nodes compress responses over 2,000 bytes that shrink to half, as kdb+ does for peers on
    /// other hosts.
    pub compress: bool,
    /// Whether nodes write in big-endian byte order.
    pub big_endian: bool,
    /// Items of a page when a call states no `maxResults`; at least 1.
    pub page: usize,
    /// The clock for signatures, sessions and connection strings. Timers follow tokio's clock.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            idle_limit: Duration::from_secs(350),
            string_life: Duration::from_secs(900),
            nodes: 3,
            users: vec!["alice".into()],
            capability: 6,
            compress: false,
            big_endian: false,
            page: 100,
            clock: Arc::new(SystemTime::now),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("idle_limit", &self.idle_limit)
            .field("string_life", &self.string_life)
            .field("nodes", &self.nodes)
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}
