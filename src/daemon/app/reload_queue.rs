//! Reloads one after the other, each prepared on a thread of its own.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::prepare::{DaemonSnapshot, PreparedReload, RejectedReload};

/// A preparation that takes longer counts as hanging: the log reports it, and the next reload that is
/// requested begins beside it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most preparations that may hang after they have been abandoned. Each holds a thread.
const MOST_ABANDONED: usize = 4;

/// The reload that is being prepared, and whether another one was requested since.
pub(super) struct ReloadQueue {
    path: PathBuf,
    preparing: Option<PreparingReload>,
    is_requested_again: bool,
    /// Counts the threads that prepare: each holds a clone, also after it has been abandoned.
    threads: Arc<()>,
}

struct PreparingReload {
    prepared: JoinHandle<Result<PreparedReload, RejectedReload>>,
    /// The time from which it counts as hanging.
    hangs_from: Instant,
    is_reported: bool,
}

/// The end of a preparation.
pub(super) enum FinishedReload {
    /// The daemon can put the configuration into force.
    Prepared(Box<PreparedReload>),
    /// The old configuration stays in force.
    Rejected(RejectedReload),
    /// The preparation hangs, and the daemon no longer waits for it.
    Abandoned,
}

impl ReloadQueue {
    /// An empty queue for the configuration file at `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            preparing: None,
            is_requested_again: false,
            threads: Arc::default(),
        }
    }

    /// Begins to prepare a reload and returns true.
    ///
    /// Returns false if one is being prepared. All requests until its end become one more reload, which
    /// reads the file again. So the last content of the file is served.
    pub(super) fn request(&mut self, snapshot: impl FnOnce() -> DaemonSnapshot) -> bool {
        if self.preparing.is_some() {
            tracing::info!("a reload is under way; hopend will read the file again when it ends");
            self.is_requested_again = true;
            return false;
        }
        let (path, snapshot) = (self.path.clone(), snapshot());
        let thread = Arc::clone(&self.threads);
        let prepared = spawn_blocking(move || {
            let prepared = snapshot.prepare_file(&path);
            drop(thread);
            prepared
        });
        self.is_requested_again = false;
        self.preparing = Some(PreparingReload {
            prepared,
            hangs_from: Instant::now() + PATIENCE,
            is_reported: false,
        });
        true
    }

    /// Whether a request waits that can begin now.
    pub(super) fn has_pending_request(&self) -> bool {
        self.is_requested_again && self.preparing.is_none()
    }

    /// Waits for the end of the preparation, or for ever if there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> FinishedReload {
        loop {
            let may_abandon = self.is_requested_again && self.abandoned() < MOST_ABANDONED;
            let Some(preparing) = &mut self.preparing else {
                return pending().await;
            };
            let acts_when_it_hangs = !preparing.is_reported || may_abandon;
            tokio::select! {
                biased;
                prepared = &mut preparing.prepared => {
                    self.preparing = None;
                    return match prepared {
                        Ok(Ok(prepared)) => FinishedReload::Prepared(Box::new(prepared)),
                        Ok(Err(rejected)) => FinishedReload::Rejected(rejected),
                        Err(panicked) => {
                            FinishedReload::Rejected(RejectedReload::Reason(panicked.to_string()))
                        }
                    };
                }
                () = sleep_until(preparing.hangs_from), if acts_when_it_hangs => {}
            }
            preparing.report_once();
            if may_abandon {
                // It ends by itself or with the process. Its result is dropped.
                self.preparing = None;
                return FinishedReload::Abandoned;
            }
        }
    }

    /// Threads that still hang, without the one of the current preparation.
    fn abandoned(&self) -> usize {
        // The queue itself and the current preparation hold one clone each.
        Arc::strong_count(&self.threads).saturating_sub(2)
    }
}

impl PreparingReload {
    fn report_once(&mut self) {
        if !self.is_reported {
            self.is_reported = true;
            tracing::warn!(
                "the reload has not finished after {} s, and the old configuration stays in force: a mount \
                 or the account database may hang. Fix: repair it, or reload again.",
                PATIENCE.as_secs()
            );
        }
    }
}
