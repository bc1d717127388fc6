//! Shares expensive snapshots between concurrent callers.
//!
//! A snapshot of the daemon reads through `/proc`, on a blocking thread that password checks and name
//! look-ups need as well. So hopend takes one snapshot at a time. Callers that ask meanwhile share the
//! next snapshot, and no caller waits for longer than two snapshots take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};

/// Serialises snapshots of type `T`, and shares each with all callers that it is recent enough for.
#[derive(Debug)]
pub struct SharedSnapshots<T> {
    /// The number of snapshots that have begun.
    begun: AtomicU64,
    /// The number of callers in [`Self::take`].
    callers: AtomicUsize,
    /// The last snapshot, kept while there are callers. The thread that takes a snapshot holds the lock.
    last: Arc<Mutex<Option<NumberedSnapshot<T>>>>,
}

#[derive(Debug)]
struct NumberedSnapshot<T> {
    /// The value of [`SharedSnapshots::begun`] when this one began: the first one is 1.
    number: u64,
    snapshot: Arc<T>,
}

impl<T> Default for SharedSnapshots<T> {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
            callers: AtomicUsize::new(0),
            last: Arc::default(),
        }
    }
}

impl<T: Send + Sync + 'static> SharedSnapshots<T> {
    /// Returns a snapshot that began after this call. If another caller has taken one, this returns it.
    /// Otherwise it runs `take_snapshot` on a blocking thread. A caller that is dropped does not stop a
    /// snapshot that has begun, and the next one still waits for its end.
    ///
    /// # Errors
    /// `take_snapshot` panicked.
    pub async fn take(
        &self,
        take_snapshot: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Arc<T>, JoinError> {
        let before = self.begun.load(Ordering::SeqCst);
        let _caller = WaitingCaller::register(self);
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some(last) = &*last
            && last.number > before
        {
            return Ok(Arc::clone(&last.snapshot));
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        spawn_blocking(move || {
            let snapshot = Arc::new(take_snapshot());
            *last = Some(NumberedSnapshot {
                number,
                snapshot: Arc::clone(&snapshot),
            });
            snapshot
        })
        .await
    }
}

/// Counts one caller until it is dropped. The last caller drops the kept snapshot.
struct WaitingCaller<'a, T>(&'a SharedSnapshots<T>);

impl<'a, T> WaitingCaller<'a, T> {
    fn register(snapshots: &'a SharedSnapshots<T>) -> Self {
        snapshots.callers.fetch_add(1, Ordering::SeqCst);
        Self(snapshots)
    }
}

impl<T> Drop for WaitingCaller<'_, T> {
    fn drop(&mut self) {
        if self.0.callers.fetch_sub(1, Ordering::SeqCst) == 1
            && let Ok(mut last) = self.0.last.try_lock()
        {
            *last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    /// A snapshot that lasts until the sender sends something.
    fn held() -> (mpsc::Sender<()>, impl FnOnce() -> u64 + Send) {
        let (end, wait) = mpsc::channel();
        let take_snapshot = move || {
            wait.recv().unwrap();
            0
        };
        (end, take_snapshot)
    }

    #[tokio::test]
    async fn callers_during_a_snapshot_share_the_next_one() {
        let snapshots = SharedSnapshots::default();
        let taken = Arc::new(AtomicU64::new(0));
        let (end, held) = held();
        let mut first = std::pin::pin!(snapshots.take(held));
        assert!(futures_util::poll!(&mut first).is_pending());
        let others = (0..50).map(|_| {
            let taken = Arc::clone(&taken);
            snapshots.take(move || taken.fetch_add(1, Ordering::SeqCst) + 1)
        });
        let mut others = std::pin::pin!(join_all(others));
        assert!(futures_util::poll!(&mut others).is_pending());
        end.send(()).unwrap();
        assert_eq!(*first.await.unwrap(), 0);
        let seen = others.await;
        assert!(seen.into_iter().all(|seen| *seen.unwrap() == 1));
        assert_eq!(taken.load(Ordering::SeqCst), 1);
        // No caller is left: nothing is kept, and the next call takes another snapshot.
        assert!(snapshots.last.lock().await.is_none());
        assert_eq!(*snapshots.take(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_caller_that_is_dropped_does_not_let_the_next_snapshot_begin_earlier() {
        let snapshots = SharedSnapshots::default();
        let (end, held) = held();
        assert!(futures_util::poll!(std::pin::pin!(snapshots.take(held))).is_pending());
        let mut further = std::pin::pin!(snapshots.take(|| 1));
        assert!(futures_util::poll!(&mut further).is_pending());
        assert_eq!(snapshots.begun.load(Ordering::SeqCst), 1);
        end.send(()).unwrap();
        assert_eq!(*further.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_snapshot_that_panics_fails_only_its_own_caller() {
        let snapshots = SharedSnapshots::default();
        let panicked = snapshots.take(|| -> u64 { panic!("on purpose") }).await;
        assert!(panicked.is_err());
        assert_eq!(*snapshots.take(|| 1).await.unwrap(), 1);
    }
}
