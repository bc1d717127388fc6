//! How long the openings of one endpoint take, learned from those that succeeded. Pure.

use std::time::Duration;

use q_relay::histogram::Histogram;

/// An attempt always has at least this head start on the next one.
const SHORTEST_HEAD_START: Duration = Duration::from_millis(250);
/// An attempt never has more than this head start, and has this one until an opening has succeeded.
pub(super) const LONGEST_HEAD_START: Duration = Duration::from_secs(2);
/// A head start is so long that this share of all openings ends within it.
const USUAL_SHARE: f64 = 0.99;
/// After this many openings, the ones before the latest this many are forgotten.
const REMEMBERED: u64 = 512;

/// How long the latest openings took: at least [`REMEMBERED`] of them, and less than twice as many.
#[derive(Debug, Default)]
pub(super) struct OpeningPace {
    latest: Histogram,
    before: Histogram,
}

impl OpeningPace {
    /// Adds an opening: the time from the dial to kdb+'s answer to the login. Ignores an opening that
    /// took longer than any head start: that kdb+ was busy, which says nothing about the next opening.
    pub(super) fn learn(&mut self, took: Duration) {
        if took > LONGEST_HEAD_START {
            return;
        }
        self.latest.add(took);
        if self.latest.count() >= REMEMBERED {
            self.before = std::mem::take(&mut self.latest);
        }
    }

    /// How long an attempt goes on alone before the next address is tried as well.
    pub(super) fn head_start(&self) -> Duration {
        let mut all = self.before.clone();
        all.add_counts(&self.latest);
        all.quantile(USUAL_SHARE)
            .map_or(LONGEST_HEAD_START, |usual| {
                usual.clamp(SHORTEST_HEAD_START, LONGEST_HEAD_START)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_start_follows_what_openings_take() {
        let mut pace = OpeningPace::default();
        assert_eq!(pace.head_start(), LONGEST_HEAD_START, "nothing is known");
        pace.learn(Duration::from_millis(3));
        assert_eq!(pace.head_start(), SHORTEST_HEAD_START);
        for _ in 0..100 {
            pace.learn(Duration::from_millis(700));
        }
        assert_eq!(pace.head_start(), Duration::from_secs(1));
        for _ in 0..100 {
            pace.learn(Duration::from_millis(1_900));
        }
        assert_eq!(pace.head_start(), LONGEST_HEAD_START);
        // Openings that were slow an hour ago are forgotten.
        for _ in 0..2 * REMEMBERED {
            pace.learn(Duration::from_millis(3));
        }
        assert_eq!(pace.head_start(), SHORTEST_HEAD_START);
    }

    #[test]
    fn a_busy_kdb_is_no_measure() {
        let mut pace = OpeningPace::default();
        pace.learn(Duration::from_millis(3));
        for _ in 0..10 {
            pace.learn(Duration::from_secs(30));
        }
        assert_eq!(pace.head_start(), SHORTEST_HEAD_START);
    }
}
