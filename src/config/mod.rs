//! The configuration, resolved: every value in it has been checked and needs no second check.
//!
//! [`load`] and [`parse`] turn the TOML file into a [`Config`], or into all of its [`Problems`].

mod account;
mod address;
mod admin;
mod certificate;
mod daemon;
mod endpoint;
mod environment;
mod file;
mod hash_cost;
mod keepalive;
mod left_out;
mod limit;
mod load;
mod login;
mod loopback;
mod loops;
mod machine_memory;
mod max_memory;
mod named;
mod notice;
mod password_file;
mod privileged_port;
mod problem;
mod reader;
pub(crate) mod server_tls;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod user;
mod value;
mod viewers;

pub use account::{AccountDatabase, Accounts, LocalAccount, system_account};

pub use admin::{AdminSettings, Exposure};
pub use certificate::CertificateName;
pub(crate) use endpoint::{PLAIN, PLAIN_REMEDY};
pub use hash_cost::hash_cost;
#[cfg(test)]
pub(crate) use hash_cost::refusal_costs;
pub use left_out::{LeftOut, LeftOutCause, Loaded, Part, PartKind, Reach};
pub use load::{control, load, load_in_part, load_to_look_at, load_to_serve, parse, parse_in_part};
pub use loopback::{HOSTS, SingleFamily, single_families};
pub use machine_memory::MachineMemory;
pub use max_memory::MaxMemory;
pub use notice::{Notice, Severity};
pub use problem::{Problem, Problems};
pub use viewers::Viewers;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::address::Address;
use finspace::FinSpaceUser;
use finspace::environment::Environment;
use finspace::role_arn::RoleArn;
use q_relay::relay::KeepaliveSettings;
use secret::Secret;

/// Everything one TOML file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[environment.NAME]`, by name.
    pub environments: Vec<Arc<Environment>>,
    /// `[[user]]`, in the order of the file.
    pub users: Vec<Arc<User>>,
    /// `[[endpoint]]`, in the order of the file.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Every file that is named, as it is named.
    pub files: Vec<PathBuf>,
    /// What is not as it should be, although the file is right.
    pub notices: Vec<Notice>,
}

/// `[daemon]`: what concerns the process and not one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Where health, metrics and the status page are served over HTTP, if anywhere.
    pub admin: Option<AdminSettings>,
    /// Who may see the status page there.
    pub viewers: Viewers,
    /// Form of the log.
    pub log: LogFormat,
    /// The file that audit lines go to, beside the log.
    pub audit: Option<PathBuf>,
    /// How long sessions with something outstanding may go on after SIGTERM.
    pub drain: Duration,
    /// The Unix socket that `hopend status` and `hopend kill` ask; none is bound without one.
    pub control: Option<PathBuf>,
    /// Availability zone id of this host, for `node = "zone"`; asked of instance metadata without
    /// one.
    pub zone: Option<String>,
    /// Most sessions at a time, of all endpoints; as many as the file descriptors allow without one.
    pub max_sessions: Option<usize>,
    /// Most opens a second, of all endpoints.
    pub max_opens_per_second: Option<u32>,
    /// What the buffers of sessions and handshakes may hold.
    pub max_memory: MaxMemory,
    /// Whether the daemon confines itself.
    pub confine: Confine,
    /// What becomes of live sessions whose user loses access by a reload.
    pub on_removal: OnRemoval,
}

/// What becomes of live sessions whose user loses access by a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoval {
    /// They end.
    End,
    /// They go on until they end by themselves.
    Keep,
}

/// Whether the daemon confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confine {
    /// As far as the kernel can.
    Auto,
    /// It does, or it does not start.
    Strict,
    /// No.
    Off,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A person or service, known here by one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What hopen's user must be, if it is given.
    pub name: String,
    /// The local account that is this user.
    pub os_user: Option<LocalAccount>,
    /// What hopen's password must match.
    pub password: Option<Verifier>,
    /// The FinSpace user.
    pub kx_user: String,
    /// The role to assume; asked of FinSpace (GetKxUser) without one.
    pub role_arn: Option<RoleArn>,
    /// Whether a console shows this user everybody's rows, and not only the user's own.
    pub console: bool,
    /// What a client's certificate is called that is this user's.
    pub certificate: Option<CertificateName>,
    /// Most sessions at a time, on all endpoints.
    pub max_sessions: Option<usize>,
    /// Most opens a second, on all endpoints.
    pub max_opens_per_second: Option<u32>,
    /// Sessions that nobody used for this long end.
    pub idle_timeout: Option<Duration>,
    /// Sessions that were open for this long end, once they owe no answer.
    pub max_session_time: Option<Duration>,
}

/// A local account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    /// Name in the account database.
    pub name: String,
    /// What the kernel calls it.
    pub uid: u32,
}

/// What a password is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifier {
    /// A PHC string, `$argon2id$…`, as `hopend hash-password` prints it.
    Argon2(Secret),
    /// A plain line of a q password file.
    Plain(Secret),
    /// An MD5 line of a q password file.
    Md5([u8; 16]),
    /// A SHA-1 line of a q password file.
    Sha1([u8; 20]),
}

/// How many sessions one user may open at an endpoint within a second
/// (`max_opens_per_second_per_user`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpensPerUser {
    /// hopend's own limit, unless the endpoint or the user has a `max_opens_per_second`.
    Default,
    /// Any number.
    Unlimited,
    /// This number.
    PerSecond(u32),
}

/// One local address, or several, and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What the file calls it.
    pub name: String,
    /// Where it listens.
    pub listen: Vec<ListenAddress>,
    /// Whether addresses beyond this host's loopback are allowed; there only passwords and
    /// certificates count.
    pub expose: bool,
    /// TLS towards clients that come over TCP.
    pub tls: Option<ServerTls>,
    /// Who may use it.
    pub users: Vec<Arc<User>>,
    /// Names of those who might as well, and are left out.
    pub users_left_out: Vec<String>,
    /// One hash of each cost among its users' passwords: a refused password is checked against each
    /// cost, so that the time of a refusal does not tell a name.
    pub refusal_costs: Vec<Secret>,
    /// Names that clients send when their user gives none, and that no configured user has. Without a
    /// password they count as no name.
    pub default_user_names: Vec<String>,
    /// Where clients show certificates: those of users who may not.
    pub certificates_of_others: Vec<CertificateName>,
    /// Where clients show certificates: the names of the file's users who may not use the endpoint.
    pub names_of_others: Vec<String>,
    /// Where it leads.
    pub target: Target,
    /// Pings towards the cluster.
    pub keepalive: KeepaliveSettings,
    /// Bytes of the longest message, either way.
    pub max_message: Option<u64>,
    /// Most bytes of a handshake.
    pub max_handshake: usize,
    /// From accept to the handshake's NUL.
    pub handshake_timeout: Duration,
    /// From the choice of an address to its answer to the login.
    pub connect_timeout: Duration,
    /// Most sessions at a time.
    pub max_sessions: usize,
    /// Most sessions of one user's at a time.
    pub max_sessions_per_user: usize,
    /// Most opens a second.
    pub max_opens_per_second: Option<u32>,
    /// Most of them that are one user's.
    pub opens_per_user: OpensPerUser,
    /// Sessions that nobody used for this long end.
    pub idle_timeout: Option<Duration>,
    /// Sessions that were open for this long end, once they owe no answer.
    pub max_session_time: Option<Duration>,
    /// Connections that are kept logged in for each user who has come; 0 keeps none.
    pub warm: usize,
    /// What a client is told when kdb+ can't be had.
    pub errors: Errors,
}

/// The files of an endpoint that speaks TLS to its clients, and what it asks of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// PEM file of the certificate, and of those between it and its authority.
    pub cert: PathBuf,
    /// PEM file of the certificate's key.
    pub key: PathBuf,
    /// PEM file of the authorities one of which has to have signed a client's certificate; clients
    /// need none without it.
    pub client_ca: Option<PathBuf>,
    /// The oldest TLS that is spoken.
    pub min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What a client is told when kdb+ can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// hopen fails.
    Close,
    /// hopen succeeds and the first sync request is answered with the reason: for people at a
    /// prompt.
    Explain,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `localhost:5010` or `5010`: 127.0.0.1 and ::1 at one port, so that no other account can bind
    /// the address that a client's resolver chooses.
    Localhost(u16),
    /// `127.0.0.1:5010`, `[::1]:5010`.
    Tcp(SocketAddr),
    /// `unix:5010`: the abstract socket `@/tmp/kx.5010`, where q on Linux dials
    /// `` `:unix://5010 ``.
    Abstract(u16),
    /// `unix:/run/hopend/hdb`: a socket file of mode 0600.
    Path(PathBuf),
}

/// Where an endpoint leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A FinSpace cluster.
    FinSpace {
        /// The environment it is in.
        environment: Arc<Environment>,
        /// Its name.
        cluster: String,
        /// Which of its nodes.
        node: Node,
        /// How a node's connection string is had.
        node_via: NodeVia,
        /// Dial without TLS when the connection string says so.
        plaintext: bool,
    },
    /// Nowhere: hopend itself answers.
    Console {
        /// The environment that `.aws.*` functions ask, if there is one.
        environment: Option<Arc<Environment>>,
    },
    /// kdb+ run elsewhere.
    Addresses {
        /// Where; may be empty when a login command tells.
        addresses: Vec<Address>,
        /// In which order.
        policy: Policy,
        /// With what.
        login: Login,
        /// PEM file of the authorities; the system's roots without one.
        ca_file: Option<PathBuf>,
        /// Dial without TLS when the login command's connection string says so.
        plaintext: bool,
    },
}

/// Which nodes of a cluster an endpoint leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// The cluster's own endpoint, whose choice it is.
    Any,
    /// The node of this id.
    Id(String),
    /// Each session the next of the RUNNING nodes.
    Spread,
    /// As `Spread`, but nodes in this host's availability zone first.
    Zone,
}

/// How a node's connection string is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeVia {
    /// GetKxConnectionString with the node's id for the cluster's name.
    Api,
    /// `.aws.get_kx_node_connection_string`, asked of the cluster's endpoint in a q session.
    Cluster,
}

/// The order in which several addresses are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// As written; the next one only when the one before fails, or has not answered.
    Failover {
        /// After this long the next one is tried as well.
        after: Duration,
    },
    /// Each session starts one further.
    Spread,
}

/// What is said to kdb+ that is not FinSpace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// One user and the password in a file, read at each dial.
    Fixed {
        /// q user.
        user: String,
        /// File with the password on its first line.
        password_file: PathBuf,
    },
    /// A program that prints the login.
    Command(LoginCommand),
    /// What hopen gave.
    Client,
}

/// A program that prints a login.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginCommand {
    /// The program and its arguments. Every account of the host can read them while it runs.
    pub argv: Vec<String>,
    /// What its environment has beside the daemon's own: only root and the daemon's account read it.
    pub env: Vec<LoginVariable>,
}

/// A variable in the environment of a login command.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginVariable {
    /// What it is called.
    pub name: String,
    /// Where its value comes from.
    pub value: LoginValue,
}

/// The value of a [`LoginVariable`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginValue {
    /// As the configuration has it.
    Text(Secret),
    /// The first line of a file, read whenever the program is run.
    File(PathBuf),
}

impl User {
    /// This user, as FinSpace is asked.
    pub fn in_finspace(&self) -> FinSpaceUser<'_> {
        FinSpaceUser {
            kx_user: &self.kx_user,
            role: self.role_arn.as_ref(),
            local_user: &self.name,
        }
    }

    /// Whether the user's account does not resolve: nobody is admitted as this user, by whatever
    /// proof, until it does.
    pub fn waits(&self) -> bool {
        self.os_user
            .as_ref()
            .is_some_and(|account| account.found().is_none())
    }
}

impl Endpoint {
    /// Takes over what follows from its own users and from the `configured` ones, which another file
    /// may have changed.
    fn follow_users(&mut self, configured: &[Arc<User>]) {
        self.refusal_costs = hash_cost::refusal_costs(&self.users);
        let has = |users: &[Arc<User>], name: &str| users.iter().any(|user| user.name == name);
        self.default_user_names
            .retain(|name| !has(configured, name));
        if self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
            let names = configured.iter().map(|user| user.name.clone());
            let others = names.filter(|name| !has(&self.users, name));
            self.names_of_others.extend(others);
        }
    }

    /// PEM file of the authorities that sign the certificates of its kdb+; the system's roots
    /// without one.
    pub fn ca_file(&self) -> Option<&Path> {
        match &self.target {
            Target::FinSpace { environment, .. } => environment.ca_file.as_deref(),
            Target::Addresses { ca_file, .. } => ca_file.as_deref(),
            Target::Console { .. } => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Tcp(address) => address.fmt(f),
            Self::Abstract(port) => write!(f, "unix:{port}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Which nodes of a cluster, where it is one.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::FinSpace { node, .. } => Some(node),
            Self::Addresses { .. } | Self::Console { .. } => None,
        }
    }
}

/// For people to read.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinSpace {
                environment,
                cluster,
                node,
                ..
            } => {
                match node {
                    Node::Any => {}
                    Node::Id(id) => write!(f, "node {id} of ")?,
                    Node::Spread => f.write_str("all nodes of ")?,
                    Node::Zone => f.write_str("the nearest nodes of ")?,
                }
                write!(f, "cluster {cluster} in {}", environment.name)
            }
            Self::Console { .. } => f.write_str("console"),
            Self::Addresses { addresses, .. } if addresses.is_empty() => {
                f.write_str("where its login command says")
            }
            Self::Addresses {
                addresses, policy, ..
            } => {
                let separator = match policy {
                    Policy::Failover { .. } => ", else ",
                    Policy::Spread => " and ",
                };
                for (nth, address) in addresses.iter().enumerate() {
                    let separator = if nth == 0 { "" } else { separator };
                    write!(f, "{separator}{address}")?;
                }
                Ok(())
            }
        }
    }
}
