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
    pub fn add_counts(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// All of `other` as well, as far as it has been written.
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

    /// The end of the bucket that holds the shortest time that is no shorter than this share, 0 to 1, of
    /// all. None where there are none, or where that bucket has no end.
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
