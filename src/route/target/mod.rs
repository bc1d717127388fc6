//! The kinds of target that an endpoint can have, one type for each.

mod addresses;
mod cluster;
mod command;
mod nodes;

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{LoggedInConnection, PreferredAddresses};
use super::context::DialContext;
use super::dialer::Dialer;
use super::nodes::{NodeListing, Nodes};
use super::password::PasswordFile;
use super::pool::{AddressPolicy, AddressPool};
use super::probe::Prober;
use super::{OpenError, Route};
use crate::config::{AddressOrder, Endpoint, Login, Target, User};
use crate::credential::Recipe;
use crate::telemetry::status::{AddressRow, WarmRow};
use crate::upstream::tls::TlsConfigs;
use addresses::{AddressLogin, AddressesTarget};
use cluster::{ClusterTarget, FinSpaceCluster};
use command::{CommandLogin, CommandTarget};
use finspace::environment::Environment;
use nodes::{NodeChoice, NodesTarget};
use secret::Secret;

/// The target of an endpoint, ready for sessions.
#[derive(Debug)]
pub enum PreparedTarget {
    /// kdb+.
    Kdb(Arc<Route>),
    /// hopend itself answers.
    Console(ConsoleTarget),
}

/// The console of hopend.
#[derive(Debug)]
pub struct ConsoleTarget {
    endpoint: Arc<Endpoint>,
    environment: Option<Arc<Environment>>,
}

/// A target that is kdb+. hopend decides the kind once, when it prepares the endpoint.
#[derive(Debug)]
pub(super) enum RouteTarget {
    /// A cluster's own endpoint. FinSpace chooses the node.
    Cluster(ClusterTarget),
    /// Nodes of a cluster. hopend chooses the node.
    Nodes(Arc<NodesTarget>),
    /// The addresses of `connect`.
    Addresses(Arc<AddressesTarget>),
    /// A kdb+ whose address the login command prints.
    Command(CommandTarget),
}

impl PreparedTarget {
    /// Prepares the target of an endpoint. Reads files. Must be called within a tokio runtime.
    ///
    /// A fault of the TLS configuration is kept, and fails the sessions of this endpoint that need TLS.
    /// So it does not keep other endpoints from starting.
    pub fn new(endpoint: Arc<Endpoint>, tls: &TlsConfigs, nodes: &Nodes) -> Self {
        let closed = CancellationToken::new();
        let dialer = || Dialer::new(&endpoint, tls);
        let pool = |policy| AddressPool::new(&endpoint.name, policy, endpoint.connect_timeout);
        let target = match &endpoint.target {
            Target::Console { environment } => {
                return Self::Console(ConsoleTarget {
                    environment: environment.clone(),
                    endpoint,
                });
            }
            Target::FinSpace {
                environment,
                cluster: name,
                node,
                node_via,
                plaintext,
            } => {
                let cluster = FinSpaceCluster {
                    environment: Arc::clone(environment),
                    name: name.clone(),
                    node_via: *node_via,
                    plaintext: *plaintext,
                };
                match NodeChoice::of(node) {
                    None => RouteTarget::Cluster(ClusterTarget {
                        cluster,
                        dialer: dialer(),
                    }),
                    Some(choice) => RouteTarget::Nodes(Arc::new(NodesTarget {
                        cluster,
                        listing: nodes.listing(environment, name),
                        pool: pool(choice.policy()),
                        choice,
                        prober: Prober::new(closed.clone()),
                        dialer: dialer(),
                    })),
                }
            }
            Target::Addresses {
                addresses,
                login: Login::Command(command),
                plaintext,
                ..
            } if addresses.is_empty() => RouteTarget::Command(CommandTarget {
                login: CommandLogin {
                    command: command.clone(),
                    endpoint: endpoint.name.clone(),
                },
                plaintext: *plaintext,
                dialer: dialer(),
            }),
            Target::Addresses {
                addresses,
                policy,
                login,
                ..
            } => RouteTarget::Addresses(Arc::new(AddressesTarget {
                addresses: addresses.clone(),
                login: match login {
                    Login::Client => AddressLogin::Client,
                    Login::Fixed {
                        user,
                        password_file,
                    } => AddressLogin::Fixed {
                        user: user.clone(),
                        password: PasswordFile::new(password_file),
                    },
                    Login::Command(command) => AddressLogin::Command(CommandLogin {
                        command: command.clone(),
                        endpoint: endpoint.name.clone(),
                    }),
                },
                pool: pool(match policy {
                    _ if addresses.len() < 2 => AddressPolicy::Single,
                    AddressOrder::Failover { after } => AddressPolicy::Failover(*after),
                    AddressOrder::Spread => AddressPolicy::Spread,
                }),
                prober: Prober::new(closed.clone()),
                dialer: dialer(),
            })),
        };
        Self::Kdb(Arc::new(Route::new(endpoint, target, closed)))
    }

    /// The endpoint, as configured.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        match self {
            Self::Kdb(route) => route.endpoint(),
            Self::Console(console) => &console.endpoint,
        }
    }

    /// The nodes of the cluster. `None` if hopend chooses no node.
    pub fn node_listing(&self) -> Option<&NodeListing> {
        match self {
            Self::Kdb(route) => route.node_listing(),
            Self::Console(_) => None,
        }
    }

    /// The logins that hopend can fetch for a user before the user opens a session.
    pub fn recipes(&self, user: &User) -> Vec<Recipe> {
        match self {
            Self::Kdb(route) => route.recipes(user),
            Self::Console(_) => Vec::new(),
        }
    }

    /// The addresses or nodes among which hopend chooses, and which of them rest.
    pub fn address_rows(&self) -> Vec<AddressRow> {
        match self {
            Self::Kdb(route) => route.address_rows(),
            Self::Console(_) => Vec::new(),
        }
    }

    /// The warm pools, by user.
    pub fn warm_rows(&self) -> Vec<WarmRow> {
        match self {
            Self::Kdb(route) => route.warm_rows(),
            Self::Console(_) => Vec::new(),
        }
    }

    /// Dropping the guard closes the warm pools and ends all probes. `None` for a console, which has
    /// neither.
    pub fn guard(&self) -> Option<DropGuard> {
        match self {
            Self::Kdb(route) => Some(route.guard()),
            Self::Console(_) => None,
        }
    }

    /// Waits until the probes have ended and the warm connections are closed, once the guard is dropped.
    pub async fn closed(&self) {
        match self {
            Self::Kdb(route) => route.closed().await,
            Self::Console(_) => {}
        }
    }
}

impl ConsoleTarget {
    /// The environment that the `.aws.*` functions ask. `None` if the configuration has no environment.
    pub fn environment(&self) -> Option<&Arc<Environment>> {
        self.environment.as_ref()
    }
}

impl RouteTarget {
    /// Opens a connection for the session, or for the warm pool, of `context`.
    pub(super) async fn open(
        &self,
        context: &Arc<DialContext>,
    ) -> Result<LoggedInConnection, OpenError> {
        match self {
            Self::Cluster(cluster) => cluster.open(context).await,
            Self::Nodes(nodes) => nodes.open(context).await,
            Self::Addresses(addresses) => addresses.open(context).await,
            Self::Command(command) => command.open(context).await,
        }
    }

    /// The nodes of the cluster. `None` if hopend chooses no node.
    pub(super) fn node_listing(&self) -> Option<&NodeListing> {
        match self {
            Self::Nodes(nodes) => Some(&nodes.listing),
            Self::Cluster(_) | Self::Addresses(_) | Self::Command(_) => None,
        }
    }

    /// The logins that hopend can fetch for a user before the user opens a session.
    pub(super) fn recipes(&self, user: &User) -> Vec<Recipe> {
        match self {
            Self::Cluster(cluster) => cluster.recipes(user),
            Self::Nodes(nodes) => nodes.recipes(user),
            Self::Addresses(addresses) => addresses.recipes(user),
            Self::Command(command) => command.recipes(user),
        }
    }

    /// The addresses or nodes among which hopend chooses, and which of them rest.
    pub(super) fn address_rows(&self) -> Vec<AddressRow> {
        match self {
            Self::Nodes(nodes) => nodes.rows(),
            Self::Addresses(addresses) => addresses.rows(),
            Self::Cluster(_) | Self::Command(_) => Vec::new(),
        }
    }

    /// The addresses that a session of `user` would try first.
    pub(super) fn preferred(&self, user: &str) -> PreferredAddresses {
        match self {
            Self::Nodes(nodes) => nodes.preferred(user),
            Self::Addresses(addresses) => addresses.preferred(user),
            Self::Cluster(_) | Self::Command(_) => PreferredAddresses::FromLogin,
        }
    }

    /// The addresses of [`Self::preferred`] at which a session may take a warm connection.
    pub(super) fn preferred_for_warm(&self, user: &str) -> PreferredAddresses {
        let mut preferred = self.preferred(user);
        match self {
            Self::Nodes(nodes) => preferred.retain(|id| nodes.pool.may_hand_out(id)),
            Self::Addresses(addresses) => {
                preferred.retain(|address| addresses.pool.may_hand_out(address));
            }
            Self::Cluster(_) | Self::Command(_) => {}
        }
        preferred
    }

    /// The password of the endpoint's own login. `None` if it has no login of its own.
    ///
    /// # Errors
    /// hopend cannot read the password file.
    pub(super) async fn current_password(&self) -> Result<Option<Secret>, OpenError> {
        match self {
            Self::Addresses(addresses) => addresses.current_password().await,
            Self::Cluster(_) | Self::Nodes(_) | Self::Command(_) => Ok(None),
        }
    }

    /// The prober of the addresses. `None` if hopend chooses no address.
    pub(super) fn prober(&self) -> Option<&Prober> {
        match self {
            Self::Nodes(nodes) => Some(&nodes.prober),
            Self::Addresses(addresses) => Some(&addresses.prober),
            Self::Cluster(_) | Self::Command(_) => None,
        }
    }
}
