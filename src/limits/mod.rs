//! The limits of sessions, of the rate at which they open, of connections whose clients are not identified yet, and of
//! memory.
//!
//! A connection holds a [`HandshakePermit`] until its client is identified, and a [`SessionPermit`] from then on. Both
//! free what they hold when they are dropped.

mod exceeded;
pub mod files;
mod handshake;
mod rate;
mod session;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::config::{Config, Endpoint, MachineMemory, User};
use crate::primitives::shown::bytes;
use base::mutex::locked;
pub use exceeded::{Exceeded, LimitOwner, MemoryUser};
use files::DescriptorBudget;
pub use handshake::HandshakePermit;
use handshake::Handshakes;
use q_relay::budget::{self, MemoryBudget};
pub use session::SessionPermit;
use session::{DaemonLimits, SessionLedger};

/// How long a new session waits for another session to end, and then again for its turn within the rates. This is long
/// enough for a session that a client has just closed to free its permit.
pub const MAX_WAIT: Duration = Duration::from_secs(1);
/// The most connections at a time whose clients are not identified yet.
const MAX_HANDSHAKES: usize = 4_096;

/// The limits of the daemon and what is in use of each.
#[derive(Debug)]
pub struct Limits {
    handshakes: Handshakes,
    sessions: Arc<Mutex<SessionLedger>>,
    /// Wakes sessions that wait for a permit: another session has ended.
    freed: Arc<Notify>,
    memory: MemoryBudget,
}

impl Default for Limits {
    /// The limits that the file descriptors of the process allow, before a configuration is applied.
    fn default() -> Self {
        Self::within(files::for_connections())
    }
}

impl Limits {
    /// The limits before a configuration is applied. They follow from `files`, the number of file descriptors that
    /// connections may use.
    pub fn within(files: usize) -> Self {
        let memory = MemoryBudget::default();
        let max_handshakes = files::max_handshakes(files).max(2);
        Self {
            handshakes: Handshakes::new(max_handshakes, memory.clone()),
            sessions: Arc::new(Mutex::new(SessionLedger::new(DaemonLimits {
                max_sessions: files::max_sessions(files),
                limited_by_descriptors: true,
                max_opens_per_second: None,
                several_users: true,
            }))),
            freed: Arc::default(),
            memory,
        }
    }

    /// The memory budget of sessions and handshakes.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Applies a configuration, at the start and at each reload. Open sessions stay open. Logs a warning if the
    /// configuration allows more than the file descriptors or the memory do.
    pub fn configure(&self, config: &Config, machine: MachineMemory) {
        let several_users = config.users.len() > 1;
        let max_memory = config.daemon.max_memory.bytes_on(machine);
        self.memory.resize(max_memory, several_users);
        warn_of_memory(max_memory, machine);
        let descriptors = DescriptorBudget::new(config, files::for_connections());
        descriptors.warn();
        let possible = descriptors.possible;
        let configured = config.daemon.max_sessions.filter(|max| *max <= possible);
        locked(&self.sessions).limits = DaemonLimits {
            max_sessions: configured.unwrap_or(possible),
            limited_by_descriptors: configured.is_none(),
            max_opens_per_second: config.daemon.max_opens_per_second,
            several_users,
        };
    }

    /// A permit for a connection that has just been accepted. Waits while too many connections have clients that are
    /// not identified yet.
    pub async fn handshake_permit(&self) -> HandshakePermit {
        self.handshakes.permit().await
    }

    /// A permit for a session of `user` at `endpoint`. Waits for [`MAX_WAIT`] at most until there is room, and then for
    /// [`MAX_WAIT`] at most until the rates allow the session to open. A session that one limit refuses does not count
    /// against any other limit.
    ///
    /// # Errors
    /// The limit that the session would exceed.
    pub async fn session_permit(
        &self,
        endpoint: &Endpoint,
        user: &User,
    ) -> Result<SessionPermit, Exceeded> {
        let is_full = |attempt: &Result<_, _>| {
            matches!(
                attempt,
                Err(Exceeded::Sessions { .. } | Exceeded::Memory { .. })
            )
        };
        let mut attempt = self.try_session(endpoint, user);
        if is_full(&attempt) {
            let has_room = async {
                loop {
                    // Created before the attempt, so that no end in between is missed.
                    let freed = self.freed.notified();
                    attempt = self.try_session(endpoint, user);
                    if !is_full(&attempt) {
                        return;
                    }
                    freed.await;
                }
            };
            // After the time-out the last attempt's error stands.
            let _ = timeout(MAX_WAIT, has_room).await;
        }
        let AdmittedSession { permit, wait } = attempt?;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok(permit)
    }

    fn try_session(&self, endpoint: &Endpoint, user: &User) -> Result<AdmittedSession, Exceeded> {
        let memory = self.memory.session(&user.name, guaranteed_bytes(endpoint));
        let memory = memory.map_err(|over| Exceeded::Memory {
            user: MemoryUser::Session(user.name.clone()),
            over,
        })?;
        let wait = locked(&self.sessions).enter(endpoint, user, Instant::now())?;
        Ok(AdmittedSession {
            permit: SessionPermit::new(&self.sessions, endpoint, user, memory, &self.freed),
            wait,
        })
    }
}

/// A session that all limits allow.
struct AdmittedSession {
    permit: SessionPermit,
    /// How long the session has to wait until it may open.
    wait: Duration,
}

/// The memory that a session at `endpoint` may always use, in bytes.
fn guaranteed_bytes(endpoint: &Endpoint) -> usize {
    let tls_to_client = usize::from(endpoint.tls.is_some());
    budget::DIRECTIONS + (1 + tls_to_client) * budget::TLS
}

/// Logs a warning if the memory budget leaves too little for the rest of the process.
fn warn_of_memory(max_memory: usize, machine: MachineMemory) {
    let limit = machine.control_group.unwrap_or(machine.total);
    if max_memory as u64 > limit / 10 * 9 {
        tracing::warn!(
            "max_memory of [daemon] ({}) leaves too little of the memory that hopend may have ({}): \
             the system may end hopend. Fix: lower max_memory, or raise MemoryMax of the service.",
            bytes(max_memory as u64),
            bytes(limit),
        );
    }
}

#[cfg(test)]
mod tests;
