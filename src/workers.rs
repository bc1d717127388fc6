//! Where sessions run: one single-threaded runtime a core. A session stays with its runtime, so that
//! neither its wake-ups nor its buffers move from core to core.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// The runtimes. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    turn: AtomicUsize,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    sessions: Arc<AtomicUsize>,
}

/// A session's place on a worker, free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Workers {
    /// One runtime a core.
    ///
    /// # Errors
    /// The system gives no thread, or no epoll.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = watch::Sender::new(false);
        let mut workers = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.push(Worker {
                handle: runtime.handle().clone(),
                sessions: Arc::default(),
            });
            let mut stopped = stop.subscribe();
            let thread = std::thread::Builder::new().name(format!("sessions-{number}"));
            thread.spawn(move || {
                runtime.block_on(async {
                    // An error is the end of the sender, which is the end of it all.
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                });
                runtime.shutdown_background();
            })?;
        }
        Ok(Self {
            workers,
            turn: AtomicUsize::new(0),
            stop,
        })
    }

    /// Returns when every worker has run a task since the call: one that hangs keeps it.
    pub async fn turn(&self) {
        let tasks: Vec<_> = self
            .workers
            .iter()
            .map(|worker| worker.handle.spawn(async {}))
            .collect();
        for task in tasks {
            // One that is shutting down does not hang.
            let _ = task.await;
        }
    }

    /// The worker with the fewest sessions, in turn where they are equal.
    pub fn next(&self) -> (Handle, Place) {
        let count = self.workers.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|nth| &self.workers[first.wrapping_add(nth) % count]);
        let sessions = |worker: &&Worker| worker.sessions.load(Ordering::Relaxed);
        let worker = in_turn.min_by_key(sessions).unwrap_or(&self.workers[0]);
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        (worker.handle.clone(), Place(Arc::clone(&worker.sessions)))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Not waited for: the last session to let go may run on one of them.
        self.stop.send_replace(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_go_where_there_are_the_fewest() {
        let workers = Workers::start().unwrap();
        let count = workers.workers.len();
        let places: Vec<_> = (0..3 * count).map(|_| workers.next().1).collect();
        let loads = |workers: &Workers| -> Vec<usize> {
            let all = workers.workers.iter();
            all.map(|worker| worker.sessions.load(Ordering::Relaxed))
                .collect()
        };
        assert_eq!(loads(&workers), vec![3; count]);
        drop(places);
        assert_eq!(loads(&workers), vec![0; count]);
    }

    #[tokio::test]
    async fn a_worker_that_hangs_keeps_the_turn_from_its_end() {
        let workers = Workers::start().unwrap();
        workers.turn().await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (worker, _place) = workers.next();
        worker.spawn(async move {
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
    fn what_is_spawned_runs_there() {
        let workers = Workers::start().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let (handle, _place) = workers.next();
        handle.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let name = std::thread::current().name().map(ToOwned::to_owned);
            sender.send(name).unwrap();
        });
        let name = receiver.recv().unwrap().unwrap();
        assert!(name.starts_with("sessions-"), "{name}");
    }
}
