//! What a session has carried, readable while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::q::frame::MessageType;

/// Counts of one direction.
#[derive(Debug, Default)]
pub struct Direction {
    bytes: AtomicU64,
    asyncs: AtomicU64,
    syncs: AtomicU64,
    responses: AtomicU64,
}

/// Counts of one session. Bytes of pings and of hopend's own error answers are among them, those of
/// the handshake are not.
#[derive(Debug, Default)]
pub struct Meters {
    /// From the client to the cluster.
    pub to_cluster: Direction,
    /// From the cluster to the client.
    pub to_client: Direction,
    pings: AtomicU64,
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

    /// Sync messages among them.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn add_message(&self, message_type: MessageType) {
        let count = match message_type {
            MessageType::Async => &self.asyncs,
            MessageType::Sync => &self.syncs,
            MessageType::Response => &self.responses,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Meters {
    /// Keepalives sent.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    pub(super) fn add_ping(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }
}
