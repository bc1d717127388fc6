//! How long a session takes to open, stage by stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stage of opening a session. A session that gets a warm connection has only the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenStage {
    /// Waiting for the client's TLS handshake and its login.
    Handshake,
    /// Identifying the user. The time includes the delay after wrong passwords and the wait for a
    /// session permit.
    Identify,
    /// Fetching the list of the cluster's nodes.
    Nodes,
    /// Fetching the login for kdb+.
    Credential,
    /// Resolving the address's name with DNS.
    Resolve,
    /// Connecting to kdb+ over TCP.
    Connect,
    /// The TLS handshake with kdb+.
    Tls,
    /// Waiting for kdb+ to accept the login.
    Login,
}

impl OpenStage {
    /// All stages in order: `ALL[stage as usize] == stage`.
    pub const ALL: [Self; 8] = [
        Self::Handshake,
        Self::Identify,
        Self::Nodes,
        Self::Credential,
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Login,
    ];

    /// The value of the label `stage` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Identify => "identify",
            Self::Nodes => "nodes",
            Self::Credential => "credential",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Login => "login",
        }
    }
}

/// The time that each stage took while one session opened. Attempts at several addresses add up.
#[derive(Debug, Default)]
pub struct Laps {
    /// Nanoseconds, in the order of [`OpenStage::ALL`]. 0 marks a stage that the opening skipped.
    took: [AtomicU64; OpenStage::ALL.len()],
}

impl Laps {
    /// Adds `took` to the time of a stage. A stage that took no time counts as 1 ns.
    pub fn add(&self, stage: OpenStage, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.took[stage as usize].fetch_add(took, Ordering::Relaxed);
    }

    /// Runs the work of a stage and adds its duration.
    pub async fn time<F: Future>(&self, stage: OpenStage, work: F) -> F::Output {
        let begun = Instant::now();
        let done = work.await;
        self.add(stage, begun.elapsed());
        done
    }

    /// The stages that the opening did not skip, each with its time.
    pub fn iter(&self) -> impl Iterator<Item = (OpenStage, Duration)> {
        let took = self.took.iter().map(|took| took.load(Ordering::Relaxed));
        let stages = OpenStage::ALL.into_iter().zip(took);
        stages
            .filter(|(_, took)| *took > 0)
            .map(|(stage, took)| (stage, Duration::from_nanos(took)))
    }
}

/// The opening of a session that reached kdb+.
#[derive(Debug)]
pub struct Opening {
    /// The time from the accept of the client's connection to hopend's answer to the login.
    pub took: Duration,
    /// Whether the session got a warm connection, which hopend had dialled before.
    pub warm: bool,
    /// The time that each stage took.
    pub laps: Arc<Laps>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_add_up_and_a_stage_that_took_nothing_was_gone_through() {
        let laps = Laps::default();
        laps.add(OpenStage::Connect, Duration::from_millis(2));
        laps.add(OpenStage::Connect, Duration::from_millis(3));
        laps.add(OpenStage::Login, Duration::ZERO);
        let gone: Vec<_> = laps.iter().collect();
        assert_eq!(
            gone,
            [
                (OpenStage::Connect, Duration::from_millis(5)),
                (OpenStage::Login, Duration::from_nanos(1)),
            ]
        );
    }

    #[test]
    fn each_stage_has_its_own_index() {
        for (index, stage) in OpenStage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }
}
