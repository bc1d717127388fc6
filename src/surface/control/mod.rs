//! The control socket, where `hopend status`, `hopend kill` and `hopend check` talk to a running daemon.
//!
//! It is a Unix socket for root and the daemon's own account. A client sends one request as a line of JSON. The
//! daemon answers with one line of JSON and closes the connection.

mod client;
mod server;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::telemetry::live::{GrantsPreview, SessionSelection};
use crate::telemetry::status::Status;
pub use client::{ControlError, request};
pub use server::{BoundControl, Control, ControlSocket, ControlView};

/// A request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// Asks for a snapshot of the daemon.
    Status,
    /// Ends one session.
    Kill {
        /// The session's number.
        session: u64,
    },
    /// Ends all sessions of a user, of an endpoint, or of a user at an endpoint.
    KillAll(SessionSelection),
    /// Asks which sessions a reload of this file would end.
    Preview {
        /// The absolute path of a configuration file.
        config: PathBuf,
    },
}

/// The daemon's response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlResponse {
    /// The response to [`ControlRequest::Status`].
    Status(Box<Status>),
    /// The response to [`ControlRequest::Kill`]: the session has ended.
    Killed,
    /// No session, user or endpoint matches a request to end sessions. The text says what to do.
    NoSession(String),
    /// The response to [`ControlRequest::KillAll`]: the sessions have ended.
    KilledAll {
        /// The number of sessions.
        ended: u64,
    },
    /// The response to [`ControlRequest::Preview`].
    Preview(GrantsPreview),
    /// The client's account may not use the control socket.
    Denied(String),
    /// The daemon could not serve the request.
    Failed(String),
}
