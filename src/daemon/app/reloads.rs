//! Reloads, one after the other, each prepared on a thread of its own.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::prepare::{NotPrepared, Preparation, Prepared};

/// How long a preparation may take before the log says that it hangs, and before another reload that
/// was asked for meanwhile is begun beside it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Preparations that hang and were given up, at most. Each holds a thread.
const MOST_GIVEN_UP: usize = 4;

/// The reload that is carried out, and whether another one was asked for meanwhile.
pub(super) struct Reloads {
    path: PathBuf,
    current: Option<Current>,
    again: bool,
    /// Held by each preparation, those that were given up included.
    preparations: Arc<()>,
}

struct Current {
    prepared: JoinHandle<Result<Prepared, NotPrepared>>,
    /// When it counts as hanging.
    late: Instant,
    told: bool,
}

/// What has become of the reloads.
pub(super) enum Outcome {
    /// One can be swapped in.
    Prepared(Box<Prepared>),
    /// One changes nothing.
    NotPrepared(NotPrepared),
    /// One hangs, and another one is to be begun beside it.
    GivenUp,
}

impl Reloads {
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            current: None,
            again: false,
            preparations: Arc::default(),
        }
    }

    /// Begins a reload. While another one is carried out the new one waits for it, with all others
    /// that are asked for until then: the file is read once more, and what it says last is served.
    /// True if it has begun.
    pub(super) fn ask(&mut self, preparation: impl FnOnce() -> Preparation) -> bool {
        if self.current.is_some() {
            tracing::info!("a reload is under way; the file will be read once more behind it");
            self.again = true;
            return false;
        }
        let (path, preparation) = (self.path.clone(), preparation());
        let held = Arc::clone(&self.preparations);
        let prepared = spawn_blocking(move || {
            let prepared = preparation.load(&path);
            drop(held);
            prepared
        });
        self.again = false;
        self.current = Some(Current {
            prepared,
            late: Instant::now() + PATIENCE,
            told: false,
        });
        true
    }

    /// Whether another reload was asked for that has not begun.
    pub(super) fn is_asked_again(&self) -> bool {
        self.again && self.current.is_none()
    }

    /// Waits for the reload that is carried out; for ever while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Outcome {
        loop {
            let given_up = Arc::strong_count(&self.preparations).saturating_sub(2);
            let Some(current) = &mut self.current else {
                return pending().await;
            };
            let waits = current.told && !(self.again && given_up < MOST_GIVEN_UP);
            tokio::select! {
                biased;
                prepared = &mut current.prepared => {
                    self.current = None;
                    return match prepared {
                        Ok(Ok(prepared)) => Outcome::Prepared(Box::new(prepared)),
                        Ok(Err(not)) => Outcome::NotPrepared(not),
                        Err(panicked) => {
                            Outcome::NotPrepared(NotPrepared::Reason(panicked.to_string()))
                        }
                    };
                }
                () = sleep_until(current.late), if !waits => {}
            }
            if !current.told {
                current.told = true;
                tracing::warn!(
                    "the reload has not come back for {} s, and the old configuration serves on: a \
                     mount or the account database may hang. Fix: mend it, or reload again.",
                    PATIENCE.as_secs()
                );
            }
            if self.again && given_up < MOST_GIVEN_UP {
                // It ends by itself or with the process; what it prepares is dropped.
                self.current = None;
                return Outcome::GivenUp;
            }
        }
    }
}
