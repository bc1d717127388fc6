//! Limits the rate of events. An event that comes too early waits for its turn, so that events are spread over time.

use std::time::{Duration, Instant};

/// A limit of the rate at which sessions open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenRate {
    /// Sessions a second in the long run.
    pub(super) per_second: u32,
    /// Sessions that may open at once after a rest. At least 1.
    pub(super) burst: u32,
}

impl OpenRate {
    /// A rate whose burst is the number of sessions of one second.
    pub(super) fn even(per_second: u32) -> Self {
        Self {
            per_second,
            burst: per_second,
        }
    }

    /// The time between two sessions in the long run.
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// Counts events against a rate, as the generic cell rate algorithm does. The rate is an argument of each call,
/// because a reload may change it.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    /// When the intervals of all events so far will be over.
    busy_until: Option<Instant>,
}

impl RateLimiter {
    /// How long the next event has to wait.
    pub(super) fn wait(&self, rate: OpenRate, now: Instant) -> Duration {
        let ahead = self.ahead(now) + rate.interval();
        ahead.saturating_sub(rate.interval() * rate.burst)
    }

    /// Counts an event.
    pub(super) fn take(&mut self, rate: OpenRate, now: Instant) {
        self.busy_until = Some(now + self.ahead(now) + rate.interval());
    }

    /// Whether the next event may come at once with any rate. The limiter can be forgotten then.
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
        let (mut limiter, start) = (RateLimiter::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(limiter.wait(OpenRate::even(10), start), Duration::ZERO);
            limiter.take(OpenRate::even(10), start);
        }
        for nth in 1..=5 {
            assert_eq!(
                limiter.wait(OpenRate::even(10), start),
                Duration::from_millis(100) * nth
            );
            limiter.take(OpenRate::even(10), start);
        }
        let later = start + Duration::from_millis(500);
        assert_eq!(
            limiter.wait(OpenRate::even(10), later),
            Duration::from_millis(100)
        );
        assert!(!limiter.is_at_rest(later));
        assert!(limiter.is_at_rest(start + Duration::from_secs(2)));
    }

    #[test]
    fn one_a_second_is_one_a_second() {
        let (mut limiter, start) = (RateLimiter::default(), Instant::now());
        assert_eq!(limiter.wait(OpenRate::even(1), start), Duration::ZERO);
        limiter.take(OpenRate::even(1), start);
        assert_eq!(
            limiter.wait(OpenRate::even(1), start),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_burst_at_once_then_the_pace() {
        let (mut limiter, start) = (RateLimiter::default(), Instant::now());
        let rate = OpenRate {
            per_second: 10,
            burst: 40,
        };
        for _ in 0..40 {
            assert_eq!(limiter.wait(rate, start), Duration::ZERO);
            limiter.take(rate, start);
        }
        assert_eq!(limiter.wait(rate, start), Duration::from_millis(100));
        // Four seconds later the whole burst is available again.
        let later = start + Duration::from_secs(4);
        for _ in 0..40 {
            assert_eq!(limiter.wait(rate, later), Duration::ZERO);
            limiter.take(rate, later);
        }
        assert_eq!(limiter.wait(rate, later), Duration::from_millis(100));
    }
}
