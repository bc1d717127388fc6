//! The parts of the daemon that every session uses.

use std::sync::Arc;

use tokio::task::JoinError;
use tokio_util::task::TaskTracker;

use crate::console;
use crate::credential::Credentials;
use crate::identity::{Authenticator, Penalties};
use crate::limits::Limits;
use crate::primitives::lines::LostLines;
use crate::primitives::numbers::SessionNumbers;
use crate::primitives::workers::Workers;
use crate::telemetry::audit::{AuditFile, Repeats};
use crate::telemetry::live::{Live, SharedSnapshots};
use crate::telemetry::status::{MemoryRow, Status};

/// The parts of the daemon that all its sessions share.
#[derive(Debug)]
pub struct Services {
    /// Identifies the client of a connection.
    pub authenticator: Authenticator,
    /// Delays clients that guess passwords.
    pub penalties: Penalties,
    /// The credentials for kdb+, which the daemon obtains before a session needs them.
    pub credentials: Credentials,
    /// The tasks of the sessions.
    pub tasks: TaskTracker,
    /// The worker runtimes on which sessions run. None if sessions run on the runtime that accepts them.
    pub workers: Option<Workers>,
    /// Gives each session its number.
    pub sessions: SessionNumbers,
    /// The endpoints, the open sessions and the last failures, for status and metrics.
    pub live: Live,
    /// Serialises status requests, so that concurrent viewers share one snapshot.
    pub snapshots: SharedSnapshots<Status>,
    /// The lists of clusters and nodes that all consoles share.
    pub discovery: console::DiscoveryCache,
    /// The limits on sessions, handshakes and memory.
    pub limits: Limits,
    /// The file of audit lines.
    pub audit: AuditFile,
    /// The number of log lines that the process could not write.
    pub lost_log_lines: LostLines,
    /// Combines repeated events into one audit line.
    pub repeats: Repeats,
}

impl Services {
    /// The state that `hopend status` shows. Blocks while it searches `/proc` for the clients' processes,
    /// so do not call it on a session's thread.
    pub fn status(&self) -> Status {
        Status {
            memory: Some(self.memory()),
            ..self.live.status(&self.credentials)
        }
    }

    /// The state that `hopend status` shows, for async callers. Concurrent callers share one snapshot.
    ///
    /// # Errors
    /// The blocking task panicked.
    pub async fn look(self: Arc<Self>) -> Result<Arc<Status>, JoinError> {
        let services = Arc::clone(&self);
        self.snapshots.take(move || services.status()).await
    }

    /// The number of connections that have opened, plus the number of those that have ended.
    pub fn connection_changes(&self) -> u64 {
        let (opened, open) = (self.sessions.count(), self.tasks.len() as u64);
        opened + opened.saturating_sub(open)
    }

    /// The memory of the buffers of sessions and handshakes.
    pub fn memory(&self) -> MemoryRow {
        let budget = self.limits.memory();
        MemoryRow {
            budget_bytes: budget.limit() as u64,
            used_bytes: budget.used() as u64,
            handshakes_bytes: budget.used_by_handshakes() as u64,
        }
    }
}
