//! The target of an endpoint: a FinSpace cluster, kdb+ at fixed addresses, or a console.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::kdb_address::KdbAddress;
use finspace::environment::Environment;

use super::login::Login;

/// The target that an endpoint leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A FinSpace cluster.
    FinSpace {
        /// The environment of the cluster.
        environment: Arc<Environment>,
        /// The name of the cluster.
        cluster: String,
        /// The nodes of the cluster that sessions may use.
        node: NodeSelector,
        /// The API that gives the connection string of a node.
        node_via: NodeVia,
        /// Whether hopend dials without TLS if the connection string has no `tcps://`.
        plaintext: bool,
    },
    /// hopend itself, which answers q queries about its state.
    Console {
        /// The environment that the `.aws.*` functions query. `None` if the file defines no environment.
        environment: Option<Arc<Environment>>,
    },
    /// kdb+ outside FinSpace.
    Addresses {
        /// The addresses of kdb+. Empty if a login command prints the address.
        addresses: Vec<KdbAddress>,
        /// The order in which hopend tries the addresses.
        policy: AddressOrder,
        /// The login that hopend presents.
        login: Login,
        /// The PEM file of the trusted authorities. `None` trusts the system's roots.
        ca_file: Option<PathBuf>,
        /// Whether hopend dials without TLS if the login command prints an address without `tcps://`.
        plaintext: bool,
    },
}

impl Target {
    /// The choice among the nodes, if the target is a cluster.
    pub fn node(&self) -> Option<&NodeSelector> {
        match self {
            Self::FinSpace { node, .. } => Some(node),
            Self::Addresses { .. } | Self::Console { .. } => None,
        }
    }
}

/// The nodes of a cluster that an endpoint leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodeSelector {
    /// FinSpace chooses the node, because hopend dials the endpoint of the cluster.
    Any,
    /// The node with this id.
    Id(String),
    /// The RUNNING nodes in turn, one for each session.
    Spread,
    /// As [`NodeSelector::Spread`], but nodes in this host's availability zone are preferred.
    Zone,
}

/// The API that gives the connection string of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeVia {
    /// The AWS call GetKxConnectionString, with the id of the node instead of the cluster's name.
    Api,
    /// The q function `.aws.get_kx_node_connection_string`, called in a session at the endpoint of the
    /// cluster.
    Cluster,
}

/// The order in which hopend tries the addresses of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOrder {
    /// The order of the file, for each session. hopend tries the next address if one fails or is slow.
    Failover {
        /// The time after which hopend tries the next address as well.
        after: Duration,
    },
    /// Each session starts with the address after the one that the previous session started with.
    Spread,
}

/// Describes the target in log lines and in `hopend check`, such as `all nodes of cluster hdb in prod`.
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
                    NodeSelector::Any => {}
                    NodeSelector::Id(id) => write!(f, "node {id} of ")?,
                    NodeSelector::Spread => f.write_str("all nodes of ")?,
                    NodeSelector::Zone => f.write_str("the nearest nodes of ")?,
                }
                write!(f, "cluster {cluster} in {}", environment.name)
            }
            Self::Console { .. } => f.write_str("console"),
            Self::Addresses { addresses, .. } if addresses.is_empty() => {
                f.write_str("the address that its login command prints")
            }
            Self::Addresses {
                addresses, policy, ..
            } => {
                let separator = match policy {
                    AddressOrder::Failover { .. } => ", else ",
                    AddressOrder::Spread => " and ",
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
