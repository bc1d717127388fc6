//! Numbers of sessions. The daemon does not use a number of an earlier run again. An administrator may
//! still have that number on the screen, and would kill another session with it.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

/// The time of number zero: 2026-01-01T00:00:00Z, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// The numbers of this run. The first number is one more than the milliseconds from the start of 2026
/// to the start of the run.
///
/// So two runs share no number as long as a run takes fewer than 1,000 numbers a second on average.
#[derive(Debug)]
pub struct SessionNumbers {
    /// One less than the first number.
    start: u64,
    last: AtomicU64,
}

impl SessionNumbers {
    /// The numbers of a run that starts now.
    pub fn of_this_run() -> Self {
        Self::since(Timestamp::now())
    }

    fn since(start: Timestamp) -> Self {
        let start = u64::try_from(start.as_millisecond() - EPOCH_MS).unwrap_or(0);
        Self {
            start,
            last: AtomicU64::new(start),
        }
    }

    /// Takes the next number.
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many numbers have been taken.
    pub fn count(&self) -> u64 {
        self.last.load(Ordering::Relaxed) - self.start
    }

    /// Whether a number belongs to an earlier run.
    pub fn is_earlier(&self, number: u64) -> bool {
        number <= self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_next_run_are_no_numbers_of_this_one() {
        let start: Timestamp = "2026-11-28T03:00:00Z".parse().unwrap();
        let first = SessionNumbers::since(start);
        let numbers: Vec<_> = (0..900).map(|_| first.next()).collect();
        assert_eq!((numbers[0], first.count()), (28_609_200_001, 900));
        let next = SessionNumbers::since(start + jiff::SignedDuration::from_secs(1));
        assert!(numbers.iter().all(|number| next.is_earlier(*number)));
        assert!(!next.is_earlier(next.next()));
    }

    #[test]
    fn a_clock_before_2026_counts_from_one() {
        assert_eq!(SessionNumbers::since(Timestamp::UNIX_EPOCH).next(), 1);
    }
}
