//! The workers, on which sessions run. A worker is a single-threaded runtime, and each core has one
//! worker. A session stays on its worker, so that neither its wake-ups nor its buffers move from core
//! to core.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use q_relay::crypto;

thread_local! {
    /// The index of the worker that owns this thread. `None` on a thread that no worker owns.
    static OWN_WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// All workers. Their threads end when this value is dropped.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    /// Counts requests for a worker. Among workers with equally many sessions, the count decides.
    next: AtomicUsize,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// How many slots are taken.
    sessions: Arc<AtomicUsize>,
}

/// A slot for a session on a worker. Dropping the value frees the slot.
#[derive(Debug)]
pub struct WorkerSlot {
    runtime: Handle,
    is_on_this_thread: bool,
    sessions: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts one worker for each core.
    ///
    /// # Errors
    /// The system grants no thread or no epoll instance.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = watch::Sender::new(false);
        let mut workers = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.push(Worker {
                runtime: runtime.handle().clone(),
                sessions: Arc::default(),
            });
            let mut stopped = stop.subscribe();
            let thread = std::thread::Builder::new().name(format!("sessions-{number}"));
            thread.spawn(move || {
                OWN_WORKER.set(Some(number));
                crypto::warm_up();
                runtime.block_on(async {
                    // An error means that the sender is dropped, which ends the worker too.
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                });
                runtime.shutdown_background();
            })?;
        }
        Ok(Self {
            workers,
            next: AtomicUsize::new(0),
            stop,
        })
    }

    /// Returns once every worker has run a task since the call. Does not return while a worker hangs.
    pub async fn turn(&self) {
        let tasks: Vec<_> = self
            .workers
            .iter()
            .map(|worker| worker.runtime.spawn(async {}))
            .collect();
        for task in tasks {
            // An error means that the worker is shutting down, which is no hang.
            let _ = task.await;
        }
    }

    /// Takes a slot on the worker with the fewest sessions. Among workers with equally many sessions,
    /// chooses the worker of this thread, because then no socket has to move. On other threads, the
    /// workers take turns.
    pub fn slot(&self) -> WorkerSlot {
        let count = self.workers.len();
        let first = OWN_WORKER
            .get()
            .unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
        let in_turn = (0..count).map(|nth| first.wrapping_add(nth) % count);
        let sessions = |index: &usize| self.workers[*index].sessions.load(Ordering::Relaxed);
        let index = in_turn.min_by_key(sessions).unwrap_or(0);
        let worker = &self.workers[index];
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        WorkerSlot {
            runtime: worker.runtime.clone(),
            is_on_this_thread: OWN_WORKER.get() == Some(index),
            sessions: Arc::clone(&worker.sessions),
        }
    }

    /// The runtime of a worker, for a task that is no session. The workers take turns.
    pub fn any(&self) -> &Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.workers[next % self.workers.len()].runtime
    }
}

impl WorkerSlot {
    /// The runtime on which the session must run.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Whether the thread that took the slot belongs to the slot's worker.
    pub fn is_on_this_thread(&self) -> bool {
        self.is_on_this_thread
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // The drop does not wait for the threads, because the last session may drop the workers on one
        // of these threads.
        self.stop.send_replace(true);
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_go_where_there_are_the_fewest() {
        let workers = Workers::start().unwrap();
        let count = workers.workers.len();
        let slots: Vec<_> = (0..3 * count).map(|_| workers.slot()).collect();
        let loads = |workers: &Workers| -> Vec<usize> {
            let all = workers.workers.iter();
            all.map(|worker| worker.sessions.load(Ordering::Relaxed))
                .collect()
        };
        assert_eq!(loads(&workers), vec![3; count]);
        drop(slots);
        assert_eq!(loads(&workers), vec![0; count]);
    }

    #[tokio::test]
    async fn a_worker_that_hangs_keeps_the_turn_from_its_end() {
        let workers = Workers::start().unwrap();
        workers.turn().await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        workers.any().spawn(async move {
            let _ = held.recv();
        });
        let turn = workers.turn();
        tokio::pin!(turn);
        let a_while = std::time::Duration::from_millis(50);
        let early = tokio::time::timeout(a_while, &mut turn).await;
        assert!(early.is_err(), "the worker hangs");
        drop(release);
        turn.await;
    }

    #[test]
    fn what_is_spawned_runs_there_and_stays_there_while_it_can() {
        let workers = Arc::new(Workers::start().unwrap());
        let count = workers.workers.len();
        let (sender, receiver) = std::sync::mpsc::channel();
        let there = Arc::clone(&workers);
        workers.any().spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let name = std::thread::current().name().map(ToOwned::to_owned);
            let slots: Vec<_> = (0..count).map(|_| there.slot()).collect();
            let stay: Vec<_> = slots.iter().map(WorkerSlot::is_on_this_thread).collect();
            sender.send((name, stay)).unwrap();
        });
        let (name, stay) = receiver.recv().unwrap();
        let name = name.unwrap();
        assert!(name.starts_with("sessions-"), "{name}");
        let mut expected = vec![false; count];
        expected[0] = true;
        assert_eq!(stay, expected, "then the others have fewer");
        assert!(!workers.slot().is_on_this_thread());
    }
}
