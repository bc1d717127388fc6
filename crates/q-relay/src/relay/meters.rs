//! The counters of a session, which other threads can read while the session runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::histogram::SharedHistogram;
use q_ipc::frame::MessageType;

/// The counters of one direction.
#[derive(Debug, Default)]
pub struct Direction {
    bytes: AtomicU64,
    asyncs: AtomicU64,
    syncs: AtomicU64,
    responses: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
    unacknowledged: AtomicU64,
}

/// Why the receiver did not get a message that hopend had received completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The receiver closed or broke its connection.
    ReceiverGone,
    /// The receiver did not accept the message before a deadline.
    Deadline,
}

impl Loss {
    /// All causes, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::ReceiverGone, Self::Deadline];

    /// The value of the label `cause` of the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReceiverGone => "receiver-gone",
            Self::Deadline => "deadline",
        }
    }
}

/// The counters of one session. They include the bytes of pings and of hopend's own error responses, and
/// exclude those of the handshake.
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
    /// Milliseconds from `opened` to the last byte from the client or to it.
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
    /// Bytes that hopend has written to the receiver's connection, before TLS.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages of all types that hopend has passed on. A message counts as soon as its header passes.
    pub fn messages(&self) -> u64 {
        [&self.asyncs, &self.syncs, &self.responses]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Messages of one type, out of [`messages`](Self::messages).
    pub fn messages_of(&self, message_type: MessageType) -> u64 {
        self.count(message_type).load(Ordering::Relaxed)
    }

    /// Sync messages, out of [`messages`](Self::messages).
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Messages that hopend received completely and the receiver did not get, for one cause.
    pub fn lost_by(&self, cause: Loss) -> u64 {
        self.lost[cause as usize].load(Ordering::Relaxed)
    }

    /// Messages that hopend received completely and the receiver did not get, for all causes.
    pub fn lost(&self) -> u64 {
        Loss::ALL.into_iter().map(|cause| self.lost_by(cause)).sum()
    }

    /// Bytes that the receiver's kernel had not acknowledged when hopend closed the connection at a deadline.
    /// With TLS, these are encrypted bytes.
    pub fn unacknowledged(&self) -> u64 {
        self.unacknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn add_lost(&self, cause: Loss, count: u64) {
        self.lost[cause as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_unacknowledged(&self, bytes: u64) {
        self.unacknowledged.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that hopend has written to the receiver's connection.
    pub fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Adds a message whose header hopend has passed on.
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
    /// Pings that hopend has sent to kdb+.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Sync requests of the client that have no answer yet.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The times from a sync request of the client to the first byte of its answer. If the client sends
    /// requests without waiting for answers, only some of them are measured.
    pub fn round_trips(&self) -> &SharedHistogram {
        &self.round_trips
    }

    /// The time since hopend last read a byte from the client or wrote one to it. Pings do not count, because
    /// they go to kdb+.
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_byte.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last)
    }

    /// Sets how many sync requests of the client have no answer yet.
    pub fn set_outstanding(&self, count: u64) {
        self.outstanding.store(count, Ordering::Relaxed);
    }

    /// Records that the client sent or received a byte at `now`. Returns the time since the session opened.
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
