//! So many a second, spread over it: what comes too early waits for its turn.

use std::time::{Duration, Instant};

/// A pace. At rest a second's worth may come at once.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When all that was taken so far will have had its time.
    busy_until: Option<Instant>,
}

impl Rate {
    /// How long the next one has to wait, at `most` a second.
    pub(super) fn wait(&self, most: u32, now: Instant) -> Duration {
        let ahead = self.ahead(now) + step(most);
        ahead.saturating_sub(Duration::from_secs(1))
    }

    /// The next one is on its way.
    pub(super) fn take(&mut self, most: u32, now: Instant) {
        self.busy_until = Some(now + self.ahead(now) + step(most));
    }

    /// Whether nothing that was taken matters any more.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        self.ahead(now).is_zero()
    }

    fn ahead(&self, now: Instant) -> Duration {
        self.busy_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

fn step(most: u32) -> Duration {
    Duration::from_secs(1) / most.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_at_once_then_one_after_the_other() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(rate.wait(10, start), Duration::ZERO);
            rate.take(10, start);
        }
        for nth in 1..=5 {
            assert_eq!(rate.wait(10, start), Duration::from_millis(100) * nth);
            rate.take(10, start);
        }
        let later = start + Duration::from_millis(500);
        assert_eq!(rate.wait(10, later), Duration::from_millis(100));
        assert!(!rate.is_at_rest(later));
        assert!(rate.is_at_rest(start + Duration::from_secs(2)));
    }

    #[test]
    fn one_a_second_is_one_a_second() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(rate.wait(1, start), Duration::ZERO);
        rate.take(1, start);
        assert_eq!(rate.wait(1, start), Duration::from_secs(1));
    }
}
