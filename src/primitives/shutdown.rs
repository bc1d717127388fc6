//! The shutdown signal, which every task of the daemon receives.
//!
//! A shutdown has two phases. In the first phase the daemon drains. It accepts no more connections, and
//! ends each session as soon as no request or response is in flight. In the second phase the daemon
//! cuts the sessions that are left.

use tokio::sync::watch;

/// How far the shutdown has got. A later phase includes the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ShutdownPhase {
    Serving,
    Draining,
    Cutting,
}

/// Sends the shutdown signal. When it is dropped, every receiver sees the last phase.
#[derive(Debug)]
pub struct ShutdownSender(watch::Sender<ShutdownPhase>);

/// Receives the shutdown signal. Clones are independent of each other.
#[derive(Debug, Clone)]
pub struct ShutdownReceiver(watch::Receiver<ShutdownPhase>);

impl Default for ShutdownSender {
    fn default() -> Self {
        Self(watch::Sender::new(ShutdownPhase::Serving))
    }
}

impl ShutdownSender {
    /// A receiver that sees the current phase and every later one.
    pub fn subscribe(&self) -> ShutdownReceiver {
        ShutdownReceiver(self.0.subscribe())
    }

    /// Begins the drain. Does nothing if the drain has begun already.
    pub fn drain(&self) {
        self.0.send_if_modified(|phase| {
            let is_serving = *phase < ShutdownPhase::Draining;
            *phase = (*phase).max(ShutdownPhase::Draining);
            is_serving
        });
    }

    /// Ends the sessions that are still open.
    pub fn cut(&self) {
        self.0.send_replace(ShutdownPhase::Cutting);
    }
}

impl ShutdownReceiver {
    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= ShutdownPhase::Draining
    }

    /// Returns once the drain has begun. Cancel-safe.
    pub async fn draining(&mut self) {
        self.reached(ShutdownPhase::Draining).await;
    }

    /// Returns once the sessions are being cut. Cancel-safe.
    pub async fn cutting(&mut self) {
        self.reached(ShutdownPhase::Cutting).await;
    }

    async fn reached(&mut self, wanted: ShutdownPhase) {
        // An error means that the sender is gone, which counts as the last phase.
        let _ = self.0.wait_for(|phase| *phase >= wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_receiver_sees_each_phase_and_a_dropped_sender_is_the_last_one() {
        let sender = ShutdownSender::default();
        let mut receiver = sender.subscribe();
        assert!(!receiver.is_draining() && receiver.draining().now_or_never().is_none());
        sender.drain();
        assert!(receiver.is_draining() && receiver.draining().now_or_never().is_some());
        assert!(receiver.cutting().now_or_never().is_none());
        sender.cut();
        sender.drain();
        assert!(
            receiver.cutting().now_or_never().is_some(),
            "no phase is undone"
        );
        let mut receiver = ShutdownSender::default().subscribe();
        assert!(receiver.cutting().now_or_never().is_some());
    }
}
