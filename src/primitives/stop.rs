//! Telling every task that the daemon is stopping.

use tokio::sync::watch;

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Cutting,
}

/// The hand that stops.
#[derive(Debug)]
pub struct Stop(watch::Sender<Phase>);

/// The ear that hears it.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<Phase>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Stop {
    /// An ear.
    pub fn listen(&self) -> Stopping {
        Stopping(self.0.subscribe())
    }

    /// No new connections; sessions end as soon as nothing is outstanding.
    pub fn drain(&self) {
        self.0.send_if_modified(|phase| {
            let earlier = *phase < Phase::Draining;
            *phase = (*phase).max(Phase::Draining);
            earlier
        });
    }

    /// Sessions end now.
    pub fn cut(&self) {
        self.0.send_replace(Phase::Cutting);
    }
}

impl Stopping {
    /// Whether draining has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Returns when draining has begun.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns when sessions are cut.
    pub async fn cutting(&mut self) {
        self.reached(Phase::Cutting).await;
    }

    async fn reached(&mut self, wanted: Phase) {
        // A stop that was dropped without a word cuts, too.
        let _ = self.0.wait_for(|phase| *phase >= wanted).await;
    }
}
