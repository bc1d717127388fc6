//! What a running daemon shows of itself: the rows behind `hopend status`, its JSON, and the q
//! tables of a console endpoint. Data only; nothing in it is a secret.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::LeftOut;

/// A character as it may be shown on any terminal: a question mark for what would move its cursor or
/// turn the direction of what stands around it.
pub fn printable(c: char) -> char {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns { '?' } else { c }
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// When it started.
    pub started: Timestamp,
    /// When this was true.
    pub now: Timestamp,
    /// Parts of the configuration that are not served, in its order.
    #[serde(default)]
    pub left_out: Vec<LeftOutRow>,
    /// In the order of the configuration.
    pub endpoints: Vec<EndpointRow>,
    /// Open sessions, oldest first.
    pub sessions: Vec<SessionRow>,
    /// By endpoint and user.
    pub credentials: Vec<CredentialRow>,
    /// The last of each endpoint, user and reason; newest first, bounded in number.
    pub errors: Vec<ErrorRow>,
    /// The memory budget. None from a daemon that has none.
    #[serde(default)]
    pub memory: Option<MemoryRow>,
}

/// What the buffers of sessions and handshakes hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// What they may hold: `max_memory` of `[daemon]`.
    pub budget_bytes: u64,
    /// What is charged to all of them.
    pub used_bytes: u64,
    /// What is charged to clients that have not said who they are.
    pub handshakes_bytes: u64,
}

/// A part of the configuration that is not served, or that is served as it was before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOutRow {
    /// `environment`, `user`, `endpoint` or `viewer`.
    pub kind: String,
    /// What the configuration calls it; empty where the name itself is wrong.
    pub name: String,
    /// The line of the file.
    pub line: usize,
    /// `broken`; `kept` for an endpoint that goes on as it was; `proof_gone` for a user whose password
    /// was taken away; `account_unknown` for one whose account hopend goes on asking for.
    pub state: String,
    /// What is wrong and what to do, as `hopend check` prints it.
    pub reason: String,
}

impl From<&LeftOut> for LeftOutRow {
    fn from(left_out: &LeftOut) -> Self {
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
    /// What the configuration calls it.
    pub name: String,
    /// Addresses it is bound to.
    pub listen: Vec<String>,
    /// Addresses that it is not bound to: clients there reach nobody, or another account.
    #[serde(default)]
    pub unbound: Vec<UnboundRow>,
    /// Where it leads, for people to read.
    pub target: String,
    /// Open sessions.
    pub sessions: u64,
    /// How many there may be.
    pub max_sessions: u64,
    /// Sessions opened since the daemon started.
    pub opened: u64,
    /// Sessions refused since the daemon started.
    pub refused: u64,
    /// Where its sessions can go: addresses of `connect`, or nodes.
    pub places: Vec<PlaceRow>,
    /// Connections that are kept logged in, by user.
    #[serde(default)]
    pub warm: Vec<WarmRow>,
}

/// An address where hopend does not listen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnboundRow {
    /// As the configuration has it.
    pub address: String,
    /// The socket that another process has: of `localhost`, the one of either family.
    pub socket: Option<String>,
    /// When it could not be bound for the first time.
    pub since: Timestamp,
    /// What keeps hopend from it: who holds which socket, or what the system says.
    pub reason: String,
    /// The account that listens there instead.
    pub uid: Option<u32>,
    /// The process that does, where hopend or the reader of this may see it.
    pub pid: Option<u32>,
    /// Its program.
    pub program: Option<String>,
}

/// One address of `connect`, or one node of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceRow {
    /// The address or the node's id.
    pub name: String,
    /// A node's availability zone; empty for an address.
    pub zone: String,
    /// Seconds since it failed first; none while it works.
    #[serde(default)]
    pub down_s: Option<f64>,
    /// Seconds that it is left alone after a failure; none while it is used.
    pub resting_s: Option<f64>,
    /// What its last failure said, while it is down.
    pub reason: Option<String>,
}

/// What an endpoint keeps logged in for one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmRow {
    /// The `[[user]]`.
    pub user: String,
    /// Connections that wait for a session.
    pub ready: u64,
    /// How many there should be.
    pub wanted: u64,
    /// What went wrong last, while there are fewer.
    pub reason: Option<String>,
}

/// One open session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its number, as in the log: what `hopend kill` takes.
    pub session: u64,
    /// The endpoint it came in by.
    pub endpoint: String,
    /// The `[[user]]` it was found to be.
    pub user: String,
    /// The local account, where the kernel tells.
    pub account: Option<String>,
    /// The client's process, where the kernel tells.
    pub pid: Option<u32>,
    /// Its program.
    pub program: Option<String>,
    /// Where the client is.
    pub client: String,
    /// The address of this host that it dialled, over TCP.
    #[serde(default)]
    pub server: Option<String>,
    /// The address of kdb+ that was dialled.
    pub target: String,
    /// The node, where one was chosen.
    pub node: Option<String>,
    /// When it opened.
    pub since: Timestamp,
    /// Seconds since a byte went either way, keepalives apart.
    pub idle_s: f64,
    /// Bytes from the client to the cluster.
    pub bytes_up: u64,
    /// Bytes from the cluster to the client.
    pub bytes_down: u64,
    /// Messages from the client to the cluster.
    pub messages_up: u64,
    /// Messages from the cluster to the client.
    pub messages_down: u64,
    /// Sync requests without an answer yet.
    pub outstanding: u64,
    /// Keepalives sent.
    pub pings: u64,
}

/// One credential that is kept ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CredentialRow {
    /// The `[[user]]` whose it is.
    pub user: String,
    /// Endpoints that use it.
    pub endpoints: Vec<String>,
    /// What it is, for people to read.
    pub what: String,
    /// Seconds since it was fetched.
    pub age_s: Option<f64>,
    /// Seconds that it may still be used.
    pub left_s: Option<f64>,
    /// Seconds until it is fetched again; none while nobody uses it.
    pub refresh_s: Option<f64>,
    /// Successful fetches so far.
    pub fetches: u64,
    /// Fetches that failed so far.
    #[serde(default)]
    pub failures: u64,
    /// What the last failed fetch said, with its remedy, if none succeeded since.
    pub last_error: Option<String>,
}

/// One failure that was told to a client, or would have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorRow {
    /// When it last happened.
    pub time: Timestamp,
    /// At which endpoint.
    pub endpoint: String,
    /// The `[[user]]`, where it was known.
    pub user: Option<String>,
    /// The side at fault, as [`base::error::ErrorKind::name`] has it.
    pub side: String,
    /// What happened and what to do.
    pub message: String,
    /// How often since the daemon started.
    pub count: u64,
}
