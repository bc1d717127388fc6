//! Histograms of durations, with the buckets that `/metrics` shows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in nanoseconds: from a round trip within this host (50 µs) to a query of
/// half an hour.
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

/// Number of buckets: one for each bound, and one for longer durations.
const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum: Duration,
}

/// A histogram that one thread reads while others write it.
#[derive(Debug, Default)]
pub struct SharedHistogram {
    counts: [AtomicU64; BUCKETS],
    /// In nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn add(&mut self, took: Duration) {
        self.counts[bucket(nanoseconds(took))] += 1;
        self.sum += took;
    }

    /// Adds the counts of another histogram.
    pub fn add_counts(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// Adds the counts that a shared histogram has now. A duration that is being counted at this moment may
    /// be in its bucket and not yet in the sum.
    pub fn add_all(&mut self, other: &SharedHistogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more.load(Ordering::Relaxed);
        }
        self.sum += Duration::from_nanos(other.sum.load(Ordering::Relaxed));
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all durations.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// An upper bound of a quantile: the bound of the bucket that contains it. `share` is from 0 to 1.
    ///
    /// `None` for an empty histogram, and if the quantile lies above the last bound.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let mut cumulative = 0;
        for (bound, count_here) in BOUNDS.into_iter().zip(self.counts) {
            cumulative += count_here;
            #[expect(clippy::cast_precision_loss, reason = "no count is that large")]
            if count > 0 && cumulative as f64 >= share * count as f64 {
                return Some(Duration::from_nanos(bound));
            }
        }
        None
    }

    /// Upper bound of each bucket in seconds, and the number of durations in that bucket alone. The last
    /// bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let seconds = |bound| Duration::from_nanos(bound).as_secs_f64();
        let ends = BOUNDS.into_iter().map(seconds).chain([f64::INFINITY]);
        ends.zip(self.counts)
    }
}

impl SharedHistogram {
    /// Counts a duration.
    pub fn add(&self, took: Duration) {
        let took = nanoseconds(took);
        self.counts[bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(took, Ordering::Relaxed);
    }
}

/// Index of the bucket for a duration. The search starts at the short ones, which are the most frequent.
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
    fn a_quantile_is_the_end_of_its_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), None);
        for _ in 0..98 {
            histogram.add(Duration::from_millis(3));
        }
        histogram.add(Duration::from_millis(300));
        histogram.add(Duration::from_secs(4_000));
        let end = |share| histogram.quantile(share);
        assert_eq!(end(0.5), Some(Duration::from_millis(5)));
        assert_eq!(end(0.99), Some(Duration::from_millis(500)));
        assert_eq!(end(1.0), None, "that bucket has no end");
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
