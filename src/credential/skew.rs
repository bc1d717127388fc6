//! Tells when this host's clock and AWS's disagree, and when they agree again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use finspace::ClockSkew;

/// What was told last.
#[derive(Debug)]
pub(super) struct SkewReports(Mutex<ClockSkew>);

impl Default for SkewReports {
    fn default() -> Self {
        Self(Mutex::new(ClockSkew::Ahead(Duration::ZERO)))
    }
}

impl SkewReports {
    /// Tells what was measured, if that is news.
    pub(super) fn take_in(&self, measured: ClockSkew) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match (told.is_notable(), measured.is_notable()) {
            (false, false) => false,
            (true, true) => !measured.is_like(*told),
            (true, false) | (false, true) => true,
        };
        if !is_news {
            return;
        }
        *told = measured;
        drop(told);
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
