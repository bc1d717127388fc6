//! The nodes of a FinSpace cluster, among which hopend chooses.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;

use super::cluster::FinSpaceCluster;
use crate::config::{self, User};
use crate::credential::Recipe;
use crate::primitives::opening::OpenStage;
use crate::primitives::race::Late;
use crate::route::OpenError;
use crate::route::attempt::{HeadStart, LoginAttempt, PooledTarget, open_first};
use crate::route::connection::{DialedAddress, LoggedInConnection, PreferredAddresses};
use crate::route::context::DialContext;
use crate::route::dialer::Dialer;
use crate::route::health::FailureScope;
use crate::route::issued::{IssuedLogin, hello_with, open_with_issued};
use crate::route::nodes::{NodeListing, names};
use crate::route::pool::{AddressPolicy, AddressPool, LoginOwner};
use crate::route::probe::{ProbePlan, Prober};
use crate::telemetry::status::AddressRow;
use crate::upstream::UpstreamError;
use base::error::ErrorKind;
use finspace::Node;

/// Nodes of a cluster. The pool identifies a node by its id.
#[derive(Debug)]
pub(in crate::route) struct NodesTarget {
    pub(super) cluster: FinSpaceCluster,
    pub(super) choice: NodeChoice,
    pub(super) listing: NodeListing,
    pub(super) pool: AddressPool,
    pub(super) prober: Prober,
    pub(super) dialer: Dialer,
}

/// Which nodes of the cluster sessions go to.
#[derive(Debug)]
pub(super) enum NodeChoice {
    /// The node of this id.
    Id(String),
    /// Each session goes to the next of the RUNNING nodes.
    Spread,
    /// As [`NodeChoice::Spread`], but nodes in this host's availability zone come first.
    Zone,
}

impl NodeChoice {
    /// `None` if the cluster's own endpoint chooses the node.
    pub(super) fn of(node: &config::NodeSelector) -> Option<Self> {
        match node {
            config::NodeSelector::Any => None,
            config::NodeSelector::Id(id) => Some(Self::Id(id.clone())),
            config::NodeSelector::Spread => Some(Self::Spread),
            config::NodeSelector::Zone => Some(Self::Zone),
        }
    }

    /// In which order sessions try the nodes of a group.
    pub(super) fn policy(&self) -> AddressPolicy {
        match self {
            Self::Id(_) => AddressPolicy::Single,
            Self::Spread | Self::Zone => AddressPolicy::Spread,
        }
    }
}

impl NodesTarget {
    /// The connection strings that hopend can fetch before the user opens a session. They cover the
    /// nodes that are known so far.
    pub(super) fn recipes(&self, user: &User) -> Vec<Recipe> {
        let recipe = |id: &str| self.cluster.recipe(user, Some(id));
        match &self.choice {
            NodeChoice::Id(id) => vec![recipe(id)],
            NodeChoice::Spread | NodeChoice::Zone => {
                let known = self.listing.known();
                let running = known.iter().filter(|node| node.is_running());
                running.map(|node| recipe(&node.id)).collect()
            }
        }
    }

    /// The rows of the nodes in `hopend status`.
    pub(super) fn rows(&self) -> Vec<AddressRow> {
        let known = self.listing.known();
        let rows = known.iter();
        rows.map(|node| self.pool.row(node.id.clone(), &node.zone))
            .collect()
    }

    /// The nodes that a session of `user` would try first, as far as the nodes are known.
    pub(super) fn preferred(&self, user: &str) -> PreferredAddresses {
        let groups = match (&self.choice, &self.listing.known()[..]) {
            (NodeChoice::Id(id), []) => vec![vec![id.clone()]],
            (_, known) => self.groups(known).unwrap_or_default(),
        };
        self.pool.preferred(groups, user)
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        context: &Arc<DialContext>,
    ) -> Result<LoggedInConnection, OpenError> {
        let groups = self.candidate_groups();
        let groups = context.laps.time(OpenStage::Nodes, groups).await?;
        let order = self.pool.in_order(groups, Clone::clone, &context.user.name);
        let candidates = order.candidates(context.purpose);
        let attempt = |id, late| self.attempt(id, context, late);
        open_first(self, candidates, context, attempt).await
    }

    /// The ids of the nodes that a session may go to, in groups: the nearest group first. Waits for the
    /// first list of nodes.
    async fn candidate_groups(&self) -> Result<Vec<Vec<String>>, OpenError> {
        let listed = match (self.listing.nodes().await, &self.choice) {
            (Ok(listed), _) => listed,
            // The configuration names the node, so hopend does not need the list.
            (Err(_), NodeChoice::Id(id)) => return Ok(vec![vec![id.clone()]]),
            (Err(error), NodeChoice::Spread | NodeChoice::Zone) => {
                return Err(OpenError::Nodes(error));
            }
        };
        self.pool
            .retain(|id| listed.iter().any(|node| node.id == id));
        self.groups(&listed)
            .inspect_err(|_| self.listing.refresh_soon())
    }

    /// The groups that a list of nodes makes.
    fn groups(&self, listed: &[Node]) -> Result<Vec<Vec<String>>, OpenError> {
        let cluster = || self.cluster.name.clone();
        let running = listed.iter().filter(|node| node.is_running());
        let groups: [Vec<&Node>; 2] = match &self.choice {
            NodeChoice::Id(id) if listed.iter().any(|node| node.id == *id) => {
                return Ok(vec![vec![id.clone()]]);
            }
            NodeChoice::Id(id) => {
                return Err(OpenError::NodeGone {
                    node: id.clone(),
                    cluster: cluster(),
                    there: names(listed),
                });
            }
            NodeChoice::Zone => {
                let zone = self.listing.zone();
                let is_near = |node: &&Node| Some(node.zone.as_str()) == zone.as_deref();
                let (near, far) = running.partition(is_near);
                [near, far]
            }
            NodeChoice::Spread => [running.collect(), Vec::new()],
        };
        if groups.iter().all(Vec::is_empty) {
            return Err(OpenError::NoneRunning {
                cluster: cluster(),
                there: names(listed),
            });
        }
        let ids = |group: Vec<&Node>| group.into_iter().map(|node| node.id.clone()).collect();
        Ok(groups.into_iter().map(ids).collect())
    }

    fn attempt(
        self: &Arc<Self>,
        id: String,
        context: &Arc<DialContext>,
        late: Late,
    ) -> LoginAttempt {
        let (target, context) = (Arc::clone(self), Arc::clone(context));
        LoginAttempt {
            address: id.clone(),
            label: format!("node {id}"),
            work: async move { target.log_in(&id, &context, &late).await }.boxed(),
        }
    }

    /// Logs in at one node, and records the result in the pool.
    async fn log_in(
        self: &Arc<Self>,
        id: &str,
        context: &Arc<DialContext>,
        late: &Late,
    ) -> Result<LoggedInConnection, OpenError> {
        let user = &context.user.name;
        self.pool.trying(id, user);
        let begun = Instant::now();
        let opened = self.log_in_with_string(id, context, late).await;
        match &opened {
            Ok(_) => self.pool.succeeded(id, user),
            // hopend did not dial the node, or the node would serve a newer client.
            Err(OpenError::Upstream(
                UpstreamError::Descriptors { .. } | UpstreamError::Capability { .. },
            )) => {
                self.pool.turned_away(id, user);
            }
            Err(error) => {
                let scope = match error {
                    OpenError::Upstream(error) if error.kind() == ErrorKind::Upstream => {
                        self.pool.timeout_scope(id, LoginOwner::User(user), begun)
                    }
                    // AWS or the node may have refused this user's login alone.
                    _ => FailureScope::User(user),
                };
                self.note_failure(id, scope, error, context);
                self.listing.refresh_soon();
            }
        }
        opened
    }

    /// Logs in with the node's own connection string.
    async fn log_in_with_string(
        &self,
        id: &str,
        context: &DialContext,
        late: &Late,
    ) -> Result<LoggedInConnection, OpenError> {
        let user = &context.user;
        let recipe = self.cluster.recipe(user, Some(id));
        let open = |issued: IssuedLogin| async move {
            let (login, dialer) = (issued.login, &self.dialer);
            let address = self.cluster.dial_address(issued.address)?;
            let head_start = HeadStart {
                pool: &self.pool,
                address: id,
                owner: LoginOwner::User(&user.name),
                late,
                purpose: context.purpose,
            };
            let dialed = head_start
                .dial(dialer.dial(&address, &login.hello, context))
                .await;
            let dialed = dialer.explain_refusal(&address, &login, context, dialed);
            Ok(LoggedInConnection {
                upstream: dialed.await?,
                address: DialedAddress::Node(id.to_owned()),
                login: login.source,
            })
        };
        let opened = open_with_issued(recipe, context, open).await;
        opened.map_err(|error| self.cluster.explain_refusal(error, user))
    }
}

impl PooledTarget for NodesTarget {
    /// The node's id.
    type Candidate = String;

    fn pool(&self) -> &AddressPool {
        &self.pool
    }

    fn prober(&self) -> &Prober {
        &self.prober
    }

    fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    fn has_login_ready(&self, id: &String, context: &DialContext) -> bool {
        let recipe = self.cluster.recipe(&context.user, Some(id));
        context.credentials.is_ready(&recipe)
    }

    fn passes_on_logins(&self) -> bool {
        false
    }

    async fn probe_plan(&self, id: &str, context: &DialContext) -> Result<ProbePlan, OpenError> {
        let recipe = self.cluster.recipe(&context.user, Some(id));
        let Some(credential) = context.credentials.cached(&recipe) else {
            return Ok(ProbePlan::Skip);
        };
        let address = self.cluster.dial_address(credential.address.clone())?;
        let hello = hello_with(&credential, context);
        Ok(ProbePlan::LogInAsUser(address, hello))
    }
}
