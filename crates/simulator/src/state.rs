//! The state of the simulation: users, clusters, sessions, connections and everything recorded.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::arn;
use super::caller::Caller;
use super::certificates::Certificates;
use super::connection::Connection;
use super::faults::Faults;
use super::iam::Policy;
use super::options::Options;

/// Everything that the listeners share.
pub(crate) struct Simulation {
    pub(crate) options: Options,
    /// The ID of the environment.
    pub(crate) environment: String,
    pub(crate) base: BaseCredentials,
    pub(crate) certificates: Certificates,
    pub(crate) faults: Faults,
    pub(crate) started: SystemTime,
    state: Mutex<SimulatedState>,
    /// Counts the changes, for [`Simulation::wait_until`].
    changes: watch::Sender<u64>,
}

/// The administrator's own credentials, for the profile.
pub(crate) struct BaseCredentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

/// The part of the simulation that changes.
#[derive(Default)]
pub(crate) struct SimulatedState {
    /// By name.
    pub(crate) users: BTreeMap<String, FinSpaceUser>,
    /// By name.
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// By access key.
    pub(crate) sessions: HashMap<String, RoleSession>,
    /// Tags by the ARN of their resource.
    pub(crate) tags: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) environment_name: String,
    pub(crate) environment_description: Option<String>,
    /// Number of calls by operation.
    pub(crate) calls: HashMap<String, usize>,
    /// Every secret that was issued.
    pub(crate) secrets: Vec<String>,
    /// Every connection that logged in, the ended ones included.
    pub(crate) connections: Vec<Arc<Connection>>,
    /// `LISTENER: reason` of every refused login and failed TLS handshake.
    pub(crate) refusals: Vec<String>,
    /// Nodes that run but are not listed.
    pub(crate) delisted: Vec<DelistedNode>,
    pub(crate) assumed: Vec<AssumedRole>,
    /// Identity policies by the ARN of the role or IAM user. [`Simulation::permit`] has a rule for
    /// principals without one.
    pub(crate) policies: HashMap<String, Policy>,
    /// Trust policies by the ARN of the role. A role without one trusts everybody.
    pub(crate) trusts: HashMap<String, Policy>,
}

#[derive(Debug, Clone)]
pub(crate) struct FinSpaceUser {
    pub(crate) name: String,
    /// The ARN of the user's role.
    pub(crate) role: String,
    pub(crate) created: SystemTime,
    pub(crate) updated: SystemTime,
}

#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// `clusterType`.
    pub(crate) kind: String,
    pub(crate) description: String,
    pub(crate) az_mode: String,
    pub(crate) status: &'static str,
    /// The port of its endpoint. A cluster that was created over the API has no listener.
    pub(crate) port: Option<u16>,
    pub(crate) nodes: Vec<ClusterNode>,
    /// Number of connections that its endpoint has distributed.
    pub(crate) next: usize,
    pub(crate) created: SystemTime,
}

#[derive(Debug, Clone)]
pub(crate) struct ClusterNode {
    pub(crate) id: String,
    /// The ID of its availability zone.
    pub(crate) zone: String,
    pub(crate) launched: SystemTime,
    pub(crate) port: u16,
    pub(crate) power: NodePower,
}

pub(crate) struct DelistedNode {
    pub(crate) cluster: String,
    pub(crate) node: ClusterNode,
}

/// The power switch of a node's machine.
#[derive(Debug, Clone)]
pub(crate) struct NodePower {
    /// The position of the switch.
    pub(crate) wanted: watch::Sender<bool>,
    /// Whether the node's listener accepts connections. It follows the switch.
    pub(crate) on: watch::Sender<bool>,
}

impl NodePower {
    pub(crate) fn on() -> Self {
        Self {
            wanted: watch::Sender::new(true),
            on: watch::Sender::new(true),
        }
    }
}

/// The temporary credentials of a role, as AssumeRole issues them.
#[derive(Debug, Clone)]
pub(crate) struct RoleSession {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) token: String,
    pub(crate) expires: SystemTime,
    /// The ARN of the role.
    pub(crate) role: String,
    /// The name of the session.
    pub(crate) name: String,
}

impl RoleSession {
    /// The principal that signs with these credentials.
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            arn: arn::assumed_role(&self.role, &self.name),
            user_id: format!("AROASIMULATEDROLE0001:{}", self.name),
            role: Some(self.role.clone()),
            access_key: self.access_key.clone(),
        }
    }
}

/// A call of AssumeRole that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumedRole {
    /// The ARN of the role.
    pub role: String,
    /// `RoleSessionName`.
    pub session_name: String,
    /// `SourceIdentity`, if the caller set one.
    pub source_identity: Option<String>,
}

impl Simulation {
    pub(crate) fn new(options: Options, certificates: Certificates) -> Self {
        let base = BaseCredentials {
            access_key: format!("AKIA{}", random(16, UPPER)),
            secret_key: random(40, BASE64),
        };
        let state = SimulatedState {
            environment_name: "simulated".into(),
            secrets: vec![base.secret_key.clone()],
            ..SimulatedState::default()
        };
        Self {
            environment: format!("sim{}", random(19, LOWER)),
            base,
            certificates,
            faults: Faults::default(),
            started: (options.clock)(),
            options,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        }
    }

    /// Changes the state, and wakes everybody who waits for a condition.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut SimulatedState) -> T) -> T {
        let result = change(&mut self.lock());
        self.notify();
        result
    }

    /// Reads the state.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&SimulatedState) -> T) -> T {
        read(&self.lock())
    }

    /// Wakes everybody who waits for a condition, after a change outside of the state.
    pub(crate) fn notify(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Returns once `condition` holds. It is checked now and after every change.
    pub(crate) async fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        let mut changes = self.changes.subscribe();
        while !condition() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.options.clock)()
    }

    pub(crate) fn environment_arn(&self) -> String {
        arn::environment(&self.environment)
    }

    pub(crate) fn user_arn(&self, user: &str) -> String {
        format!("{}/kxUser/{user}", self.environment_arn())
    }

    pub(crate) fn cluster_arn(&self, cluster: &str) -> String {
        format!("{}/kxCluster/{cluster}", self.environment_arn())
    }

    /// The host name inside FinSpace that a connection string is signed for.
    pub(crate) fn inner_host(&self, cluster: &str, node: Option<&str>) -> String {
        let node = node.map(|node| format!("{node}.")).unwrap_or_default();
        format!(
            "{node}{cluster}.{}.kx.finspace.{}.sim",
            self.environment,
            arn::REGION
        )
    }

    /// Issues credentials of a role that are valid for `life`.
    pub(crate) fn issue_session(&self, role: &str, name: &str, life: Duration) -> RoleSession {
        let session = RoleSession {
            access_key: format!("ASIA{}", random(16, UPPER)),
            secret_key: random(40, BASE64),
            token: random(760, BASE64),
            expires: self.now() + life,
            role: role.to_owned(),
            name: name.to_owned(),
        };
        self.update(|state| {
            state.secrets.push(session.secret_key.clone());
            state.secrets.push(session.token.clone());
            state
                .sessions
                .insert(session.access_key.clone(), session.clone());
        });
        session
    }

    /// Records that a listener refused a login, or that its TLS handshake failed.
    pub(crate) fn record_refusal(&self, listener: &str, why: &str) {
        self.update(|state| state.refusals.push(format!("{listener}: {why}")));
    }

    fn lock(&self) -> MutexGuard<'_, SimulatedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimulatedState {
    /// The cluster with this name, or the node with this ID and its cluster.
    pub(crate) fn find(&self, name: &str) -> Option<(&Cluster, Option<&ClusterNode>)> {
        if let Some(cluster) = self.clusters.get(name) {
            return Some((cluster, None));
        }
        self.clusters.values().find_map(|cluster| {
            let node = cluster.nodes.iter().find(|node| node.id == name)?;
            Some((cluster, Some(node)))
        })
    }
}

pub(crate) const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
pub(crate) const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
/// The alphabet of AWS's secrets. `+` and `/` need encoding in a query.
pub(crate) const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Random text of `length` characters of `alphabet`. The generator is not cryptographic: the result
/// protects nothing outside of a simulation.
pub(crate) fn random(length: usize, alphabet: &str) -> String {
    let alphabet = alphabet.as_bytes();
    (0..length)
        .map(|_| char::from(alphabet[fastrand::usize(..alphabet.len())]))
        .collect()
}
