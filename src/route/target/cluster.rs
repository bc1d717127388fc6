//! A FinSpace cluster whose own endpoint chooses the node.

use std::sync::Arc;

use crate::config::{NodeVia, User};
use crate::credential::{FetchError, Recipe, RequestedNode, Retry};
use crate::route::OpenError;
use crate::route::connection::{DialedAddress, LoggedInConnection};
use crate::route::context::DialContext;
use crate::route::dialer::Dialer;
use crate::route::issued::{IssuedLogin, checked_for_tls, open_with_issued};
use crate::upstream::UpstreamError;
use base::error::ErrorKind;
use base::kdb_address::KdbAddress;
use finspace::environment::Environment;

/// A cluster, and how hopend gets connection strings for it.
#[derive(Debug)]
pub(super) struct FinSpaceCluster {
    pub(super) environment: Arc<Environment>,
    pub(super) name: String,
    pub(super) node_via: NodeVia,
    /// Whether a connection string without TLS may be used.
    pub(super) plaintext: bool,
}

/// A cluster's own endpoint.
#[derive(Debug)]
pub(in crate::route) struct ClusterTarget {
    pub(super) cluster: FinSpaceCluster,
    pub(super) dialer: Dialer,
}

impl FinSpaceCluster {
    /// The connection string that a user needs for the node with this id. Without an id, the connection
    /// string of the cluster itself.
    pub(super) fn recipe(&self, user: &User, node: Option<&str>) -> Recipe {
        Recipe::FinSpace {
            environment: Arc::clone(&self.environment),
            cluster: self.name.clone(),
            node: node.map(|id| RequestedNode {
                id: id.to_owned(),
                via: self.node_via,
            }),
            kx_user: user.kx_user.clone(),
            role: user.role_arn.clone(),
            local_user: user.name.clone(),
        }
    }

    /// The address of a connection string of this cluster, if the login may go there. Each connection
    /// string has an address, so a credential without an address is a fault of hopend.
    pub(super) fn dial_address(
        &self,
        address: Option<KdbAddress>,
    ) -> Result<KdbAddress, OpenError> {
        let address = address.ok_or_else(|| FetchError {
            kind: ErrorKind::Internal,
            retry: Retry::Soon,
            message: format!(
                "a connection string for cluster {} has no address",
                self.name
            ),
            remedy: "report it as a fault of hopend's own".into(),
        });
        checked_for_tls(address.map_err(Arc::new)?, self.plaintext)
    }

    /// Explains the refusal of a connection string that AWS has just signed. The cluster gives no cause,
    /// and the policy of the user's role is the likely one.
    pub(super) fn explain_refusal(&self, error: OpenError, user: &User) -> OpenError {
        match error {
            OpenError::Upstream(refusal @ UpstreamError::Rejected { .. }) => {
                OpenError::ClusterRefused {
                    cluster: self.name.clone(),
                    user: user.name.clone(),
                    refusal,
                }
            }
            error => error,
        }
    }
}

impl ClusterTarget {
    /// The connection strings that hopend can fetch before the user opens a session.
    pub(super) fn recipes(&self, user: &User) -> Vec<Recipe> {
        vec![self.cluster.recipe(user, None)]
    }

    pub(super) async fn open(
        &self,
        context: &DialContext,
    ) -> Result<LoggedInConnection, OpenError> {
        let recipe = self.cluster.recipe(&context.user, None);
        let open = |issued: IssuedLogin| async move {
            let address = self.cluster.dial_address(issued.address)?;
            let upstream = self.dialer.log_in(&address, &issued.login, context).await?;
            Ok(LoggedInConnection {
                upstream,
                address: DialedAddress::FromLogin,
                login: issued.login.source,
            })
        };
        let opened = open_with_issued(recipe, context, open).await;
        opened.map_err(|error| self.cluster.explain_refusal(error, &context.user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_without_an_address_is_no_fault_of_a_login_command() {
        let cluster = FinSpaceCluster {
            environment: Arc::new(Environment {
                name: "prod".into(),
                id: "abc".into(),
                region: "us-east-1".into(),
                profile: None,
                credentials_file: None,
                endpoint_url: None,
                sts_endpoint_url: None,
                ca_file: None,
            }),
            name: "hdb-cluster".into(),
            node_via: NodeVia::Api,
            plaintext: false,
        };
        let error = cluster.dial_address(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        let message = error.to_string();
        assert!(
            message.contains("cluster hdb-cluster has no address"),
            "{message}"
        );
        let plain: KdbAddress = ":kdb.example:5010".parse().unwrap();
        let error = cluster.dial_address(Some(plain)).unwrap_err();
        assert!(matches!(error, OpenError::Plaintext(_)), "{error}");
    }
}
