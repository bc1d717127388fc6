//! The pause after a failure: 1 s at first, then twice as long after each further failure, up to a
//! minute. Pure: the time is an argument.

use std::time::{Duration, Instant};

use crate::primitives::backoff::Backoff;

pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The full pauses, before jitter.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), LONGEST_PAUSE);

/// How long to pause after a failure that follows `earlier` failures in a row. Each pause is shortened at
/// random, by up to a quarter: full pauses would bring every host of a cluster back at the same moment.
pub(super) fn pause_after(earlier: u32) -> Duration {
    let full = BACKOFF.pause_after(earlier.saturating_add(1));
    full.mul_f64(0.75 + 0.25 * fastrand::f64())
}

/// How often something has failed in a row, and when it may be tried again.
#[derive(Debug, Default)]
pub(super) struct FailureBackoff {
    failures: u32,
    retry_at: Option<Instant>,
}

impl FailureBackoff {
    /// Begins a pause. A failure within a pause does not count: whatever failed had begun before it.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.paused_until(now).is_some() {
            return;
        }
        self.retry_at = Some(now + pause_after(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    /// Ends the pause and forgets all failures.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The end of the pause. None if no pause is in force.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|retry_at| *retry_at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_failure_and_a_success_ends_them() {
        let mut backoff = FailureBackoff::default();
        let mut now = Instant::now();
        assert_eq!(backoff.paused_until(now), None);
        for full in [1, 2, 4, 8, 16, 32, 60, 60] {
            backoff.failed(now);
            let until = backoff.paused_until(now).unwrap();
            let full = Duration::from_secs(full);
            assert!(until - now >= full.mul_f64(0.74) && until - now <= full);
            backoff.failed(now);
            assert_eq!(backoff.paused_until(now), Some(until), "within the pause");
            now = until;
            assert_eq!(backoff.paused_until(now), None);
        }
        backoff.succeeded();
        backoff.failed(now);
        assert!(backoff.paused_until(now).unwrap() - now <= Duration::from_secs(1));
    }
}
