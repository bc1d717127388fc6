//! The simulator: starts and stops the servers, changes the simulation and shows its state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secret::Secret;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api::{self, Service};
use super::arn;
use super::certificates::Certificates;
use super::connection::ConnectionRecord;
use super::discovery;
use super::error::SimError;
use super::faults::{Cut, Faults};
use super::iam::PolicyError;
use super::listener::{self, ListenerTarget};
use super::options::Options;
use super::state::{
    AssumedRole, BASE64, Cluster, ClusterNode, DelistedNode, FinSpaceUser, NodePower,
    SimulatedState, Simulation, random,
};

/// Name, type and description of the clusters.
const CLUSTERS: [(&str, &str, &str); 3] = [
    ("gateway-cluster", "GATEWAY", "simulated gateway"),
    ("hdb-cluster", "HDB", "simulated historical data"),
    ("rdb-cluster", "RDB", "simulated real-time data"),
];

/// The user name of the plain server.
const PLAIN_USER: &str = "svc";

/// A running simulated FinSpace. It stops at once when it is dropped.
pub struct Simulator {
    pub(crate) simulation: Arc<Simulation>,
    api_port: u16,
    sts_port: u16,
    plain: PlainServer,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    clusters: JoinSet<()>,
}

/// The kdb+ double that is not part of FinSpace: it speaks TLS and accepts one user and password.
/// Faults and counts call it `plain`.
#[derive(Debug, Clone)]
pub struct PlainServer {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The user name that it accepts.
    pub user: String,
    /// The password that it accepts.
    pub password: String,
}

impl Simulator {
    /// Starts the servers and returns once they accept connections.
    ///
    /// # Errors
    /// A socket can't be bound, or a certificate can't be generated.
    pub async fn start(options: Options) -> Result<Self, SimError> {
        let simulation = Arc::new(Simulation::new(options, Certificates::generate()?));
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        let mut clusters = JoinSet::new();

        let (api, api_port) = listen().await?;
        servers.spawn(api::serve(
            simulation.clone(),
            api,
            Service::FinSpace,
            stopped.clone(),
        ));
        let (sts, sts_port) = listen().await?;
        servers.spawn(api::serve(simulation.clone(), sts, Service::Sts, stopped));

        for user in &simulation.options.users {
            add_user(&simulation, user);
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
                created: simulation.started,
            };
            open_cluster(&simulation, &mut clusters, cluster).await?;
        }
        let (plain, plain_port) = listen().await?;
        let plain_password = random(24, BASE64);
        simulation.update(|state| state.secrets.push(plain_password.clone()));
        let target = ListenerTarget::Plain {
            user: PLAIN_USER.to_owned(),
            password: Secret::from(plain_password.as_str()),
        };
        clusters.spawn(listener::serve(simulation.clone(), plain, target));
        let plain = PlainServer {
            port: plain_port,
            user: PLAIN_USER.to_owned(),
            password: plain_password,
        };

        Ok(Self {
            simulation,
            api_port,
            sts_port,
            plain,
            stop,
            servers,
            clusters,
        })
    }

    /// The URL of the management API, for `endpoint_url`.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// The URL of STS, for `sts_endpoint_url`.
    pub fn sts_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.sts_port)
    }

    /// The certificate authority of the clusters and its revocation list, in PEM, for `ca_file`.
    pub fn ca_pem(&self) -> &str {
        &self.simulation.certificates.ca_pem
    }

    /// The ID of the environment, `environmentId`.
    pub fn environment_id(&self) -> &str {
        &self.simulation.environment
    }

    /// The base credentials: an access key and its secret key. Without a policy they allow every action
    /// except the request and the use of connection strings.
    pub fn base_credentials(&self) -> (&str, &str) {
        (
            &self.simulation.base.access_key,
            &self.simulation.base.secret_key,
        )
    }

    /// The ARN of the IAM user that owns the base credentials.
    pub fn base_arn(&self) -> String {
        arn::base_user()
    }

    /// Sets the identity policy of a principal: a role ([`Self::role_arn`]) or the IAM user that owns
    /// the base credentials ([`Self::base_arn`]). From then on only this policy applies to it.
    ///
    /// # Errors
    /// The policy has an element that the simulator does not evaluate, or no principal has this ARN.
    pub fn set_policy(&self, principal: &str, document: &str) -> Result<(), PolicyError> {
        self.simulation.set_policy(principal, document)
    }

    /// Sets the trust policy of a role. From then on only the principals that it allows can assume it.
    ///
    /// # Errors
    /// As [`Self::set_policy`].
    pub fn set_trust(&self, role: &str, document: &str) -> Result<(), PolicyError> {
        self.simulation.set_trust(role, document)
    }

    /// The ARN of a FinSpace user, `userArn`.
    pub fn user_arn(&self, user: &str) -> String {
        self.simulation.user_arn(user)
    }

    /// The ARN of a user's role.
    pub fn role_arn(&self, user: &str) -> String {
        arn::user_role(user)
    }

    /// Adds a FinSpace user with a role of its own, `user-NAME`.
    pub fn add_user(&self, user: &str) {
        add_user(&self.simulation, user);
    }

    /// The names of all clusters.
    pub fn clusters(&self) -> Vec<String> {
        self.simulation
            .read(|state| state.clusters.keys().cloned().collect())
    }

    /// The IDs of a cluster's listed nodes; none for an unknown cluster.
    pub fn nodes(&self, cluster: &str) -> Vec<String> {
        self.simulation.read(|state| {
            let nodes = state.clusters.get(cluster).map(|cluster| &cluster.nodes);
            let ids = nodes.into_iter().flatten().map(|node| node.id.clone());
            ids.collect()
        })
    }

    /// Switches a node off: its connections end, and its port refuses new ones. The API goes on listing
    /// it as RUNNING, as FinSpace does until it notices. Returns once the node is off.
    pub async fn stop_node(&self, node: &str) {
        self.switch(node, false).await;
    }

    /// Switches a node on again. Returns once it accepts connections.
    pub async fn start_node(&self, node: &str) {
        self.switch(node, true).await;
    }

    async fn switch(&self, node: &str, on: bool) {
        let found = |state: &SimulatedState| Some(state.find(node)?.1?.power.clone());
        if let Some(power) = self.simulation.read(found) {
            power.wanted.send_replace(on);
            // An error means that the node's task has ended with the simulator.
            let _ = power.on.subscribe().wait_for(|now| *now == on).await;
        }
    }

    /// Removes a node from the list of its cluster. The node itself goes on serving connections.
    pub fn delist_node(&self, node: &str) {
        self.simulation.update(|state| {
            for cluster in state.clusters.values_mut() {
                let gone = cluster.nodes.extract_if(.., |known| known.id == node);
                let gone = gone.map(|node| DelistedNode {
                    cluster: cluster.name.clone(),
                    node,
                });
                state.delisted.extend(gone);
            }
        });
    }

    /// Adds a delisted node to the list of its cluster again.
    pub fn relist_node(&self, node: &str) {
        self.simulation.update(|state| {
            for delisted in state.delisted.extract_if(.., |known| known.node.id == node) {
                if let Some(cluster) = state.clusters.get_mut(&delisted.cluster) {
                    cluster.nodes.push(delisted.node);
                }
            }
        });
    }

    /// Sets the status of a cluster. The API gives connection strings of RUNNING clusters only.
    pub fn set_status(&self, cluster: &str, status: &'static str) {
        self.simulation.update(|state| {
            if let Some(cluster) = state.clusters.get_mut(cluster) {
                cluster.status = status;
            }
        });
    }

    /// The port of a cluster's endpoint (by its name) or of a node (by its ID); `None` for an unknown one,
    /// and for a cluster that was created over the API.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.simulation.read(|state| {
            let (cluster, node) = state.find(name)?;
            node.map(|node| node.port).or(cluster.port)
        })
    }

    /// The kdb+ double that is not part of FinSpace.
    pub fn plain(&self) -> &PlainServer {
        &self.plain
    }

    /// A connection string for a cluster or node, as GetKxConnectionString answers it; `None` for an
    /// unknown user, cluster or node.
    pub fn connection_string(&self, user: &str, name: &str) -> Option<String> {
        let (cluster, node) = self.simulation.read(|state| {
            let (cluster, node) = state.find(name)?;
            Some((cluster.name.clone(), node.map(|node| node.id.clone())))
        })?;
        let value =
            discovery::connection_string(&self.simulation, user, &cluster, node.as_deref()).ok()?;
        value.as_text()
    }

    /// The faults, which can be set and cleared at any time.
    pub fn faults(&self) -> &Faults {
        &self.simulation.faults
    }

    /// Number of calls of an operation, such as `AssumeRole`, the failed ones included.
    pub fn calls(&self, operation: &str) -> usize {
        self.simulation
            .read(|state| state.calls.get(operation).copied().unwrap_or_default())
    }

    /// The granted calls of AssumeRole, in order.
    pub fn assumed(&self) -> Vec<AssumedRole> {
        self.simulation.read(|state| state.assumed.clone())
    }

    /// The connections that logged in, in order, the ended ones included.
    pub fn connections(&self) -> Vec<ConnectionRecord> {
        self.simulation.read(|state| {
            let connections = state.connections.iter();
            connections.map(|connection| connection.record()).collect()
        })
    }

    /// Number of live connections of a cluster, of a node, or of `plain`.
    pub fn live(&self, name: &str) -> usize {
        self.connections()
            .iter()
            .filter(|record| record.ended.is_none())
            .filter(|record| record.cluster == name || record.node == name)
            .count()
    }

    /// The refused logins and failed TLS handshakes as `LISTENER: reason`, in order.
    pub fn refusals(&self) -> Vec<String> {
        self.simulation.read(|state| state.refusals.clone())
    }

    /// Every secret that was issued: secret keys, session tokens, passwords and signatures of connection
    /// strings, and the passwords of `alice` and of the plain server. Tests look for them in output.
    pub fn issued_secrets(&self) -> Vec<String> {
        self.simulation.read(|state| state.secrets.clone())
    }

    /// Ends the live connections of a cluster, of a node, or of `plain`. Returns their number.
    pub fn cut(&self, name: &str, how: Cut) -> usize {
        self.simulation.update(|state| {
            let live = state.connections.iter().filter(|connection| {
                connection.ended().is_none()
                    && (connection.cluster() == name || connection.node() == name)
            });
            live.map(|connection| connection.cut(how)).count()
        })
    }

    /// Expires the credentials of every session that AssumeRole opened.
    pub fn end_sessions(&self) {
        let now = self.simulation.now();
        self.simulation.update(|state| {
            for session in state.sessions.values_mut() {
                session.expires = now;
            }
        });
    }

    /// Returns once an operation was called at least `count` times.
    pub async fn wait_for_calls(&self, operation: &str, count: usize) {
        self.wait_until(|sim| sim.calls(operation) >= count).await;
    }

    /// Returns once a cluster, a node or `plain` has exactly `count` live connections.
    pub async fn wait_for_connections(&self, name: &str, count: usize) {
        self.wait_until(|sim| sim.live(name) == count).await;
    }

    /// Returns once `condition` holds. It is checked now and after each change of the simulation.
    pub async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        self.simulation.wait_until(|| condition(self)).await;
    }

    /// Stops all servers and waits until they have stopped. HTTP requests in flight get a second.
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
            .field("environment", &self.simulation.environment)
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
    simulation: &Arc<Simulation>,
    tasks: &mut JoinSet<()>,
    mut cluster: Cluster,
) -> Result<(), SimError> {
    let (endpoint, port) = listen().await?;
    cluster.port = Some(port);
    let short = cluster.name.trim_end_matches("-cluster").to_owned();
    for number in 1..=simulation.options.nodes {
        let (listener, port) = listen().await?;
        let node = ClusterNode {
            id: format!("sim-{short}-node-{number}"),
            zone: format!("use1-az{}", (number - 1) % 3 + 1),
            launched: simulation.started,
            port,
            power: NodePower::on(),
        };
        let target = ListenerTarget::Node {
            cluster: cluster.name.clone(),
            node: node.id.clone(),
        };
        let power = node.power.clone();
        tasks.spawn(listener::serve_node(
            simulation.clone(),
            listener,
            target,
            power,
        ));
        cluster.nodes.push(node);
    }
    let target = ListenerTarget::Cluster(cluster.name.clone());
    tasks.spawn(listener::serve(simulation.clone(), endpoint, target));
    simulation.update(|state| state.clusters.insert(cluster.name.clone(), cluster));
    Ok(())
}

fn add_user(simulation: &Simulation, name: &str) {
    let now = simulation.now();
    let user = FinSpaceUser {
        name: name.to_owned(),
        role: arn::user_role(name),
        created: now,
        updated: now,
    };
    simulation.update(|state| state.users.insert(name.to_owned(), user));
}
