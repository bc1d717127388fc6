//! How long things took, counted in buckets as `/metrics` tells it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where buckets end, in nanoseconds: from a round trip within this host to a query of half an hour.
const BOUNDS: [u64; 21] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
    1_800_000_000_000,
];

/// One for each bound, and one for what is longer than the last.
const BUCKETS: usize = BOUNDS.len() + 1;

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum: Duration,
}

/// One that is read while it is written.
#[derive(Debug, Default)]
pub struct SharedHistogram {
    counts: [AtomicU64; BUCKETS],
    /// In nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.counts[bucket(nanoseconds(took))] += 1;
        self.sum += took;
    }

    /// All of `other` as well.
    pub fn add_all(&mut self, other: &SharedHistogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more.load(Ordering::Relaxed);
        }
        self.sum += Duration::from_nanos(other.sum.load(Ordering::Relaxed));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Where each bucket ends, in seconds, and how many are in it and in no bucket before it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let seconds = |bound| Duration::from_nanos(bound).as_secs_f64();
        let ends = BOUNDS.into_iter().map(seconds).chain([f64::INFINITY]);
        ends.zip(self.counts)
    }
}

impl SharedHistogram {
    /// One more.
    pub fn add(&self, took: Duration) {
        let took = nanoseconds(took);
        self.counts[bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(took, Ordering::Relaxed);
    }
}

/// Most are short, so the search begins there.
fn bucket(nanoseconds: u64) -> usize {
    let found = BOUNDS.iter().position(|&bound| nanoseconds <= bound);
    found.unwrap_or(BOUNDS.len())
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_end_and_the_last_one_everything_longer() {
        assert!(BOUNDS.is_sorted());
        let mut histogram = Histogram::default();
        for micros in [1, 50, 51, 4_000_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let filled: Vec<_> = histogram
            .buckets()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(filled, [(0.00005, 2), (0.0001, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.count(), 4);
        assert_eq!(histogram.sum(), Duration::from_micros(4_000_000_102));
    }

    #[test]
    fn what_was_shared_adds_up() {
        let shared = SharedHistogram::default();
        shared.add(Duration::from_millis(3));
        let (mut twice, mut plain) = (Histogram::default(), Histogram::default());
        twice.add_all(&shared);
        twice.add_all(&shared);
        plain.add(Duration::from_millis(3));
        plain.add(Duration::from_millis(3));
        assert_eq!(twice, plain);
    }
}
