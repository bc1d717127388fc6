//! Lists the clusters and nodes of a FinSpace environment.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::FetchError;
use finspace::environment::Environment;
use finspace::{Cluster, Node};

/// Lists clusters and their nodes with the daemon's own AWS credentials, and finds this host's zone.
pub trait Discover: Send + Sync + 'static {
    /// Every cluster of an environment.
    fn clusters<'a>(
        &'a self,
        environment: &'a Arc<Environment>,
    ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>>;

    /// Every node of a cluster.
    fn nodes<'a>(
        &'a self,
        environment: &'a Arc<Environment>,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Node>, FetchError>>;

    /// The id of this host's availability zone.
    fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>>;
}
