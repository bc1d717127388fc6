//! Fetches credentials from FinSpace and from login commands.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{
    CallCount, Credential, Discover, Fetch, FetchError, Recipe, RequestedNode, Retry, command, node,
};
use crate::config::NodeVia;
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{
    AwsError, CallLimits, Cluster, FinSpace, Node, SignedString, StringRequest, zone_of_host,
};

/// Fetches from AWS and runs login commands.
#[derive(Debug, Default)]
pub struct Sources {
    finspace: FinSpace,
}

impl Sources {
    /// Makes sources whose calls of AWS have these limits.
    pub fn with_limits(patience: CallLimits) -> Self {
        Self {
            finspace: FinSpace::with_limits(patience),
        }
    }
}

/// The source of all data from outside the daemon: credentials, clusters, nodes and the host's zone.
pub trait ExternalSource: Fetch + Discover {}

impl<T: Fetch + Discover> ExternalSource for T {}

impl Fetch for Sources {
    fn fetch<'a>(&'a self, recipe: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>> {
        async move {
            match recipe {
                Recipe::FinSpace {
                    environment,
                    cluster,
                    node,
                    kx_user,
                    role,
                    local_user,
                } => {
                    let request = StringRequest {
                        environment,
                        cluster: match node {
                            Some(RequestedNode {
                                id,
                                via: NodeVia::Api,
                            }) => id,
                            Some(RequestedNode {
                                via: NodeVia::Cluster,
                                ..
                            })
                            | None => cluster,
                        },
                        kx_user,
                        role: role.as_ref(),
                        local_user,
                    };
                    let signed = self.finspace.connection_string(&request).await?;
                    match node {
                        Some(RequestedNode {
                            id,
                            via: NodeVia::Cluster,
                        }) => node::ask_cluster(environment, cluster, id, signed.into()).await,
                        Some(RequestedNode {
                            via: NodeVia::Api, ..
                        })
                        | None => Ok(signed.into()),
                    }
                }
                Recipe::Command {
                    command,
                    endpoint,
                    local_user,
                } => command::run(command, endpoint, local_user).await,
            }
        }
        .boxed()
    }

    fn calls(&self) -> Vec<CallCount> {
        self.finspace.calls()
    }
}

impl Discover for Sources {
    fn clusters<'a>(
        &'a self,
        environment: &'a Arc<Environment>,
    ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>> {
        async move { Ok(self.finspace.clusters(environment, None).await?) }.boxed()
    }

    fn nodes<'a>(
        &'a self,
        environment: &'a Arc<Environment>,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Node>, FetchError>> {
        async move { Ok(self.finspace.nodes(environment, cluster, None).await?) }.boxed()
    }

    fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>> {
        async {
            zone_of_host().await.map_err(|why| FetchError {
                kind: ErrorKind::Configuration,
                retry: Retry::Soon,
                message: format!(
                    "instance metadata does not tell this host's availability zone: {why}"
                ),
                remedy: "set zone in [daemon]".into(),
            })
        }
        .boxed()
    }
}

impl From<SignedString> for Credential {
    fn from(signed: SignedString) -> Self {
        Self {
            address: Some(signed.string.address),
            user: signed.string.user,
            password: signed.string.password,
            expires: Some(signed.expires),
            valid_for: signed.valid_for,
            issuer_time: signed.aws_time,
        }
    }
}

impl From<AwsError> for FetchError {
    fn from(error: AwsError) -> Self {
        Self {
            kind: error.kind,
            retry: if error.is_transient {
                Retry::Soon
            } else {
                Retry::Refused
            },
            remedy: error.advice(),
            message: error.message,
        }
    }
}
