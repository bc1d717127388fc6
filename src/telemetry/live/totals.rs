//! What the daemon has done since it started, as `/metrics` counts it.

use jiff::Timestamp;

use crate::credential::CallCount;
use crate::surface::status::CredentialRow;
use crate::telemetry::opening::{OpenStage, Opening};
use base::error::ErrorKind;
use q_ipc::frame::MessageType;
use q_relay::histogram::Histogram;
use q_relay::relay::{Direction, Loss, Meters};

/// Everything that is counted, at one moment.
#[derive(Debug, Clone)]
pub struct Totals {
    /// When the daemon started.
    pub started: Timestamp,
    /// Those that are served now, in the order of the configuration.
    pub endpoints: Vec<EndpointTotals>,
    /// By endpoint and user.
    pub credentials: Vec<CredentialRow>,
    /// Calls of AWS.
    pub calls: Vec<CallCount>,
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
    /// How long that took, where kdb+ is behind it.
    pub opens: Opens,
    /// Sessions that did not come about, by the side at fault.
    pub refused: ByKind,
    /// Failures of sessions that were open, by the side at fault.
    pub failed: ByKind,
    /// By its sessions, those that have ended and those that are open.
    pub carried: Carried,
    /// Sync requests of open sessions that have no answer yet.
    pub outstanding: u64,
    /// Addresses where clients should reach it, and how many are bound.
    pub addresses: Share,
    /// Where its sessions can go, and how many of those places rest after a failure.
    pub places: Share,
    /// Connections that should be kept logged in, and how many of them are.
    pub warm: Share,
}

/// Some of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many there are, or should be.
    pub all: u64,
    /// How many of them it is about.
    pub some: u64,
}

/// How long opening took, of sessions that opened.
#[derive(Debug, Clone, Default)]
pub struct Opens {
    /// Altogether, with a connection of its own.
    pub anew: Histogram,
    /// Altogether, with one that was kept logged in.
    pub warm: Histogram,
    stages: [Histogram; OpenStage::ALL.len()],
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
    /// From a sync request to its answer.
    pub round_trips: Histogram,
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
    /// Messages that were received completely and did not reach the other side, in the order of
    /// [`Loss::ALL`].
    pub lost: [u64; Loss::ALL.len()],
    /// Bytes that the receiver's kernel had not acknowledged at a deadline.
    pub unacknowledged: u64,
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

impl Opens {
    pub(super) fn add(&mut self, opening: &Opening) {
        let whole = if opening.warm {
            &mut self.warm
        } else {
            &mut self.anew
        };
        whole.add(opening.took);
        for (stage, took) in opening.laps.iter() {
            self.stages[stage as usize].add(took);
        }
    }

    /// Each stage on its own.
    pub fn stages(&self) -> impl Iterator<Item = (OpenStage, &Histogram)> {
        OpenStage::ALL.into_iter().zip(&self.stages)
    }
}

impl Share {
    pub(super) fn of<T>(rows: &[T], all: impl Fn(&T) -> u64, some: impl Fn(&T) -> u64) -> Self {
        Self {
            all: rows.iter().map(all).sum(),
            some: rows.iter().map(some).sum(),
        }
    }
}

impl Carried {
    pub(super) fn add(&mut self, meters: &Meters) {
        self.to_cluster.add(&meters.to_cluster);
        self.to_client.add(&meters.to_client);
        self.pings += meters.pings();
        self.round_trips.add_all(meters.round_trips());
    }
}

impl Way {
    fn add(&mut self, direction: &Direction) {
        self.bytes += direction.bytes();
        self.asyncs += direction.messages_of(MessageType::Async);
        self.syncs += direction.messages_of(MessageType::Sync);
        self.responses += direction.messages_of(MessageType::Response);
        for (sum, cause) in self.lost.iter_mut().zip(Loss::ALL) {
            *sum += direction.lost_by(cause);
        }
        self.unacknowledged += direction.unacknowledged();
    }
}
