//! What the daemon has done since it started, as `/metrics` counts it.

use jiff::Timestamp;

use crate::error::ErrorKind;
use crate::q::frame::MessageType;
use crate::relay::{Direction, Meters};
use crate::status::CredentialRow;

/// Everything that is counted, at one moment.
#[derive(Debug, Clone)]
pub struct Totals {
    /// When the daemon started.
    pub started: Timestamp,
    /// Those that are served now, in the order of the configuration.
    pub endpoints: Vec<EndpointTotals>,
    /// By endpoint and user.
    pub credentials: Vec<CredentialRow>,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct EndpointTotals {
    /// What the configuration calls it.
    pub name: String,
    /// Sessions that are open.
    pub open: u64,
    /// How many there may be.
    pub max_sessions: u64,
    /// Sessions that opened.
    pub opened: u64,
    /// Sessions that did not come about, by the side at fault.
    pub refused: ByKind,
    /// Failures of sessions that were open, by the side at fault.
    pub failed: ByKind,
    /// By its sessions, those that have ended and those that are open.
    pub carried: Carried,
}

/// A count for each [`ErrorKind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKind([u64; ErrorKind::ALL.len()]);

/// What sessions have carried.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    /// From clients to clusters.
    pub to_cluster: Way,
    /// From clusters to clients.
    pub to_client: Way,
    /// Keepalives sent.
    pub pings: u64,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// Bytes written.
    pub bytes: u64,
    /// Asynchronous messages.
    pub asyncs: u64,
    /// Sync requests.
    pub syncs: u64,
    /// Responses.
    pub responses: u64,
}

impl ByKind {
    pub(super) fn add(&mut self, kind: ErrorKind) {
        self.0[kind as usize] += 1;
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> {
        ErrorKind::ALL.into_iter().zip(self.0)
    }

    /// Of all kinds.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Carried {
    pub(super) fn add(&mut self, meters: &Meters) {
        self.to_cluster.add(&meters.to_cluster);
        self.to_client.add(&meters.to_client);
        self.pings += meters.pings();
    }
}

impl Way {
    fn add(&mut self, direction: &Direction) {
        self.bytes += direction.bytes();
        self.asyncs += direction.messages_of(MessageType::Async);
        self.syncs += direction.messages_of(MessageType::Sync);
        self.responses += direction.messages_of(MessageType::Response);
    }
}
