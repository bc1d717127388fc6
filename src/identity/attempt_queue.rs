//! Queues the password attempts of each origin, so that a client gains nothing from many attempts at
//! the same time.

use base::mutex::locked;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Origin;

/// The queues of all origins with an attempt that waits or runs.
#[derive(Debug)]
pub(super) struct AttemptQueues {
    queues: Mutex<HashMap<Origin, Arc<AttemptQueue>>>,
    /// The most attempts of one origin that run at the same time, if none has failed.
    concurrent: usize,
}

/// The semaphores that the attempts of one origin pass.
#[derive(Debug)]
struct AttemptQueue {
    /// Every attempt holds a permit.
    all: Arc<Semaphore>,
    /// After a failure, an attempt of this origin also holds the only permit of this semaphore.
    after_failure: Arc<Semaphore>,
}

/// An attempt's turn, which ends when it is dropped.
#[derive(Debug)]
pub struct AttemptTurn<'q> {
    _permit: Option<OwnedSemaphorePermit>,
    _permit_after_failure: Option<OwnedSemaphorePermit>,
    // This field is dropped last, because its drop removes a queue that nobody uses any more.
    _entry: QueueEntry<'q>,
}

/// Keeps an origin's queue as long as an attempt waits or runs. The last entry removes it.
#[derive(Debug)]
struct QueueEntry<'q> {
    queues: &'q AttemptQueues,
    origin: Origin,
    queue: Arc<AttemptQueue>,
}

impl AttemptQueues {
    /// `concurrent` attempts of one origin run at the same time.
    pub(super) fn new(concurrent: usize) -> Self {
        Self {
            queues: Mutex::default(),
            concurrent,
        }
    }

    /// Waits until an attempt of `origin` may run. If `has_failed` then returns true, also waits until
    /// no other attempt of the origin runs. Cancel-safe.
    pub(super) async fn turn(
        &self,
        origin: Origin,
        has_failed: impl FnOnce() -> bool,
    ) -> AttemptTurn<'_> {
        let entry = self.enter(origin);
        // The semaphores are never closed.
        let permit = Arc::clone(&entry.queue.all).acquire_owned().await.ok();
        let permit_after_failure = if has_failed() {
            let semaphore = Arc::clone(&entry.queue.after_failure);
            semaphore.acquire_owned().await.ok()
        } else {
            None
        };
        AttemptTurn {
            _permit: permit,
            _permit_after_failure: permit_after_failure,
            _entry: entry,
        }
    }

    fn enter(&self, origin: Origin) -> QueueEntry<'_> {
        let mut queues = self.lock();
        let queue = queues.entry(origin).or_insert_with(|| {
            Arc::new(AttemptQueue {
                all: Arc::new(Semaphore::new(self.concurrent)),
                after_failure: Arc::new(Semaphore::new(1)),
            })
        });
        QueueEntry {
            queues: self,
            origin,
            queue: Arc::clone(queue),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Arc<AttemptQueue>>> {
        locked(&self.queues)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        // Only the map and this entry still refer to the queue. While this thread holds the lock, no
        // attempt can add an entry.
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.origin);
        }
    }
}
