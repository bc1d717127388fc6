//! A FinSpace of its own: the management API and STS over HTTP, clusters with nodes over TLS that
//! check the signed login for real and drop idle connections.
//!
//! The nodes are test doubles that know the expressions of [`OFFERED_EXPRESSIONS`]; they are no q.
//! Everything listens on 127.0.0.1, at ports chosen by the system.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod api;
mod certificates;
mod cluster;
mod connection;
mod data;
mod discovery;
mod expression;
mod faults;
mod files;
mod finspace;
mod frames;
mod iam;
mod names;
mod node;
mod operations;
mod signature;
mod state;
mod sts;
mod tags;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use certificates::Flaw;
pub use connection::{ConnectionRecord, Ended};
pub use faults::{ApiFault, ClusterFault, Cut, Faults, Times};
pub use files::LocalPorts;
pub use iam::PolicyError;
pub use node::OFFERED as OFFERED_EXPRESSIONS;
pub use operations::{OFFERED as OFFERED_OPERATIONS, Operation};

use api::Service;
use certificates::Certificates;
use cluster::Place;
use state::{BASE64, Cluster, Node, Power, Shared, State, User, random};

use secret::Secret;

/// The account that everything belongs to.
pub const ACCOUNT: &str = "111122223333";

/// The region of the environment.
pub const REGION: &str = "us-east-1";

/// The STS operations that are offered.
pub const OFFERED_STS_OPERATIONS: &[&str] = &["AssumeRole", "GetCallerIdentity"];

/// Name, type and description of the clusters.
const CLUSTERS: [(&str, &str, &str); 3] = [
    ("gateway-cluster", "GATEWAY", "simulated gateway"),
    ("hdb-cluster", "HDB", "simulated historical data"),
    ("rdb-cluster", "RDB", "simulated real-time data"),
];

/// The user of the plain double.
const PLAIN_USER: &str = "svc";

/// The time of day, as a test or the system tells it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What to simulate.
#[derive(Clone)]
pub struct Options {
    /// A connection to a cluster without a byte either way for so long is reset.
    pub idle_limit: Duration,
    /// How long a connection string can be used (X-Amz-Expires, in whole seconds).
    pub string_life: Duration,
    /// Nodes of each cluster.
    pub nodes: usize,
    /// FinSpace users; each has a role, `user-NAME`.
    pub users: Vec<String>,
    /// The capability of the nodes, answered to clients that have it too.
    pub capability: u8,
    /// Compress answers of over 2,000 bytes that shrink below half, as kdb+ does towards other
    /// hosts.
    pub compress: bool,
    /// Answer in big-endian byte order.
    pub big_endian: bool,
    /// Items of a page where a call names no `maxResults`; at least 1.
    pub page: usize,
    /// What time it is for signatures, sessions and connection strings. Timers run by tokio's
    /// clock.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            idle_limit: Duration::from_secs(350),
            string_life: Duration::from_secs(900),
            nodes: 3,
            users: vec!["alice".into()],
            capability: 6,
            compress: false,
            big_endian: false,
            page: 100,
            clock: Arc::new(SystemTime::now),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("idle_limit", &self.idle_limit)
            .field("string_life", &self.string_life)
            .field("nodes", &self.nodes)
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

/// Why the simulator could not start or write its files.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A socket could not be had.
    #[error("the simulator can't listen on 127.0.0.1")]
    Listen(#[source] io::Error),
    /// A file could not be written.
    #[error("the simulator can't write {path}")]
    File {
        /// Which file or directory.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("the simulator can't make its certificates")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("the simulator can't set up TLS")]
    Tls(#[from] rustls::Error),
    /// The password of the second user could not be hashed.
    #[error("the simulator can't hash a password: {0}")]
    Hash(String),
}

/// A running FinSpace. Dropping it ends it at once.
pub struct Simulator {
    shared: Arc<Shared>,
    api_port: u16,
    sts_port: u16,
    plain_port: u16,
    plain_password: String,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    clusters: JoinSet<()>,
}

impl Simulator {
    /// Starts everything that `options` ask for.
    pub async fn start(options: Options) -> Result<Self, SimError> {
        let shared = Arc::new(Shared::new(options, Certificates::generate()?));
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        let mut clusters = JoinSet::new();

        let (api, api_port) = listen().await?;
        servers.spawn(api::serve(
            shared.clone(),
            api,
            Service::FinSpace,
            stopped.clone(),
        ));
        let (sts, sts_port) = listen().await?;
        servers.spawn(api::serve(shared.clone(), sts, Service::Sts, stopped));

        for user in &shared.options.users {
            add_user(&shared, user);
        }
        for (name, kind, description) in CLUSTERS {
            let cluster = Cluster {
                name: name.to_owned(),
                kind: kind.to_owned(),
                description: description.to_owned(),
                az_mode: "MULTI".to_owned(),
                status: "RUNNING",
                port: None,
                nodes: Vec::new(),
                next: 0,
                created: shared.started,
            };
            open_cluster(&shared, &mut clusters, cluster).await?;
        }
        let (plain, plain_port) = listen().await?;
        let plain_password = random(24, BASE64);
        shared.with(|state| state.secrets.push(plain_password.clone()));
        let place = Place::Plain {
            user: PLAIN_USER.to_owned(),
            password: Secret::from(plain_password.as_str()),
        };
        clusters.spawn(cluster::serve(shared.clone(), plain, place));

        Ok(Self {
            shared,
            api_port,
            sts_port,
            plain_port,
            plain_password,
            stop,
            servers,
            clusters,
        })
    }

    /// Where the management API is: `endpoint_url`.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// Where STS is: `sts_endpoint_url`.
    pub fn sts_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.sts_port)
    }

    /// The authority that signed the clusters' certificates.
    pub fn ca_pem(&self) -> &str {
        &self.shared.certificates.ca_pem
    }

    /// `environmentId`.
    pub fn environment_id(&self) -> &str {
        &self.shared.environment
    }

    /// The access key and the secret key of the administrator, who may do everything but ask for
    /// connection strings.
    pub fn base_credentials(&self) -> (&str, &str) {
        (&self.shared.base.access_key, &self.shared.base.secret_key)
    }

    /// The ARN of the IAM user that the base credentials are of.
    pub fn base_arn(&self) -> String {
        access::base_arn()
    }

    /// Has a role, or the user of the base credentials, do what this policy allows and nothing else.
    /// The ARN is that of [`Self::role_arn`] or [`Self::base_arn`].
    ///
    /// # Errors
    /// The policy has something that the simulator does not evaluate, or nobody has the ARN.
    pub fn set_policy(&self, principal: &str, document: &str) -> Result<(), PolicyError> {
        self.shared.set_policy(principal, document)
    }

    /// Has a role be taken only by those whom this trust policy allows it.
    ///
    /// # Errors
    /// As [`Self::set_policy`].
    pub fn set_trust(&self, role: &str, document: &str) -> Result<(), PolicyError> {
        self.shared.set_trust(role, document)
    }

    /// `userArn` of a FinSpace user.
    pub fn user_arn(&self, user: &str) -> String {
        self.shared.user_arn(user)
    }

    /// The ARN of a user's role.
    pub fn role_arn(&self, user: &str) -> String {
        role_arn(user)
    }

    /// Adds a FinSpace user with a role of its own.
    pub fn add_user(&self, user: &str) {
        add_user(&self.shared, user);
    }

    /// Names of the clusters.
    pub fn clusters(&self) -> Vec<String> {
        self.shared
            .look(|state| state.clusters.keys().cloned().collect())
    }

    /// IDs of a cluster's nodes.
    pub fn nodes(&self, cluster: &str) -> Vec<String> {
        self.shared.look(|state| {
            let nodes = state.clusters.get(cluster).map(|cluster| &cluster.nodes);
            let ids = nodes.into_iter().flatten().map(|node| node.id.clone());
            ids.collect()
        })
    }

    /// Switches a node off: its connections end and further ones are refused, while it is still
    /// listed as RUNNING, as it takes a service time to notice. Comes back when it is off.
    pub async fn stop_node(&self, node: &str) {
        self.switch(node, false).await;
    }

    /// Switches a node on again. Comes back when it takes connections.
    pub async fn start_node(&self, node: &str) {
        self.switch(node, true).await;
    }

    async fn switch(&self, node: &str, on: bool) {
        let found = |state: &State| Some(state.find(node)?.1?.power.clone());
        if let Some(power) = self.shared.look(found) {
            power.wanted.send_replace(on);
            // The node's task, which holds the sender, may end with the simulator.
            let _ = power.on.subscribe().wait_for(|now| *now == on).await;
        }
    }

    /// Takes a node out of its cluster's list; it goes on serving whoever knows it.
    pub fn delist_node(&self, node: &str) {
        self.shared.with(|state| {
            for cluster in state.clusters.values_mut() {
                let gone = cluster.nodes.extract_if(.., |known| known.id == node);
                let gone = gone.map(|node| (cluster.name.clone(), node));
                state.delisted.extend(gone);
            }
        });
    }

    /// Puts a delisted node back.
    pub fn relist_node(&self, node: &str) {
        self.shared.with(|state| {
            for (cluster, node) in state.delisted.extract_if(.., |(_, known)| known.id == node) {
                if let Some(cluster) = state.clusters.get_mut(&cluster) {
                    cluster.nodes.push(node);
                }
            }
        });
    }

    /// Gives a cluster another status. One that is not RUNNING gives no connection strings.
    pub fn set_status(&self, cluster: &str, status: &'static str) {
        self.shared.with(|state| {
            if let Some(cluster) = state.clusters.get_mut(cluster) {
                cluster.status = status;
            }
        });
    }

    /// The port of a cluster's endpoint or of a node.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.shared.look(|state| {
            let (cluster, node) = state.find(name)?;
            node.map(|node| node.port).or(cluster.port)
        })
    }

    /// The kdb+ double that knows nothing of FinSpace: port, user and password. Faults call it
    /// `plain`.
    pub fn plain(&self) -> (u16, &str, &str) {
        (self.plain_port, PLAIN_USER, &self.plain_password)
    }

    /// A connection string as GetKxConnectionString gives it, for a cluster or node; `None` for an
    /// unknown user or place.
    pub fn connection_string(&self, user: &str, name: &str) -> Option<String> {
        let (cluster, node) = self.shared.look(|state| {
            let (cluster, node) = state.find(name)?;
            Some((cluster.name.clone(), node.map(|node| node.id.clone())))
        })?;
        let value =
            discovery::connection_string(&self.shared, user, &cluster, node.as_deref()).ok()?;
        value.as_text()
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Calls seen of an operation, whatever became of them.
    pub fn calls(&self, operation: &str) -> usize {
        self.shared
            .look(|state| state.calls.get(operation).copied().unwrap_or_default())
    }

    /// Role, session name and SourceIdentity of each AssumeRole that was granted.
    pub fn assumed(&self) -> Vec<(String, String, Option<String>)> {
        self.shared.look(|state| state.assumed.clone())
    }

    /// Connections that logged in, in order, the ended ones included.
    pub fn connections(&self) -> Vec<ConnectionRecord> {
        self.shared.look(|state| {
            let connections = state.connections.iter();
            connections.map(|connection| connection.record()).collect()
        })
    }

    /// Live connections of a cluster, of a node, or of `plain`.
    pub fn live(&self, name: &str) -> usize {
        self.connections()
            .iter()
            .filter(|record| record.ended.is_none())
            .filter(|record| record.cluster == name || record.node == name)
            .count()
    }

    /// Why logins were refused and TLS failed: `LISTENER: reason`, in order.
    pub fn refusals(&self) -> Vec<String> {
        self.shared.look(|state| state.refusals.clone())
    }

    /// Every secret that was handed out: keys, session tokens, passwords and signatures of
    /// connection strings, the plain double's password.
    pub fn issued_secrets(&self) -> Vec<String> {
        self.shared.look(|state| state.secrets.clone())
    }

    /// Ends the live connections of a cluster, of a node, or of `plain`; how many.
    pub fn cut(&self, name: &str, how: Cut) -> usize {
        self.shared.with(|state| {
            let live = state.connections.iter().filter(|connection| {
                connection.ended().is_none()
                    && (connection.cluster() == name || connection.node() == name)
            });
            live.map(|connection| connection.cut(how)).count()
        })
    }

    /// Ends every session that AssumeRole gave, as if its time were over.
    pub fn end_sessions(&self) {
        let now = self.shared.now();
        self.shared.with(|state| {
            for session in state.sessions.values_mut() {
                session.expires = now;
            }
        });
    }

    /// Comes back when an operation was called at least so often.
    pub async fn wait_for_calls(&self, operation: &str, count: usize) {
        self.wait_until(|sim| sim.calls(operation) >= count).await;
    }

    /// Comes back when a cluster, a node or `plain` has exactly so many live connections.
    pub async fn wait_for_connections(&self, name: &str, count: usize) {
        self.wait_until(|sim| sim.live(name) == count).await;
    }

    /// Comes back when `condition` holds; it is looked at whenever something happened here.
    pub async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        self.shared.wait_until(|| condition(self)).await;
    }

    /// Ends everything and waits for it.
    pub async fn shutdown(mut self) {
        self.clusters.shutdown().await;
        self.stop.send_replace(true);
        let grace = Duration::from_secs(1);
        let _ = tokio::time::timeout(grace, async {
            while self.servers.join_next().await.is_some() {}
        })
        .await;
        self.servers.shutdown().await;
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("environment", &self.shared.environment)
            .field("api_port", &self.api_port)
            .field("sts_port", &self.sts_port)
            .finish_non_exhaustive()
    }
}

async fn listen() -> Result<(TcpListener, u16), SimError> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(SimError::Listen)?;
    let port = listener.local_addr().map_err(SimError::Listen)?.port();
    Ok((listener, port))
}

async fn open_cluster(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    mut cluster: Cluster,
) -> Result<(), SimError> {
    let (endpoint, port) = listen().await?;
    cluster.port = Some(port);
    let short = cluster.name.trim_end_matches("-cluster").to_owned();
    for number in 1..=shared.options.nodes {
        let (listener, port) = listen().await?;
        let node = Node {
            id: format!("sim-{short}-node-{number}"),
            zone: format!("use1-az{}", (number - 1) % 3 + 1),
            launched: shared.started,
            port,
            power: Power::on(),
        };
        let place = Place::Node(cluster.name.clone(), node.id.clone());
        let power = node.power.clone();
        tasks.spawn(cluster::serve_node(shared.clone(), listener, place, power));
        cluster.nodes.push(node);
    }
    let place = Place::Cluster(cluster.name.clone());
    tasks.spawn(cluster::serve(shared.clone(), endpoint, place));
    shared.with(|state| state.clusters.insert(cluster.name.clone(), cluster));
    Ok(())
}

fn add_user(shared: &Shared, name: &str) {
    let now = shared.now();
    let user = User {
        name: name.to_owned(),
        role: role_arn(name),
        created: now,
        updated: now,
    };
    shared.with(|state| state.users.insert(name.to_owned(), user));
}

fn role_arn(user: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/user-{user}")
}
