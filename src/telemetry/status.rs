//! The snapshot of a running daemon that `hopend status`, its JSON, the status page and the q tables of a
//! console endpoint are made from. It is plain data and contains no secret.
//!
//! Byte and message counters start at 0 with the daemon or with the session that they belong to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::LeftOutPart;

/// Everything that the daemon shows about itself, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// When this snapshot was taken.
    pub now: Timestamp,
    /// Parts of the configuration that the daemon does not serve as written, in the file's order.
    #[serde(default)]
    pub left_out: Vec<LeftOutRow>,
    /// The endpoints, in the configuration's order.
    pub endpoints: Vec<EndpointRow>,
    /// The open sessions, oldest first.
    pub sessions: Vec<SessionRow>,
    /// The credentials that the daemon holds, in the order of the endpoints and their users.
    pub credentials: Vec<CredentialRow>,
    /// The most recent failures, newest first: one row for each endpoint, user and message. Their number is
    /// bounded.
    pub errors: Vec<ErrorRow>,
    /// The memory budget. `None` if an older daemon without a budget sent this status.
    #[serde(default)]
    pub memory: Option<MemoryRow>,
}

/// The memory that the buffers of sessions and handshakes use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// The limit: `max_memory` of `[daemon]`.
    pub budget_bytes: u64,
    /// The memory that sessions and handshakes are charged for together.
    pub used_bytes: u64,
    /// The part of `used_bytes` that belongs to clients that have not identified themselves yet.
    pub handshakes_bytes: u64,
}

/// A part of the configuration that the daemon does not serve, or serves as it was before the last reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOutRow {
    /// The kind of part: `environment`, `user`, `endpoint` or `viewer`.
    pub kind: String,
    /// The part's name in the configuration. Empty if the name itself is invalid.
    pub name: String,
    /// The line of the configuration file, counted from 1.
    pub line: usize,
    /// `broken`; `kept` for an endpoint that runs with its former configuration; `proof_gone` for a user
    /// whose line is missing in the password file; `account_unknown` for a user whose account does not exist
    /// yet.
    pub state: String,
    /// The error and its remedy, as `hopend check` prints them.
    pub reason: String,
}

impl From<&LeftOutPart> for LeftOutRow {
    fn from(left_out: &LeftOutPart) -> Self {
        Self {
            kind: left_out.part.kind.name().to_owned(),
            name: left_out.part.name.clone(),
            line: left_out.part.line,
            state: left_out.cause.name().to_owned(),
            reason: left_out.reason.clone(),
        }
    }
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// The endpoint's name in the configuration.
    pub name: String,
    /// The addresses where hopend listens.
    pub listen: Vec<String>,
    /// The addresses of `listen` that hopend could not bind. Clients that dial them fail, or reach another
    /// account's process.
    #[serde(default)]
    pub unbound: Vec<UnboundRow>,
    /// The target, as text for people.
    pub target: String,
    /// The number of open sessions.
    pub sessions: u64,
    /// The most sessions that may be open: `max_sessions`.
    pub max_sessions: u64,
    /// The number of sessions opened since the daemon started.
    pub opened: u64,
    /// The number of sessions refused since the daemon started.
    pub refused: u64,
    /// The addresses of the target: entries of `connect`, or nodes of a cluster.
    pub addresses: Vec<AddressRow>,
    /// The connections that hopend keeps logged in, one row for each user.
    #[serde(default)]
    pub warm: Vec<WarmRow>,
}

/// An address of `listen` that hopend could not bind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnboundRow {
    /// The address as configured.
    pub address: String,
    /// The socket address that another process occupies. For `localhost`, which stands for two sockets, it
    /// names the one that is taken.
    pub socket: Option<String>,
    /// When binding first failed.
    pub since: Timestamp,
    /// Why binding fails: the process that occupies the socket, or the system's error.
    pub reason: String,
    /// The account of the process that occupies the socket.
    pub uid: Option<u32>,
    /// The process that occupies the socket, if the daemon has the permission to see it.
    pub pid: Option<u32>,
    /// The program name of that process.
    pub program: Option<String>,
}

/// One address of a target: an entry of `connect`, or a node of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address, or the node's id.
    pub name: String,
    /// The node's availability zone. Empty for an entry of `connect`.
    pub zone: String,
    /// Seconds since the first of the failures that still last. `None` while the address works.
    #[serde(default)]
    pub down_s: Option<f64>,
    /// Seconds until hopend uses the address again after a failure. `None` while it is in use.
    pub resting_s: Option<f64>,
    /// The last failure's message, while the address is down.
    pub reason: Option<String>,
}

/// The connections that an endpoint keeps logged in for one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmRow {
    /// The `[[user]]`'s name.
    pub user: String,
    /// The number of connections that are logged in and wait for a session.
    pub ready: u64,
    /// The number of connections that hopend tries to keep logged in.
    pub wanted: u64,
    /// The last failure's message, while `ready` is less than `wanted`.
    pub reason: Option<String>,
}

/// One open session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The session's number, as in the log. `hopend kill` takes it.
    pub session: u64,
    /// The endpoint that the client dialled.
    pub endpoint: String,
    /// The `[[user]]` that the client was identified as.
    pub user: String,
    /// The client's local account, if the kernel reports it.
    pub account: Option<String>,
    /// The client's process, if the kernel reports it.
    pub pid: Option<u32>,
    /// The program name of that process.
    pub program: Option<String>,
    /// The client's address, or `unix` for a Unix socket.
    pub client: String,
    /// The address of this host that the client dialled. `None` for a Unix socket.
    #[serde(default)]
    pub server: Option<String>,
    /// The address of the kdb+ process that hopend dialled.
    pub target: String,
    /// The node's id, if the target is a cluster.
    pub node: Option<String>,
    /// When the session opened.
    pub since: Timestamp,
    /// Seconds since the last byte in either direction. Keepalives do not count.
    pub idle_s: f64,
    /// Bytes from the client to kdb+.
    pub bytes_up: u64,
    /// Bytes from kdb+ to the client.
    pub bytes_down: u64,
    /// Messages from the client to kdb+.
    pub messages_up: u64,
    /// Messages from kdb+ to the client.
    pub messages_down: u64,
    /// Sync requests that kdb+ has not answered yet.
    pub outstanding: u64,
    /// Keepalives that hopend has sent to kdb+.
    pub pings: u64,
}

/// One credential that the daemon holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CredentialRow {
    /// The `[[user]]` that the credential belongs to.
    pub user: String,
    /// The endpoints that use the credential.
    pub endpoints: Vec<String>,
    /// The credential's description for people.
    pub what: String,
    /// Seconds since the credential was fetched.
    pub age_s: Option<f64>,
    /// Seconds until the credential expires. `None` while hopend has no credential.
    pub left_s: Option<f64>,
    /// Seconds until the next fetch. `None` while no endpoint uses the credential.
    pub refresh_s: Option<f64>,
    /// The number of successful fetches.
    pub fetches: u64,
    /// The number of failed fetches.
    #[serde(default)]
    pub failures: u64,
    /// The last failed fetch's message and remedy, unless a later fetch succeeded.
    pub last_error: Option<String>,
}

/// A failure of one or more sessions, with the message that the client may see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorRow {
    /// When the failure last happened.
    pub time: Timestamp,
    /// The endpoint where it happened.
    pub endpoint: String,
    /// The `[[user]]`, if the client had been identified.
    pub user: Option<String>,
    /// The party that caused it: a value of [`base::error::ErrorKind::name`].
    pub side: String,
    /// The failure and its remedy.
    pub message: String,
    /// The number of occurrences since the daemon started. hopend may forget old failures.
    pub count: u64,
}
