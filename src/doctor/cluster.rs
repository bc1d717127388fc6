//! An endpoint of a FinSpace cluster: for each user a connection string, and the login that it allows.
//! If the endpoint chooses among nodes, each node has a connection string and a login.

use std::sync::Arc;

use super::aws::{AwsStages, ClusterState, FinSpaceIdentity, StringCall};
use super::path::{LOGIN_STAGES, LoginRejection, PATH_STAGES};
use super::stage::StageName;
use super::target::{ExaminedLogin, TargetStages};
use crate::config::{NodeSelector, NodeVia, User};
use crate::credential::Credential;
use finspace::MissingPermission;
use finspace::environment::Environment;
use finspace::policy_document::Statement;

/// Examines the connection strings and logins of a cluster.
pub(super) struct ClusterStages<'a, 'b> {
    pub(super) target: TargetStages<'a, 'b>,
    pub(super) aws: &'a AwsStages,
    pub(super) environment: &'a Arc<Environment>,
    pub(super) cluster: &'a str,
    pub(super) state: ClusterState,
    pub(super) node: &'a NodeSelector,
    pub(super) node_via: NodeVia,
    /// Whether a connection string without TLS may be used.
    pub(super) plaintext: bool,
}

/// A user of the endpoint, as hopend and FinSpace know the user.
#[derive(Clone, Copy)]
struct ClusterUser<'a> {
    user: &'a User,
    identity: &'a FinSpaceIdentity,
}

impl ClusterStages<'_, '_> {
    pub(super) async fn run(&mut self, users: &[&Arc<User>]) {
        let listed = self
            .aws
            .list_nodes(
                self.target.runner,
                self.environment,
                self.cluster,
                self.node,
            )
            .await;
        for user in users {
            self.examine_user(user, listed.as_deref()).await;
        }
    }

    async fn examine_user(&mut self, user: &User, listed: Option<&[finspace::Node]>) {
        self.target.set_subject(Some(user), None);
        let identity = match self.aws.identity(self.environment, user) {
            Ok(identity) => identity,
            Err(failed) => {
                let runner = &mut self.target.runner;
                runner.skip_after(failed, &[StageName::ConnectionString]);
                return self.skip_login();
            }
        };
        let user = ClusterUser {
            user,
            identity: &identity,
        };
        match (self.node, listed) {
            (NodeSelector::Any, _) => {
                self.examine_cluster_string(user).await;
            }
            (NodeSelector::Id(id), _) => self.examine_nodes(&[id], user).await,
            (NodeSelector::Spread | NodeSelector::Zone, Some(listed)) => {
                let running = listed.iter().filter(|node| node.is_running());
                let ids: Vec<&str> = running.map(|node| &*node.id).collect();
                self.examine_nodes(&ids, user).await;
            }
            (NodeSelector::Spread | NodeSelector::Zone, None) => {
                let runner = &mut self.target.runner;
                runner.skip_after(StageName::Nodes, &[StageName::ConnectionString]);
            }
        }
    }

    /// Gets the cluster's own connection string and logs in with it.
    async fn examine_cluster_string(&mut self, user: ClusterUser<'_>) -> Option<Credential> {
        let string = self.fetch_string(self.cluster, user).await;
        self.log_in(string.as_ref(), user.identity).await;
        string
    }

    /// Gets the connection string of each node and logs in with it.
    async fn examine_nodes(&mut self, ids: &[&str], user: ClusterUser<'_>) {
        // With node_via = "cluster", a session with the cluster supplies the nodes' connection strings.
        let cluster_login = match self.node_via {
            NodeVia::Api => None,
            NodeVia::Cluster => self.examine_cluster_string(user).await,
        };
        for id in ids {
            self.target
                .set_subject(Some(user.user), Some(format!("node {id}")));
            let string = match (self.node_via, &cluster_login) {
                (NodeVia::Api, _) => self.fetch_string(id, user).await,
                (NodeVia::Cluster, Some(login)) => {
                    let login = login.clone();
                    self.aws
                        .fetch_string_from_cluster(
                            self.target.runner,
                            self.environment,
                            self.cluster,
                            id,
                            login,
                        )
                        .await
                }
                (NodeVia::Cluster, None) => {
                    let reason = "waits for the cluster's own connection string";
                    self.target.runner.skip(StageName::ConnectionString, reason);
                    None
                }
            };
            self.log_in(string.as_ref(), user.identity).await;
        }
    }

    /// Calls GetKxConnectionString for a cluster or node.
    async fn fetch_string(&mut self, target: &str, user: ClusterUser<'_>) -> Option<Credential> {
        let call = StringCall {
            environment: self.environment,
            target,
            state: self.state,
            user: user.user,
            identity: user.identity,
        };
        self.aws.fetch_string(self.target.runner, call).await
    }

    /// Logs in with a connection string. Without one, or without an address in it, reports the stages as
    /// skipped.
    async fn log_in(&mut self, string: Option<&Credential>, identity: &FinSpaceIdentity) {
        let Some((credential, address)) =
            string.and_then(|credential| Some((credential, credential.address.as_ref()?)))
        else {
            return self.skip_login();
        };
        let attempt = ExaminedLogin {
            address,
            is_configured: false,
            plaintext_allowed: self.plaintext,
            credential,
        };
        let cluster = self.cluster;
        let rejection = || LoginRejection {
            context: " with a fresh connection string",
            remedy: format!(
                "allow finspace:ConnectKxCluster on the cluster to {}",
                identity.user.role
            ),
            missing: identity
                .user
                .cluster_arn(cluster)
                .map(|arn| MissingPermission {
                    identity: identity.user.role.clone(),
                    statement: Statement::allow(&["finspace:ConnectKxCluster"], &[&arn]),
                }),
        };
        self.target.log_in(attempt, rejection).await;
    }

    fn skip_login(&mut self) {
        let runner = &mut self.target.runner;
        runner.skip_after(StageName::ConnectionString, &PATH_STAGES);
        runner.skip_after(StageName::ConnectionString, &LOGIN_STAGES);
    }
}
