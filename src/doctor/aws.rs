//! The stages that call AWS: base credentials, the user's role, clusters, nodes and connection strings.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::aws_verdicts::{judge_cluster, judge_nodes, judge_string, list_denied, time_left};
use super::runner::{StageFailure, StageFinding, StageRunner};
use super::stage::{StageName, StageSubject};
use crate::config::{self, User};
use crate::credential::{Credential, node};
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{CallLimits, ClockSkew, FinSpace, KxUser, Node, RoleSession, StringRequest};

/// Runs the stages that call AWS, and keeps their results for later stages.
pub(super) struct AwsStages {
    finspace: FinSpace,
    /// Names of the environments whose base credentials AWS rejected.
    rejected_credentials: HashSet<String>,
    /// By the names of environment and user; the error is the stage that failed.
    identities: HashMap<(String, String), Result<FinSpaceIdentity, StageName>>,
}

/// A FinSpace user, and a session of the user's role.
#[derive(Debug, Clone)]
pub(super) struct FinSpaceIdentity {
    pub(super) user: KxUser,
    session: RoleSession,
}

/// The state of a cluster, as far as the doctor may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterState {
    /// The cluster runs, or its state is unknown.
    MayServe,
    /// ListKxClusters says that the cluster does not run.
    Down,
}

/// A call of GetKxConnectionString.
#[derive(Clone, Copy)]
pub(super) struct StringCall<'a> {
    pub(super) environment: &'a Arc<Environment>,
    /// The name of a cluster, or the id of a node.
    pub(super) target: &'a str,
    /// The state of the cluster. FinSpace has no connection string for a cluster that is down.
    pub(super) state: ClusterState,
    pub(super) user: &'a User,
    pub(super) identity: &'a FinSpaceIdentity,
}

impl AwsStages {
    /// Allows two attempts for each call, within `limit`. If this host's clock is wrong, AWS refuses the
    /// first attempt, and its answer gives the time with which hopend signs the second one.
    pub(super) fn new(limit: Duration) -> Self {
        let limits = CallLimits {
            attempts: 2,
            attempt_timeout: limit.mul_f64(0.9),
            call_timeout: limit.mul_f64(0.95),
        };
        Self {
            finspace: FinSpace::with_limits(limits),
            rejected_credentials: HashSet::new(),
            identities: HashMap::new(),
        }
    }

    /// Finds the owner of the environment's base credentials, and compares this host's clock with AWS's.
    pub(super) async fn check_base_credentials(
        &mut self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
    ) {
        runner.subject = StageSubject {
            environment: Some(environment.name.clone()),
            ..StageSubject::default()
        };
        let mut rejected = false;
        let call = Box::pin(async {
            let result = self.finspace.caller_identity(environment).await;
            match (result, self.notable_skew(environment).await) {
                (Ok(caller), None) => Ok(StageFinding::new((), caller.arn)),
                (Ok(caller), Some(skew)) => {
                    let text = format!("{}; this host's clock is {skew}", caller.arn);
                    Ok(StageFinding::new((), text).warn(
                        "set this host's clock (chronyc tracking, timedatectl); until then hopend uses \
                         the time that AWS sends",
                    ))
                }
                (Err(error), _) => {
                    rejected = error.is_credential_fault;
                    Err(error.into())
                }
            }
        });
        runner.run_aws(StageName::BaseCredentials, call).await;
        if rejected {
            self.rejected_credentials.insert(environment.name.clone());
        }
    }

    /// The difference between this host's clock and AWS's, if it is large enough to report.
    async fn notable_skew(&self, environment: &Arc<Environment>) -> Option<ClockSkew> {
        let aws = self.finspace.aws_time(environment).await?;
        let skew = ClockSkew::between(SystemTime::now(), aws.now());
        skew.is_notable().then_some(skew)
    }

    /// Finds the user's role and assumes it.
    pub(super) async fn check_user(
        &mut self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
        user: &User,
    ) {
        runner.subject = StageSubject {
            environment: Some(environment.name.clone()),
            user: Some(user.name.clone()),
            ..StageSubject::default()
        };
        let identity = match self.find_role(runner, environment, user).await {
            Ok(kx_user) => self.assume_role(runner, environment, user, kx_user).await,
            Err(failed) => {
                runner.skip_after(failed, &[StageName::AssumeRole]);
                Err(failed)
            }
        };
        let key = (environment.name.clone(), user.name.clone());
        self.identities.insert(key, identity);
    }

    /// Calls GetKxUser, unless the configuration names the role. The error is the stage that failed.
    async fn find_role(
        &self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
        user: &User,
    ) -> Result<KxUser, StageName> {
        let rejected = self.rejected_credentials.contains(&environment.name);
        let request = string_request(environment, "", user);
        if user.role_arn.is_some() {
            runner.skip(StageName::KxUser, "not needed: role_arn is set");
            if rejected {
                return Err(StageName::BaseCredentials);
            }
            // FinSpace is not called, so this does not fail.
            let known = self.finspace.kx_user(&request).await;
            return known.map_err(|_| StageName::KxUser);
        }
        if rejected {
            runner.skip_after(StageName::BaseCredentials, &[StageName::KxUser]);
            return Err(StageName::BaseCredentials);
        }
        let call = Box::pin(async {
            let kx_user = self.finspace.kx_user(&request).await?;
            let text = format!("{} has {}", user.kx_user, kx_user.role);
            Ok(StageFinding::new(kx_user, text))
        });
        let kx_user = runner.run_aws(StageName::KxUser, call).await;
        kx_user.ok_or(StageName::KxUser)
    }

    async fn assume_role(
        &self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
        user: &User,
        kx_user: KxUser,
    ) -> Result<FinSpaceIdentity, StageName> {
        let call = Box::pin(async {
            let session = self
                .finspace
                .assume_role(environment, &kx_user.role, &user.name)
                .await?;
            let aws = self.finspace.aws_time(environment).await;
            let left = time_left(session.expires(), aws);
            let text = format!("{}, {left}", kx_user.role);
            Ok(StageFinding::new(session, text))
        });
        let session = runner.run_aws(StageName::AssumeRole, call).await;
        let session = session.ok_or(StageName::AssumeRole)?;
        Ok(FinSpaceIdentity {
            user: kx_user,
            session,
        })
    }

    /// The identity that [`Self::check_user`] found. The error is the stage that failed.
    pub(super) fn identity(
        &self,
        environment: &Environment,
        user: &User,
    ) -> Result<FinSpaceIdentity, StageName> {
        let key = (environment.name.clone(), user.name.clone());
        let known = self.identities.get(&key).cloned();
        known.unwrap_or(Err(StageName::AssumeRole))
    }

    /// Checks that the cluster exists and runs.
    pub(super) async fn check_cluster(
        &self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
        name: &str,
    ) -> ClusterState {
        if self.rejected_credentials.contains(&environment.name) {
            runner.skip_after(StageName::BaseCredentials, &[StageName::Cluster]);
            return ClusterState::MayServe;
        }
        let mut state = ClusterState::MayServe;
        let call = Box::pin(async {
            match self.finspace.clusters(environment, None).await {
                Ok(clusters) => {
                    let judged = judge_cluster(name, &clusters);
                    if judged
                        .as_ref()
                        .is_err_and(|failure| failure.kind == ErrorKind::Upstream)
                    {
                        state = ClusterState::Down;
                    }
                    judged
                }
                Err(error) if error.kind == ErrorKind::Denied => Ok(list_denied(&error)),
                Err(error) => Err(error.into()),
            }
        });
        runner.run_aws(StageName::Cluster, call).await;
        state
    }

    /// Lists the cluster's nodes. Returns `None` if FinSpace gave no list.
    pub(super) async fn list_nodes(
        &self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
        cluster: &str,
        wanted: &config::NodeSelector,
    ) -> Option<Vec<Node>> {
        if self.rejected_credentials.contains(&environment.name) {
            runner.skip_after(StageName::BaseCredentials, &[StageName::Nodes]);
            return None;
        }
        let call = Box::pin(async {
            let listed = match self.finspace.nodes(environment, cluster, None).await {
                Ok(listed) => listed,
                Err(error) => {
                    let denied = error.kind == ErrorKind::Denied;
                    return match wanted {
                        config::NodeSelector::Any if denied => Ok(list_denied(&error)),
                        // The configuration names the node, so serving needs no list.
                        config::NodeSelector::Id(_) if denied => {
                            let finding = StageFinding::new(Vec::new(), error.message.clone());
                            Ok(finding.warn(error.advice()))
                        }
                        _ => Err(error.into()),
                    };
                }
            };
            judge_nodes(cluster, wanted, listed)
        });
        runner.run_aws(StageName::Nodes, call).await
    }

    /// Gets the connection string of a cluster or node with GetKxConnectionString. If the cluster is down,
    /// the failure is no mistake of the configuration.
    pub(super) async fn fetch_string(
        &self,
        runner: &mut StageRunner<'_>,
        call: StringCall<'_>,
    ) -> Option<Credential> {
        let StringCall {
            environment, user, ..
        } = call;
        let request = string_request(environment, call.target, user);
        let FinSpaceIdentity {
            user: kx_user,
            session,
        } = call.identity;
        let fetch = Box::pin(async {
            match self
                .finspace
                .connection_string_as(session, kx_user, &request)
                .await
            {
                Ok(signed) => judge_string(signed.into()),
                Err(error)
                    if call.state == ClusterState::Down
                        && error.kind == ErrorKind::Configuration =>
                {
                    let remedy = "wait until the cluster is RUNNING; then it has one";
                    Err(StageFailure::new(
                        ErrorKind::Upstream,
                        error.message,
                        remedy,
                    ))
                }
                Err(error) => Err(error.into()),
            }
        });
        runner.run_aws(StageName::ConnectionString, fetch).await
    }

    /// Asks the cluster for a node's connection string, in a q session that logs in with `login`.
    pub(super) async fn fetch_string_from_cluster(
        &self,
        runner: &mut StageRunner<'_>,
        environment: &Arc<Environment>,
        cluster: &str,
        node_id: &str,
        login: Credential,
    ) -> Option<Credential> {
        let fetch =
            async { judge_string(node::ask_cluster(environment, cluster, node_id, login).await?) };
        runner.run_aws(StageName::ConnectionString, fetch).await
    }
}

fn string_request<'a>(
    environment: &'a Arc<Environment>,
    cluster: &'a str,
    user: &'a User,
) -> StringRequest<'a> {
    StringRequest {
        environment,
        cluster,
        kx_user: &user.kx_user,
        role: user.role_arn.as_ref(),
        local_user: &user.name,
    }
}
