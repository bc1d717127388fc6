//! The `[[endpoint]]` table: addresses that clients dial, and the target behind them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use q_relay::relay::KeepaliveSettings;
use secret::Secret;

use super::certificate_name::CertificateName;
use super::hash_cost::refusal_costs;
use super::listen_address::ListenAddress;
use super::server_tls::ServerTls;
use super::target::Target;
use super::user::User;

/// The warning about an endpoint that other hosts can reach without TLS.
pub(crate) const EXPOSED_WITHOUT_TLS: &str =
    "reachable from other hosts without TLS: passwords and data can be read on the way";
/// The remedy of [`EXPOSED_WITHOUT_TLS`].
pub(crate) const EXPOSED_WITHOUT_TLS_REMEDY: &str = "add tls = { cert, key } to the endpoint";

/// One or more local addresses, and the target that they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The endpoint's name, unique in the file.
    pub name: String,
    /// The addresses that clients dial.
    pub listen: Vec<ListenAddress>,
    /// Whether the endpoint may listen beyond this host's loopback. Only passwords and certificates
    /// identify clients from other hosts.
    pub expose: bool,
    /// TLS for clients that connect over TCP. `None` speaks plain q IPC.
    pub tls: Option<ServerTls>,
    /// The users who may use the endpoint.
    pub users: Vec<Arc<User>>,
    /// The names of users whom the file permits as well, but who are left out because of an error.
    pub users_left_out: Vec<String>,
    /// One argon2 hash of each cost among the users' passwords. hopend checks a wrong password against
    /// each of them, so that the time of a refusal reveals no user name.
    pub refusal_costs: Vec<Secret>,
    /// User names that q clients send by default, such as `anonymous`. Without a password they count as
    /// no name. The name of a configured user is never among them.
    pub default_user_names: Vec<String>,
    /// The certificates of the file's other users, who may not use the endpoint. Empty if the endpoint
    /// requires no client certificate.
    pub other_certificates: Vec<CertificateName>,
    /// The names of the file's other users, who may not use the endpoint. Empty if the endpoint requires
    /// no client certificate.
    pub other_user_names: Vec<String>,
    /// The kdb+ or the console that the endpoint leads to.
    pub target: Target,
    /// The keepalives that hopend sends to kdb+.
    pub keepalive: KeepaliveSettings,
    /// The maximum size of a message in either direction, in bytes.
    pub max_message: Option<u64>,
    /// The maximum size of a client's handshake, in bytes.
    pub max_handshake: usize,
    /// The time from accepting a connection until the end of the client's handshake.
    pub handshake_timeout: Duration,
    /// The time from choosing an address of the target until kdb+ there has accepted the login.
    pub connect_timeout: Duration,
    /// The maximum number of concurrent sessions.
    pub max_sessions: usize,
    /// The maximum number of concurrent sessions of one user.
    pub max_sessions_per_user: usize,
    /// The maximum number of opens per second.
    pub max_opens_per_second: Option<u32>,
    /// The maximum number of opens per second of one user.
    pub opens_per_user: OpensPerUser,
    /// hopend ends a session that has been idle for this long.
    pub idle_timeout: Option<Duration>,
    /// hopend ends a session that has been open for this long, once no response is outstanding.
    pub max_session_time: Option<Duration>,
    /// The number of logged-in connections that hopend keeps ready for each recent user.
    pub warm: usize,
    /// The way in which a client learns that its session could not be opened.
    pub errors: OnOpenFailure,
}

impl Endpoint {
    /// Recomputes the fields that depend on the endpoint's own `users` and on all `configured` users of
    /// the file. A reload calls this for an endpoint of the old file that continues with the users of the
    /// new file.
    pub(super) fn follow_users(&mut self, configured: &[Arc<User>]) {
        self.refusal_costs = refusal_costs(&self.users);
        let contain = |users: &[Arc<User>], name: &str| users.iter().any(|user| user.name == name);
        self.default_user_names
            .retain(|name| !contain(configured, name));
        if self
            .tls
            .as_ref()
            .is_some_and(ServerTls::requires_client_certificate)
        {
            let names = configured.iter().map(|user| user.name.clone());
            let others = names.filter(|name| !contain(&self.users, name));
            self.other_user_names.extend(others);
        }
    }

    /// The PEM file of the authorities that hopend trusts for certificates of kdb+. `None` trusts the
    /// system's roots.
    pub fn ca_file(&self) -> Option<&Path> {
        match &self.target {
            Target::FinSpace { environment, .. } => environment.ca_file.as_deref(),
            Target::Addresses { ca_file, .. } => ca_file.as_deref(),
            Target::Console { .. } => None,
        }
    }
}

/// The maximum number of sessions that one user may open at an endpoint per second
/// (`max_opens_per_second_per_user`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpensPerUser {
    /// hopend's built-in limit applies, unless the endpoint or the user sets `max_opens_per_second`.
    Default,
    /// There is no limit for one user.
    Unlimited,
    /// This number is the limit.
    PerSecond(u32),
}

/// The way in which a client learns that its session could not be opened (`errors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOpenFailure {
    /// hopend closes the connection, so hopen fails.
    Close,
    /// hopen succeeds, and hopend answers the first sync request with the reason as a q error. This
    /// helps people who type at a q prompt.
    Explain,
}
