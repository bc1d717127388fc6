//! How long the openings of one endpoint take, learned from those that succeeded. Pure.

use std::time::Duration;

use q_relay::histogram::Histogram;

/// The head start of an attempt is never shorter than this.
const SHORTEST_HEAD_START: Duration = Duration::from_millis(250);
/// The head start of an attempt is never longer than this, and is this long while nothing is known.
pub(super) const LONGEST_HEAD_START: Duration = Duration::from_secs(2);
/// An opening that takes no longer than this share of all openings has its head start.
const USUAL: f64 = 0.99;
/// After so many openings, those before the last so many are forgotten.
const REMEMBERED: u64 = 512;

/// What the last [`REMEMBERED`] openings took, or up to twice as many.
#[derive(Debug, Default)]
pub(super) struct OpeningPace {
    latest: Histogram,
    before: Histogram,
}

impl OpeningPace {
    /// From the dial to kdb+'s answer to the login. An opening that took longer than any head start
    /// was waiting for a busy kdb+, and says nothing about the others.
    pub(super) fn took(&mut self, took: Duration) {
        if took > LONGEST_HEAD_START {
            return;
        }
        self.latest.add(took);
        if self.latest.count() >= REMEMBERED {
            self.before = std::mem::take(&mut self.latest);
        }
    }

    /// How long an attempt goes on alone.
    pub(super) fn head_start(&self) -> Duration {
        let mut all = self.before.clone();
        all.add_counts(&self.latest);
        all.quantile(USUAL).map_or(LONGEST_HEAD_START, |usual| {
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
        pace.took(Duration::from_millis(3));
        assert_eq!(pace.head_start(), SHORTEST_HEAD_START);
        for _ in 0..100 {
            pace.took(Duration::from_millis(700));
        }
        assert_eq!(pace.head_start(), Duration::from_secs(1));
        for _ in 0..100 {
            pace.took(Duration::from_millis(1_900));
        }
        assert_eq!(pace.head_start(), LONGEST_HEAD_START);
        // What was slow an hour ago is forgotten.
        for _ in 0..2 * REMEMBERED {
            pace.took(Duration::from_millis(3));
        }
        assert_eq!(pace.head_start(), SHORTEST_HEAD_START);
    }

    #[test]
    fn a_busy_kdb_is_no_measure() {
        let mut pace = OpeningPace::default();
        pace.took(Duration::from_millis(3));
        for _ in 0..10 {
            pace.took(Duration::from_secs(30));
        }
        assert_eq!(pace.head_start(), SHORTEST_HEAD_START);
    }
}
