//! Growing pauses between attempts that fail.

use std::time::Duration;

/// The pauses between attempts. Each failure in a row doubles the pause, up to the longest pause.
///
/// This type neither sleeps nor reads a clock. The caller sleeps for the result of
/// [`Self::next_pause`], and adds jitter if many callers would otherwise try at the same moment.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses from `first` up to `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Counts a failure and returns the pause before the next attempt.
    pub(crate) fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.pause_after(self.failures)
    }

    /// Forgets the failures, because an attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after this many failures in a row, for callers that count them themselves. Zero
    /// failures give no pause.
    pub(crate) fn pause_after(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 2_u32.saturating_pow(doublings);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        let pauses: Vec<_> = (0..5).map(|_| backoff.next_pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next_pause(), SECOND);
    }

    #[test]
    fn any_number_of_failures_has_a_pause() {
        let backoff = Backoff::new(SECOND, 5 * SECOND);
        for (failures, pause) in [(0, 0), (1, 1), (3, 4), (4, 5), (40, 5), (u32::MAX, 5)] {
            assert_eq!(backoff.pause_after(failures), pause * SECOND, "{failures}");
        }
    }
}
