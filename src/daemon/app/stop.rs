//! The stop: close the addresses, drain the sessions, cut the rest, write the last records.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::App;
use crate::session;

/// How long the sessions may take to close their sockets after they have been cut.
const CUT_GRACE: Duration = Duration::from_secs(5);
const _: () = assert!(
    session::MAX_CUT_DURATION.as_nanos() < CUT_GRACE.as_nanos(),
    "a session that is cut must end within the grace"
);

/// How the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSummary {
    /// Sessions that were open when the drain began.
    pub open: usize,
    /// Sessions that were still open when the drain ended, and were cut.
    pub cut: usize,
}

impl App {
    /// Accepts no more connections, lets sessions finish within the drain, and cuts the rest. The daemon
    /// goes on fetching and refreshing credentials until this returns.
    pub async fn stop(mut self) -> DrainSummary {
        // This step comes first, so that a client whose session ends cannot connect to this process again.
        self.close_addresses().await;
        self.end_probes();
        let summary = self.drain_sessions().await;
        self.close_warm_connections().await;
        // Until here `hopend status` shows what the drain waits for.
        if let Some(control) = self.control.take() {
            control.stop().await;
        }
        self.services.repeats.write_all(&self.services.audit);
        self.services.audit.stop().await;
        let DrainSummary { open, cut } = summary;
        tracing::info!(sessions = open, cut, "stopped");
        summary
    }

    async fn close_addresses(&mut self) {
        for listener in self.listeners.values() {
            listener.task.abort();
            listener.keeper.close();
        }
        for (_, listener) in self.listeners.drain() {
            let _ = listener.task.await;
        }
    }

    /// Ends the probes of all routes. Their warm connections begin to close.
    fn end_probes(&mut self) {
        for running in self.endpoints.values_mut() {
            drop(running.route_guard.take());
        }
    }

    async fn drain_sessions(&self) -> DrainSummary {
        let tasks = &self.services.tasks;
        let open = tasks.len();
        let limit = self.config.daemon.drain;
        tracing::info!(sessions = open, drain_s = limit.as_secs(), "stopping");
        self.shutdown.drain();
        tasks.close();
        let mut cut = 0;
        if timeout(limit, tasks.wait()).await.is_err() {
            cut = tasks.len();
            self.shutdown.cut();
            // A task that does not end even now ends with the process.
            let _ = timeout(CUT_GRACE, tasks.wait()).await;
        }
        DrainSummary { open, cut }
    }

    async fn close_warm_connections(&self) {
        let endpoints = self.endpoints.values();
        join_all(endpoints.map(|running| running.served.target.closed())).await;
    }
}
