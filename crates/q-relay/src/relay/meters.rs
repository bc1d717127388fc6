//! What a session has carried, readable while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::histogram::SharedHistogram;
use q_ipc::frame::MessageType;

/// Counts of one direction.
#[derive(Debug, Default)]
pub struct Direction {
    bytes: AtomicU64,
    asyncs: AtomicU64,
    syncs: AtomicU64,
    responses: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
    unacknowledged: AtomicU64,
}

/// Why a message that hopend had received completely did not reach the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The receiver closed or broke its connection.
    ReceiverGone,
    /// The receiver took nothing until a deadline.
    Deadline,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ReceiverGone, Self::Deadline];

    /// The value of the label `cause` of the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReceiverGone => "receiver-gone",
            Self::Deadline => "deadline",
        }
    }
}

/// Counts of one session. Bytes of pings and of hopend's own error answers are among them, those of
/// the handshake are not.
#[derive(Debug)]
pub struct Meters {
    /// From the client to kdb+.
    pub to_kdb: Direction,
    /// From kdb+ to the client.
    pub to_client: Direction,
    pings: AtomicU64,
    outstanding: AtomicU64,
    round_trips: SharedHistogram,
    opened: Instant,
    /// Milliseconds from `opened` to the last byte of the client's or for it.
    last_byte: AtomicU64,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            to_kdb: Direction::default(),
            to_client: Direction::default(),
            pings: AtomicU64::new(0),
            outstanding: AtomicU64::new(0),
            round_trips: SharedHistogram::default(),
            opened: Instant::now(),
            last_byte: AtomicU64::new(0),
        }
    }
}

impl Direction {
    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages whose header was passed on, of all types.
    pub fn messages(&self) -> u64 {
        [&self.asyncs, &self.syncs, &self.responses]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Messages of one type among them.
    pub fn messages_of(&self, message_type: MessageType) -> u64 {
        self.count(message_type).load(Ordering::Relaxed)
    }

    /// Sync messages among them.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Messages that were received completely and did not reach the other side, for one cause.
    pub fn lost_by(&self, cause: Loss) -> u64 {
        self.lost[cause as usize].load(Ordering::Relaxed)
    }

    /// The same, for all causes.
    pub fn lost(&self) -> u64 {
        Loss::ALL.into_iter().map(|cause| self.lost_by(cause)).sum()
    }

    /// Bytes that the receiver's kernel had not acknowledged when hopend closed the connection at a
    /// deadline, with what TLS adds.
    pub fn unacknowledged(&self) -> u64 {
        self.unacknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn add_lost(&self, cause: Loss, count: u64) {
        self.lost[cause as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_unacknowledged(&self, bytes: u64) {
        self.unacknowledged.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were written.
    pub fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts a message whose header was passed on.
    pub fn add_message(&self, message_type: MessageType) {
        self.count(message_type).fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, message_type: MessageType) -> &AtomicU64 {
        match message_type {
            MessageType::Async => &self.asyncs,
            MessageType::Sync => &self.syncs,
            MessageType::Response => &self.responses,
        }
    }
}

impl Meters {
    /// Keepalives sent.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Sync requests of the client's that have no answer yet.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// From a sync request of the client's to the first of its answer. Of requests that are sent
    /// without waiting for answers, not each is counted.
    pub fn round_trips(&self) -> &SharedHistogram {
        &self.round_trips
    }

    /// How long ago a byte came from the client or went to it. Keepalives are neither.
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_byte.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last)
    }

    /// Sets how many sync requests of the client have no answer yet.
    pub fn set_outstanding(&self, count: u64) {
        self.outstanding.store(count, Ordering::Relaxed);
    }

    /// Notes that the client sent or received a byte now. Returns the time since the session opened.
    pub fn active(&self, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.opened);
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.last_byte.store(millis, Ordering::Relaxed);
        now
    }

    pub(crate) fn add_round_trip(&self, took: Duration) {
        self.round_trips.add(took);
    }

    pub(crate) fn add_ping(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }
}
