//! The interfaces of a running daemon for administrators: the admin address (HTTP), the control socket, the
//! metrics and the status page.
//!
//! Each interface sees the daemon through a narrow trait. `services.rs` implements them for the services that
//! all sessions share.

pub mod admin;
pub mod control;
mod metrics;
mod page;
mod services;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinError;

use crate::telemetry::status::Status;

/// A future snapshot of the daemon.
pub type StatusSnapshot = BoxFuture<'static, Result<Arc<Status>, JoinError>>;

/// Takes snapshots of the daemon.
pub trait StatusSource: Send + Sync {
    /// Takes a snapshot that is not older than this call. Concurrent callers may share one. It fails if the code
    /// that takes it panics.
    fn snapshot(self: Arc<Self>) -> StatusSnapshot;
}
