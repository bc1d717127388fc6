//! An endpoint of a FinSpace cluster: a string for each user, and for each node where nodes are
//! chosen.

use std::sync::Arc;

use super::aws::Identity;
use super::endpoint::{Examination, LOGIN, WAY};
use super::path::Ways;
use super::stage::{Name, Trouble};
use super::tls::{Destination, Trust};
use crate::config::{Node, NodeVia, User};
use crate::credential::Credential;
use base::error::ErrorKind;
use finspace::MissingPermission;
use finspace::environment::Environment;
use finspace::policy_document::Statement;

/// A FinSpace cluster, as the endpoint names it.
pub(super) struct Cluster<'a> {
    pub(super) environment: &'a Arc<Environment>,
    pub(super) name: &'a str,
    pub(super) node: &'a Node,
    pub(super) via: NodeVia,
    pub(super) plaintext: bool,
    /// It is known not to run.
    pub(super) down: bool,
}

impl Examination<'_, '_> {
    /// For each user the string, and the way to where it leads.
    pub(super) async fn finspace(&mut self, cluster: &Cluster<'_>) {
        let Cluster {
            environment,
            name,
            node,
            ..
        } = *cluster;
        let listed = self.aws.nodes(self.bench, environment, name, node).await;
        let trust = self
            .trust(format!("[environment.{}]", environment.name))
            .await;
        let mut ways = Ways::default();
        let users = std::mem::take(&mut self.users);
        for user in users {
            self.subject(Some(user), None);
            let identity = match self.aws.identity(environment, user) {
                Ok(identity) => identity,
                Err(failed) => {
                    self.bench.wait_for(failed, &[Name::ConnectionString]);
                    self.bench.wait_for(Name::ConnectionString, &WAY);
                    self.bench.wait_for(Name::ConnectionString, &LOGIN);
                    continue;
                }
            };
            let ids: Vec<&str> = match (node, &listed) {
                (Node::Any, _) => {
                    let string = self
                        .aws
                        .string(
                            self.bench,
                            environment,
                            (name, cluster.down),
                            (user, &identity),
                        )
                        .await;
                    self.reach(cluster, string.as_ref(), &identity, (&trust, &mut ways))
                        .await;
                    continue;
                }
                (Node::Id(id), _) => vec![id],
                (Node::Spread | Node::Zone, Some(listed)) => listed
                    .iter()
                    .filter(|node| node.is_running())
                    .map(|node| &*node.id)
                    .collect(),
                (Node::Spread | Node::Zone, None) => {
                    self.bench.wait_for(Name::Nodes, &[Name::ConnectionString]);
                    continue;
                }
            };
            self.reach_nodes(cluster, &ids, (user, &identity), (&trust, &mut ways))
                .await;
        }
    }

    async fn reach_nodes(
        &mut self,
        cluster: &Cluster<'_>,
        ids: &[&str],
        (user, identity): (&User, &Identity),
        (trust, ways): (&Trust, &mut Ways),
    ) {
        let environment = cluster.environment;
        // The cluster's own string is what a node's is asked with.
        let mut asker = None;
        if cluster.via == NodeVia::Cluster {
            let string = self
                .aws
                .string(
                    self.bench,
                    environment,
                    (cluster.name, cluster.down),
                    (user, identity),
                )
                .await;
            self.reach(cluster, string.as_ref(), identity, (trust, &mut *ways))
                .await;
            asker = string;
        }
        for id in ids {
            self.subject(Some(user), Some(format!("node {id}")));
            let string = match (cluster.via, &asker) {
                (NodeVia::Api, _) => {
                    self.aws
                        .string(
                            self.bench,
                            environment,
                            (id, cluster.down),
                            (user, identity),
                        )
                        .await
                }
                (NodeVia::Cluster, Some(login)) => {
                    let node = (cluster.name, *id);
                    let login = login.clone();
                    self.aws
                        .string_of_cluster(self.bench, environment, node, login)
                        .await
                }
                (NodeVia::Cluster, None) => {
                    let why = "waits for the cluster's own";
                    self.bench.skip(Name::ConnectionString, why);
                    None
                }
            };
            self.reach(cluster, string.as_ref(), identity, (trust, &mut *ways))
                .await;
        }
    }

    /// From a connection string to an answer.
    async fn reach(
        &mut self,
        cluster: &Cluster<'_>,
        string: Option<&Credential>,
        identity: &Identity,
        (trust, ways): (&Trust, &mut Ways),
    ) {
        let Some((credential, address)) =
            string.and_then(|credential| Some((credential, credential.address.as_ref()?)))
        else {
            self.bench.wait_for(Name::ConnectionString, &WAY);
            return self.bench.wait_for(Name::ConnectionString, &LOGIN);
        };
        let to = Destination {
            address,
            written: false,
            trust,
        };
        let refused = || {
            let missing = identity
                .user
                .cluster_arn(cluster.name)
                .map(|arn| MissingPermission {
                    identity: identity.user.role.clone(),
                    statement: Statement::allow(&["finspace:ConnectKxCluster"], &[&arn]),
                });
            Trouble {
                kind: ErrorKind::Denied,
                said: " with a fresh connection string".into(),
                remedy: Some(format!(
                    "allow finspace:ConnectKxCluster on the cluster to {}",
                    identity.user.role
                )),
                missing: missing.map(Box::new),
            }
        };
        self.log_in(to, cluster.plaintext, credential, ways, refused)
            .await;
    }
}
