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

/// What all sessions of the daemon share.
#[derive(Debug)]
pub struct Services {
    /// Tells who a client is.
    pub authenticator: Authenticator,
    /// Slows down those who guess.
    pub penalties: Penalties,
    /// Logins, ready before they are asked for.
    pub credentials: Credentials,
    /// The running sessions.
    pub tasks: TaskTracker,
    /// What they run on, if not on the runtime that accepts them.
    pub workers: Option<Workers>,
    /// Numbers them.
    pub sessions: SessionNumbers,
    /// What is open, and what went wrong last.
    pub live: Live,
    /// Serialises status requests, so that concurrent viewers share one snapshot.
    pub snapshots: SharedSnapshots<Status>,
    /// The lists of clusters and nodes that all consoles share.
    pub discovery: console::DiscoveryCache,
    /// How much of it anybody may have.
    pub limits: Limits,
    /// Who did what, in a file.
    pub audit: AuditFile,
    /// Counts the lines that the process's log has lost.
    pub lost_log_lines: LostLines,
    /// What repeats has one audit line together.
    pub repeats: Repeats,
}

impl Services {
    /// Everything that the daemon shows of itself. Blocks for as long as it takes to look through
    /// `/proc` for the clients' processes.
    pub fn status(&self) -> Status {
        Status {
            memory: Some(self.memory()),
            ..self.live.status(&self.credentials)
        }
    }

    /// The same, for whoever may not block.
    ///
    /// # Errors
    /// It panicked.
    pub async fn look(self: Arc<Self>) -> Result<Arc<Status>, JoinError> {
        let services = Arc::clone(&self);
        self.snapshots.take(move || services.status()).await
    }

    /// How many connections have opened, plus how many have ended.
    pub fn connection_changes(&self) -> u64 {
        let (opened, open) = (self.sessions.count(), self.tasks.len() as u64);
        opened + opened.saturating_sub(open)
    }

    /// What the buffers of sessions and handshakes hold.
    pub fn memory(&self) -> MemoryRow {
        let budget = self.limits.memory();
        MemoryRow {
            budget_bytes: budget.limit() as u64,
            used_bytes: budget.used() as u64,
            handshakes_bytes: budget.used_by_handshakes() as u64,
        }
    }
}
