//! File descriptors: how many there are, and how many sessions they allow.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::MAX_HANDSHAKES;
use crate::config::Config;

/// The descriptors that are kept for everything but clients: listeners, logs, AWS, lists of nodes, `/proc`.
const RESERVE: usize = 128;
/// The assumed limit if the system does not report one.
const DEFAULT_LIMIT: usize = 1_024;

/// Raises the soft limit of the process to the hard limit. The soft limit is low for programs that use select(2),
/// which hopend does not.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        tracing::warn!("the limit of file descriptors stays as it is: {error}");
    }
}

/// The number of descriptors that connections may use.
pub(super) fn for_connections() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(DEFAULT_LIMIT, |(soft, _)| {
        usize::try_from(soft).unwrap_or(usize::MAX)
    });
    soft.saturating_sub(RESERVE)
}

/// The most handshakes at a time, if `files` descriptors are for connections.
pub(super) fn max_handshakes(files: usize) -> usize {
    MAX_HANDSHAKES.min(files / 4)
}

/// The most sessions, if `files` descriptors are for connections. A session has two sockets, and a handshake
/// has one.
pub(super) fn max_sessions(files: usize) -> usize {
    (files.saturating_sub(max_handshakes(files)) / 2).max(1)
}

/// The number of descriptors that a configuration needs, compared with those that there are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DescriptorBudget {
    /// The sessions that the configuration allows.
    pub(super) sessions: usize,
    /// The warm connections that the configuration wants at most.
    pub(super) warm: usize,
    /// The sessions that the descriptors allow besides the warm connections. If the descriptors are too few for
    /// both, warm connections get at most half of them.
    pub(super) possible: usize,
}

impl DescriptorBudget {
    pub(super) fn new(config: &Config, files: usize) -> Self {
        let endpoints = config.endpoints.iter();
        let warm = endpoints
            .clone()
            .map(|endpoint| endpoint.warm * endpoint.users.len())
            .sum();
        let sessions = config.daemon.max_sessions;
        Self {
            sessions: sessions
                .unwrap_or_else(|| endpoints.map(|endpoint| endpoint.max_sessions).sum()),
            warm,
            possible: max_sessions(files - warm.min(files / 2)),
        }
    }

    /// Logs a warning if the configuration allows more sessions than the descriptors do.
    pub(super) fn warn(&self) {
        if self.sessions <= self.possible {
            return;
        }
        let (besides, less) = match self.warm {
            0 => (String::new(), ""),
            warm => (format!(" and {warm} warm connections"), " or warm"),
        };
        tracing::warn!(
            "{} sessions{besides} are allowed, and file descriptors for {} sessions: the rest will be \
             refused. Fix: raise LimitNOFILE of the service (it needs {}), or lower max_sessions{less}.",
            self.sessions,
            self.possible,
            self.needed()
        );
    }

    /// The `LimitNOFILE` that the configuration needs.
    fn needed(&self) -> usize {
        let sockets = self.sessions.saturating_mul(2).saturating_add(self.warm);
        sockets
            .saturating_add(MAX_HANDSHAKES)
            .saturating_add(RESERVE)
    }
}
