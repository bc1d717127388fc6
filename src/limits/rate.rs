//! So many a second, spread over it: what comes too early waits for its turn.

use std::time::{Duration, Instant};

/// A limit of a rate, and how far ahead of it one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenPace {
    /// How many a second in the long run.
    pub(super) per_second: u32,
    /// How many at once after a rest, at least one.
    pub(super) burst: u32,
}

impl OpenPace {
    /// A second's worth at once.
    pub(super) fn even(per_second: u32) -> Self {
        Self {
            per_second,
            burst: per_second,
        }
    }

    fn step(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// What has been taken of a pace.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When all that was taken so far will have had its time.
    busy_until: Option<Instant>,
}

impl Rate {
    /// How long the next one has to wait.
    pub(super) fn wait(&self, pace: OpenPace, now: Instant) -> Duration {
        let ahead = self.ahead(now) + pace.step();
        ahead.saturating_sub(pace.step() * pace.burst)
    }

    /// The next one is on its way.
    pub(super) fn take(&mut self, pace: OpenPace, now: Instant) {
        self.busy_until = Some(now + self.ahead(now) + pace.step());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_at_once_then_one_after_the_other() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(rate.wait(OpenPace::even(10), start), Duration::ZERO);
            rate.take(OpenPace::even(10), start);
        }
        for nth in 1..=5 {
            assert_eq!(
                rate.wait(OpenPace::even(10), start),
                Duration::from_millis(100) * nth
            );
            rate.take(OpenPace::even(10), start);
        }
        let later = start + Duration::from_millis(500);
        assert_eq!(
            rate.wait(OpenPace::even(10), later),
            Duration::from_millis(100)
        );
        assert!(!rate.is_at_rest(later));
        assert!(rate.is_at_rest(start + Duration::from_secs(2)));
    }

    #[test]
    fn one_a_second_is_one_a_second() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(rate.wait(OpenPace::even(1), start), Duration::ZERO);
        rate.take(OpenPace::even(1), start);
        assert_eq!(rate.wait(OpenPace::even(1), start), Duration::from_secs(1));
    }

    #[test]
    fn a_burst_at_once_then_the_pace() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let pace = OpenPace {
            per_second: 10,
            burst: 40,
        };
        for _ in 0..40 {
            assert_eq!(rate.wait(pace, start), Duration::ZERO);
            rate.take(pace, start);
        }
        assert_eq!(rate.wait(pace, start), Duration::from_millis(100));
        // Four seconds later all of it may come at once again.
        let later = start + Duration::from_secs(4);
        for _ in 0..40 {
            assert_eq!(rate.wait(pace, later), Duration::ZERO);
            rate.take(pace, later);
        }
        assert_eq!(rate.wait(pace, later), Duration::from_millis(100));
    }
}
