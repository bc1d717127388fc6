//! Logs when this host's clock and the clock of AWS begin to disagree, and when both agree again.

use base::mutex::locked;
use std::sync::Mutex;
use std::time::Duration;

use finspace::ClockSkew;

/// The clock skew that was logged last.
#[derive(Debug)]
pub(super) struct SkewReports(Mutex<ClockSkew>);

impl Default for SkewReports {
    fn default() -> Self {
        Self(Mutex::new(ClockSkew::Ahead(Duration::ZERO)))
    }
}

impl SkewReports {
    /// Logs a measured skew if it differs from the last logged skew by more than 30 seconds, or
    /// agreement begins or ends.
    pub(super) fn report(&self, measured: ClockSkew) {
        let mut reported = locked(&self.0);
        let is_news = match (reported.is_notable(), measured.is_notable()) {
            (false, false) => false,
            (true, true) => !measured.is_like(*reported),
            (true, false) | (false, true) => true,
        };
        if !is_news {
            return;
        }
        *reported = measured;
        drop(reported);
        if measured.is_notable() {
            tracing::warn!(
                "this host's clock is {measured}: lives of connection strings are counted from the fetch. \
                 Fix: set this host's clock (chronyc tracking, timedatectl)."
            );
        } else {
            tracing::info!("this host's clock and AWS's agree again");
        }
    }
}
