//! What the simulated FinSpace knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::certificates::Certificates;
use super::connection::Connection;
use super::faults::Faults;
use super::iam::Policy;
use super::{ACCOUNT, Options, REGION};

/// Everything that the listeners share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) environment: String,
    pub(super) base: Base,
    pub(super) certificates: Certificates,
    pub(super) faults: Faults,
    pub(super) started: SystemTime,
    state: Mutex<State>,
    events: watch::Sender<u64>,
}

/// The administrator's own credentials, for the profile.
pub(super) struct Base {
    pub(super) access_key: String,
    pub(super) secret_key: String,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) users: BTreeMap<String, User>,
    pub(super) clusters: BTreeMap<String, Cluster>,
    pub(super) sessions: HashMap<String, Session>,
    pub(super) tags: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) environment_name: String,
    pub(super) environment_description: Option<String>,
    pub(super) calls: HashMap<String, usize>,
    pub(super) secrets: Vec<String>,
    pub(super) connections: Vec<Arc<Connection>>,
    pub(super) refusals: Vec<String>,
    /// Nodes that are not listed for the time being, each with its cluster's name.
    pub(super) delisted: Vec<(String, Node)>,
    /// Role, session name and SourceIdentity of each AssumeRole.
    pub(super) assumed: Vec<(String, String, Option<String>)>,
    /// Policies by ARN of the role or user; who has none may do what was ever allowed.
    pub(super) policies: HashMap<String, Policy>,
    /// Trust policies by ARN of the role; one without any trusts everybody.
    pub(super) trusts: HashMap<String, Policy>,
}

#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) description: String,
    pub(super) az_mode: String,
    pub(super) status: &'static str,
    /// `None` for one that was created over the API: it has no listener.
    pub(super) port: Option<u16>,
    pub(super) nodes: Vec<Node>,
    pub(super) next: usize,
    pub(super) created: SystemTime,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) zone: String,
    pub(super) launched: SystemTime,
    pub(super) port: u16,
    pub(super) power: Power,
}

/// Whether a node's machine is on, and whether its listener has followed.
#[derive(Debug, Clone)]
pub(super) struct Power {
    pub(super) wanted: watch::Sender<bool>,
    pub(super) on: watch::Sender<bool>,
}

impl Power {
    pub(super) fn on() -> Self {
        Self {
            wanted: watch::Sender::new(true),
            on: watch::Sender::new(true),
        }
    }
}

/// What AssumeRole hands out.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) token: String,
    pub(super) expires: SystemTime,
    pub(super) role: String,
    pub(super) name: String,
}

impl Shared {
    pub(super) fn new(options: Options, certificates: Certificates) -> Self {
        let base = Base {
            access_key: format!("AKIA{}", random(16, UPPER)),
            secret_key: random(40, BASE64),
        };
        let state = State {
            environment_name: "simulated".into(),
            secrets: vec![base.secret_key.clone()],
            ..State::default()
        };
        Self {
            environment: format!("sim{}", random(19, LOWER)),
            base,
            certificates,
            faults: Faults::default(),
            started: (options.clock)(),
            options,
            state: Mutex::new(state),
            events: watch::Sender::new(0),
        }
    }

    /// Looks at the state, or changes it; whoever waits for something then looks again.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let result = look(&mut self.lock());
        self.happened();
        result
    }

    /// Looks at the state without waking anyone.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    pub(super) fn happened(&self) {
        self.events
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Comes back when `condition` holds.
    pub(super) async fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        let mut events = self.events.subscribe();
        while !condition() {
            if events.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.options.clock)()
    }

    pub(super) fn environment_arn(&self) -> String {
        format!(
            "arn:aws:finspace:{REGION}:{ACCOUNT}:kxEnvironment/{}",
            self.environment
        )
    }

    pub(super) fn user_arn(&self, user: &str) -> String {
        format!("{}/kxUser/{user}", self.environment_arn())
    }

    pub(super) fn cluster_arn(&self, cluster: &str) -> String {
        format!("{}/kxCluster/{cluster}", self.environment_arn())
    }

    /// The name inside FinSpace that a connection string is signed for.
    pub(super) fn inner_host(&self, cluster: &str, node: Option<&str>) -> String {
        let node = node.map(|node| format!("{node}.")).unwrap_or_default();
        format!(
            "{node}{cluster}.{}.kx.finspace.{REGION}.sim",
            self.environment
        )
    }

    /// Credentials of a role for so long.
    pub(super) fn issue_session(&self, role: &str, name: &str, life: Duration) -> Session {
        let session = Session {
            access_key: format!("ASIA{}", random(16, UPPER)),
            secret_key: random(40, BASE64),
            token: random(760, BASE64),
            expires: self.now() + life,
            role: role.to_owned(),
            name: name.to_owned(),
        };
        self.with(|state| {
            state.secrets.push(session.secret_key.clone());
            state.secrets.push(session.token.clone());
            state
                .sessions
                .insert(session.access_key.clone(), session.clone());
        });
        session
    }

    pub(super) fn refused(&self, place: &str, why: &str) {
        self.with(|state| state.refusals.push(format!("{place}: {why}")));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The cluster and, where `name` is a node's ID, the node.
    pub(super) fn find(&self, name: &str) -> Option<(&Cluster, Option<&Node>)> {
        if let Some(cluster) = self.clusters.get(name) {
            return Some((cluster, None));
        }
        self.clusters.values().find_map(|cluster| {
            let node = cluster.nodes.iter().find(|node| node.id == name)?;
            Some((cluster, Some(node)))
        })
    }
}

pub(super) const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
pub(super) const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
/// As AWS writes secrets: with the two characters that need encoding in a query.
pub(super) const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Text of `length` characters of `alphabet`. Good enough for a simulator, not for secrets that
/// protect anything.
pub(super) fn random(length: usize, alphabet: &str) -> String {
    let alphabet = alphabet.as_bytes();
    (0..length)
        .map(|_| char::from(alphabet[fastrand::usize(..alphabet.len())]))
        .collect()
}
