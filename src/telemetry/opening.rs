//! How long the opening of a session takes, stage by stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A part of it. A session with a warm connection goes through the first two only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenStage {
    /// The client's own time: TLS with it, and what it says of itself.
    Handshake,
    /// Who that is, with the pause after wrong guesses and the wait for a place.
    Identify,
    /// The list of the cluster's nodes.
    Nodes,
    /// The login for kdb+.
    Credential,
    /// DNS.
    Resolve,
    /// TCP with kdb+.
    Connect,
    /// TLS with kdb+.
    Tls,
    /// kdb+'s answer to the login.
    Login,
}

impl OpenStage {
    /// All of them, each at the place that its value as a number says.
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

    /// The name in metrics.
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

/// What each stage of one opening took, all attempts together.
#[derive(Debug, Default)]
pub struct Laps {
    /// In nanoseconds; 0 where it was not gone through.
    took: [AtomicU64; OpenStage::ALL.len()],
}

impl Laps {
    /// A stage took so long, or so much longer.
    pub fn add(&self, stage: OpenStage, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.took[stage as usize].fetch_add(took, Ordering::Relaxed);
    }

    /// Does what a stage consists of.
    pub async fn time<F: Future>(&self, stage: OpenStage, work: F) -> F::Output {
        let begun = Instant::now();
        let done = work.await;
        self.add(stage, begun.elapsed());
        done
    }

    /// Those that were gone through.
    pub fn iter(&self) -> impl Iterator<Item = (OpenStage, Duration)> {
        let took = self.took.iter().map(|took| took.load(Ordering::Relaxed));
        let stages = OpenStage::ALL.into_iter().zip(took);
        stages
            .filter(|(_, took)| *took > 0)
            .map(|(stage, took)| (stage, Duration::from_nanos(took)))
    }
}

/// How a session came to its kdb+.
#[derive(Debug)]
pub struct Opening {
    /// From the connection to the answer to the client's handshake.
    pub took: Duration,
    /// Whether it got a connection that was kept logged in.
    pub warm: bool,
    /// What that consists of.
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
    fn each_stage_stands_at_its_own_place() {
        for (place, stage) in OpenStage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, place);
        }
    }
}
