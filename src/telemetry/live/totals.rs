//! The counters behind `/metrics`. All counts begin at 0 when the daemon starts.

use jiff::Timestamp;

use crate::credential::CallCount;
use crate::primitives::opening::{OpenStage, Opening};
use crate::telemetry::status::CredentialRow;
use base::error::ErrorKind;
use q_ipc::frame::MessageType;
use q_relay::histogram::Histogram;
use q_relay::relay::{Direction, Loss, Meters};

/// All counters at one moment.
#[derive(Debug, Clone)]
pub struct DaemonTotals {
    /// When the daemon started.
    pub started: Timestamp,
    /// The endpoints that are served now, in the configuration's order.
    pub endpoints: Vec<EndpointTotals>,
    /// The credentials, in the order of the endpoints and their users.
    pub credentials: Vec<CredentialRow>,
    /// The calls of AWS.
    pub calls: Vec<CallCount>,
}

/// The counters of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointTotals {
    /// The endpoint's name in the configuration.
    pub name: String,
    /// The number of open sessions.
    pub open: u64,
    /// The most sessions that may be open: `max_sessions`.
    pub max_sessions: u64,
    /// The number of sessions that opened.
    pub opened: u64,
    /// How long they took to open. Console sessions are not included.
    pub open_times: OpenTimes,
    /// The sessions that were refused, by the party that caused it.
    pub refused: CountByKind,
    /// The failures of open sessions, by the party that caused them.
    pub failed: CountByKind,
    /// The traffic of all sessions, open or ended.
    pub carried: CarriedTotals,
    /// The sync requests of open sessions that kdb+ has not answered yet.
    pub outstanding: u64,
    /// The entries of `listen`.
    pub listen_addresses: u64,
    /// The entries of `listen` that hopend has bound.
    pub listen_addresses_bound: u64,
    /// The addresses that sessions choose from: entries of `connect`, or nodes. 0 if there is no choice.
    pub target_addresses: u64,
    /// The addresses among them that hopend does not use for a while after a failure.
    pub target_addresses_resting: u64,
    /// The connections that hopend tries to keep logged in.
    pub warm_wanted: u64,
    /// The connections that are logged in and wait for a session.
    pub warm_ready: u64,
}

/// How long sessions took to open, of those that opened.
#[derive(Debug, Clone, Default)]
pub struct OpenTimes {
    /// Sessions that dialled kdb+ themselves: from the client's connection to the answer to its handshake.
    pub dialled: Histogram,
    /// The same for sessions that got a warm connection.
    pub warm: Histogram,
    /// In the order of [`OpenStage::ALL`].
    stages: [Histogram; OpenStage::ALL.len()],
}

/// A count for each [`ErrorKind`], in the order of [`ErrorKind::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountByKind([u64; ErrorKind::ALL.len()]);

/// The traffic of sessions.
#[derive(Debug, Clone, Default)]
pub struct CarriedTotals {
    /// From clients to kdb+.
    pub to_cluster: DirectionTotals,
    /// From kdb+ to clients.
    pub to_client: DirectionTotals,
    /// Keepalives that hopend sent to kdb+.
    pub pings: u64,
    /// The time from a sync request to its response.
    pub round_trips: Histogram,
}

/// The traffic in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectionTotals {
    /// Bytes written. Handshakes do not count.
    pub bytes: u64,
    /// Asynchronous messages.
    pub asyncs: u64,
    /// Sync requests.
    pub syncs: u64,
    /// Responses.
    pub responses: u64,
    /// Messages that hopend received completely and could not deliver, by cause in the order of [`Loss::ALL`].
    pub lost: [u64; Loss::ALL.len()],
    /// Bytes that the receiver's kernel had not acknowledged when a deadline ended the session.
    pub unacknowledged: u64,
}

impl CountByKind {
    pub(super) fn add(&mut self, kind: ErrorKind) {
        self.0[kind as usize] += 1;
    }

    /// Each kind with its count, also those with 0.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> {
        ErrorKind::ALL.into_iter().zip(self.0)
    }

    /// The count of all kinds together.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl OpenTimes {
    pub(super) fn add(&mut self, opening: &Opening) {
        let whole = if opening.warm {
            &mut self.warm
        } else {
            &mut self.dialled
        };
        whole.add(opening.took);
        for (stage, took) in opening.laps.iter() {
            self.stages[stage as usize].add(took);
        }
    }

    /// The time that each stage took, in order.
    pub fn stages(&self) -> impl Iterator<Item = (OpenStage, &Histogram)> {
        OpenStage::ALL.into_iter().zip(&self.stages)
    }
}

impl CarriedTotals {
    pub(super) fn add(&mut self, meters: &Meters) {
        self.to_cluster.add(&meters.to_kdb);
        self.to_client.add(&meters.to_client);
        self.pings += meters.pings();
        self.round_trips.add_all(meters.round_trips());
    }
}

impl DirectionTotals {
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

    /// The number of messages of all types.
    pub fn messages(&self) -> u64 {
        self.asyncs + self.syncs + self.responses
    }
}
