//! Where sessions run: one single-threaded runtime a core. A session stays with its runtime, so that
//! neither its wake-ups nor its buffers move from core to core.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use q_relay::crypto;

thread_local! {
    /// Which worker's thread this is, if it is one's.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

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
pub struct Place {
    handle: Handle,
    is_here: bool,
    sessions: Arc<AtomicUsize>,
}

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
                HERE.set(Some(number));
                crypto::warm_up();
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

    /// A place on the worker with the fewest sessions: on the one that this is called from where
    /// none has fewer, as nothing has to move then; else in turn.
    pub fn place(&self) -> Place {
        let count = self.workers.len();
        let first = HERE
            .get()
            .unwrap_or_else(|| self.turn.fetch_add(1, Ordering::Relaxed));
        let in_turn = (0..count).map(|nth| first.wrapping_add(nth) % count);
        let sessions = |at: &usize| self.workers[*at].sessions.load(Ordering::Relaxed);
        let at = in_turn.min_by_key(sessions).unwrap_or(0);
        let worker = &self.workers[at];
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        Place {
            handle: worker.handle.clone(),
            is_here: HERE.get() == Some(at),
            sessions: Arc::clone(&worker.sessions),
        }
    }

    /// A worker for what is no session, in turn.
    pub fn any(&self) -> &Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.workers[turn % self.workers.len()].handle
    }
}

impl Place {
    /// The runtime that the session has to be spawned on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether that is the one that it was asked for on.
    pub fn is_here(&self) -> bool {
        self.is_here
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
        let places: Vec<_> = (0..3 * count).map(|_| workers.place()).collect();
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
            let places: Vec<_> = (0..count).map(|_| there.place()).collect();
            let stay: Vec<_> = places.iter().map(Place::is_here).collect();
            sender.send((name, stay)).unwrap();
        });
        let (name, stay) = receiver.recv().unwrap();
        let name = name.unwrap();
        assert!(name.starts_with("sessions-"), "{name}");
        let mut expected = vec![false; count];
        expected[0] = true;
        assert_eq!(stay, expected, "then the others have fewer");
        assert!(!workers.place().is_here());
    }
}
