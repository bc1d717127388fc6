//! The AWS side: whose the base credentials are, the user's role, clusters, nodes, strings.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::stage::{Bench, Finding, Name, Subject, Trouble};
use crate::config::{self, User};
use crate::credential::{Credential, Expiry, node};
use crate::route::nodes::names;
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{
    AwsError, AwsTime, CallLimits, ClockSkew, Cluster, FinSpace, KxUser, Node, RoleSession,
    StringRequest,
};

/// A cluster's name is meant where another resembles it at least this much.
const RESEMBLES: f64 = 0.6;

/// What AWS has told so far.
pub(super) struct Aws {
    finspace: FinSpace,
    /// Environments whose base credentials are of no use.
    unfit: HashSet<String>,
    /// By environment and user. What failed, where something did.
    identities: HashMap<(String, String), Result<Identity, Name>>,
}

/// A FinSpace user, and a session of its role.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) user: KxUser,
    session: RoleSession,
}

impl Aws {
    /// Two attempts of each call, within `limit`: what is wrong is wanted, not patience. Where this host's
    /// clock is wrong, the first one's refusal tells the time by which the second one is signed.
    pub(super) fn new(limit: Duration) -> Self {
        let limits = CallLimits {
            attempts: 2,
            attempt_timeout: limit.mul_f64(0.9),
            call_timeout: limit.mul_f64(0.95),
        };
        Self {
            finspace: FinSpace::with_limits(limits),
            unfit: HashSet::new(),
            identities: HashMap::new(),
        }
    }

    /// Whose the base credentials are.
    pub(super) async fn base_credentials(
        &mut self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
    ) {
        bench.subject = Subject {
            environment: Some(environment.name.clone()),
            ..Subject::default()
        };
        let mut unfit = false;
        let ask = Box::pin(async {
            let told = self.finspace.caller_identity(environment).await;
            match (told, self.skew(environment).await) {
                (Ok(caller), None) => Ok(Finding::new((), caller.arn)),
                (Ok(caller), Some(skew)) => {
                    let said = format!("{}; this host's clock is {skew}", caller.arn);
                    Ok(Finding::new((), said).but(
                        "set this host's clock (chronyc tracking, timedatectl); until then hopend counts \
                         by AWS's",
                    ))
                }
                (Err(error), _) => {
                    unfit = error.is_credential_fault;
                    Err(error.into())
                }
            }
        });
        bench.aws_stage(Name::BaseCredentials, ask).await;
        if unfit {
            self.unfit.insert(environment.name.clone());
        }
    }

    /// How far this host's clock is off, where that is worth a word.
    async fn skew(&self, environment: &Arc<Environment>) -> Option<ClockSkew> {
        let aws = self.finspace.aws_time(environment).await?;
        let skew = ClockSkew::between(SystemTime::now(), aws.now());
        skew.is_notable().then_some(skew)
    }

    /// The user's role and a session of it.
    pub(super) async fn identify(
        &mut self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
        user: &User,
    ) {
        bench.subject = Subject {
            environment: Some(environment.name.clone()),
            user: Some(user.name.clone()),
            ..Subject::default()
        };
        let identity = self.identity_of(bench, environment, user).await;
        let key = (environment.name.clone(), user.name.clone());
        self.identities.insert(key, identity);
    }

    async fn identity_of(
        &self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
        user: &User,
    ) -> Result<Identity, Name> {
        let unfit = self.unfit.contains(&environment.name);
        let request = request(environment, "", user);
        let known = if user.role_arn.is_some() {
            bench.skip(Name::KxUser, "not needed: role_arn is set");
            // No call, so nothing that could fail.
            self.finspace.kx_user(&request).await.ok()
        } else if unfit {
            bench.wait_for(Name::BaseCredentials, &[Name::KxUser]);
            None
        } else {
            let ask = Box::pin(async {
                let known = self.finspace.kx_user(&request).await?;
                let said = format!("{} has {}", user.kx_user, known.role);
                Ok(Finding::new(known, said))
            });
            bench.aws_stage(Name::KxUser, ask).await
        };
        let waits_for = if unfit {
            Name::BaseCredentials
        } else {
            Name::KxUser
        };
        let (Some(known), false) = (known, unfit) else {
            bench.wait_for(waits_for, &[Name::AssumeRole]);
            return Err(waits_for);
        };
        let ask = Box::pin(async {
            let session = self
                .finspace
                .assume_role(environment, &known.role, &user.name)
                .await?;
            let aws = self.finspace.aws_time(environment).await;
            let said = format!("{}, {}", known.role, left(session.expires(), aws));
            Ok(Finding::new(session, said))
        });
        let session = bench.aws_stage(Name::AssumeRole, ask).await;
        session
            .map(|session| Identity {
                user: known,
                session,
            })
            .ok_or(Name::AssumeRole)
    }

    /// Who a user is in FinSpace, or what stands in the way.
    pub(super) fn identity(
        &self,
        environment: &Environment,
        user: &User,
    ) -> Result<Identity, Name> {
        let key = (environment.name.clone(), user.name.clone());
        let known = self.identities.get(&key).cloned();
        known.unwrap_or(Err(Name::AssumeRole))
    }

    /// Whether there is such a cluster, and whether it runs; true where it is known to be down.
    pub(super) async fn cluster(
        &self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
        name: &str,
    ) -> bool {
        if self.unfit.contains(&environment.name) {
            bench.wait_for(Name::BaseCredentials, &[Name::Cluster]);
            return false;
        }
        let mut down = false;
        let ask = Box::pin(async {
            match self.finspace.clusters(environment, None).await {
                Ok(clusters) => {
                    let judged = judge_cluster(name, &clusters);
                    down = matches!(&judged, Err(trouble) if trouble.kind == ErrorKind::Upstream);
                    judged
                }
                Err(error) if error.kind == ErrorKind::Denied => Ok(unlisted(&error)),
                Err(error) => Err(error.into()),
            }
        });
        bench.aws_stage(Name::Cluster, ask).await;
        down
    }

    /// The nodes, where they can be listed.
    pub(super) async fn nodes(
        &self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
        cluster: &str,
        wanted: &config::Node,
    ) -> Option<Vec<Node>> {
        if self.unfit.contains(&environment.name) {
            bench.wait_for(Name::BaseCredentials, &[Name::Nodes]);
            return None;
        }
        let ask = Box::pin(async {
            let listed = match self.finspace.nodes(environment, cluster, None).await {
                Ok(listed) => listed,
                Err(error) => {
                    let denied = error.kind == ErrorKind::Denied;
                    return match wanted {
                        config::Node::Any if denied => Ok(unlisted(&error)),
                        // Whoever knows the node needs no list.
                        config::Node::Id(_) if denied => {
                            Ok(Finding::new(Vec::new(), error.message.clone()).but(error.advice()))
                        }
                        _ => Err(error.into()),
                    };
                }
            };
            judge_nodes(cluster, wanted, listed)
        });
        bench.aws_stage(Name::Nodes, ask).await
    }

    /// A connection string of a cluster, or of a node by the API's way. Of a cluster that is `down`
    /// none is expected, and that is nobody's mistake.
    pub(super) async fn string(
        &self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
        (place, down): (&str, bool),
        (user, identity): (&User, &Identity),
    ) -> Option<Credential> {
        let request = request(environment, place, user);
        let ask = Box::pin(async {
            let Identity { user, session } = identity;
            match self
                .finspace
                .connection_string_as(session, user, &request)
                .await
            {
                Ok(signed) => issued(signed.into()),
                Err(error) if down && error.kind == ErrorKind::Configuration => {
                    let remedy = "there will be one when the cluster is RUNNING";
                    Err(Trouble::new(ErrorKind::Upstream, error.message, remedy))
                }
                Err(error) => Err(error.into()),
            }
        });
        bench.aws_stage(Name::ConnectionString, ask).await
    }

    /// A node's connection string, asked of its cluster.
    pub(super) async fn string_of_cluster(
        &self,
        bench: &mut Bench<'_>,
        environment: &Arc<Environment>,
        (cluster, id): (&str, &str),
        login: Credential,
    ) -> Option<Credential> {
        let ask = async { issued(node::ask_cluster(environment, cluster, id, login).await?) };
        bench.aws_stage(Name::ConnectionString, ask).await
    }
}

fn request<'a>(
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

/// Address, user and life of a string; never the string.
fn issued(credential: Credential) -> Result<Finding<Credential>, Trouble> {
    let left = left(credential.expires, credential.issuer_time);
    let said = match &credential.address {
        Some(address) => format!("{address} for {}, {left}", credential.user),
        None => format!("for {}, {left}", credential.user),
    };
    let over = match credential.expiry() {
        Expiry::Unknown => false,
        Expiry::At(end) => end <= SystemTime::now(),
        Expiry::After(left) => left.is_zero(),
    };
    if over {
        return Err(Trouble::new(
            ErrorKind::Internal,
            said,
            "this host's clock is wrong: set it (chronyc tracking, timedatectl)",
        ));
    }
    Ok(Finding::new(credential, said))
}

fn judge_cluster(name: &str, clusters: &[Cluster]) -> Result<Finding<()>, Trouble> {
    let Some(cluster) = clusters.iter().find(|cluster| cluster.name == name) else {
        let all: Vec<_> = clusters.iter().map(|cluster| &*cluster.name).collect();
        let near = all
            .iter()
            .map(|other| (strsim::jaro_winkler(name, other), other))
            .filter(|(resembles, _)| *resembles >= RESEMBLES)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        let remedy = match near {
            Some((_, near)) => {
                format!("set cluster of the endpoint to one of them; did you mean {near}?")
            }
            None => "set cluster of the endpoint to one of them".into(),
        };
        let all = if all.is_empty() {
            "none".into()
        } else {
            all.join(", ")
        };
        return Err(Trouble::new(
            ErrorKind::Configuration,
            format!("there is no cluster {name}; there are: {all}"),
            remedy,
        ));
    };
    let said = format!("{name} is {} ({})", cluster.status, cluster.kind);
    match &*cluster.status {
        "RUNNING" => Ok(Finding::new((), said)),
        "UPDATING" => Ok(Finding::new((), said).but("wait until it is RUNNING again")),
        _ => Err(Trouble::new(
            ErrorKind::Upstream,
            said,
            "wait until it is RUNNING, or have it started in FinSpace",
        )),
    }
}

fn judge_nodes(
    cluster: &str,
    wanted: &config::Node,
    listed: Vec<Node>,
) -> Result<Finding<Vec<Node>>, Trouble> {
    let there = names(&listed);
    match wanted {
        config::Node::Any => {}
        config::Node::Id(id) => match listed.iter().find(|node| node.id == *id) {
            Some(node) if node.is_running() => {}
            Some(node) => {
                return Err(Trouble::new(
                    ErrorKind::Upstream,
                    format!("node {id} is {}", node.status),
                    "wait until it is RUNNING, or set node to another",
                ));
            }
            None => {
                return Err(Trouble::new(
                    ErrorKind::Configuration,
                    format!("node {id} is not in cluster {cluster}; there are: {there}"),
                    "set node of the endpoint to one of them, or to \"spread\"",
                ));
            }
        },
        config::Node::Spread | config::Node::Zone => {
            if !listed.iter().any(Node::is_running) {
                return Err(Trouble::new(
                    ErrorKind::Upstream,
                    format!("no node of cluster {cluster} is RUNNING; there are: {there}"),
                    "wait until one runs, or have one started",
                ));
            }
        }
    }
    Ok(Finding::new(listed, there))
}

/// A list that is good to have, and that serving needs not.
fn unlisted<T: Default>(error: &AwsError) -> Finding<T> {
    let action = error.message.split(' ').next().unwrap_or_default();
    Finding::new(
        T::default(),
        format!("not allowed ({action}), and not needed to serve"),
    )
    .left_out()
}

/// What is left of a life, by AWS's clock where that is known.
fn left(end: Option<SystemTime>, aws: Option<AwsTime>) -> String {
    let Some(end) = end else {
        return "no end known".into();
    };
    let now = aws.map_or_else(SystemTime::now, |aws| aws.now());
    match end.duration_since(now) {
        Ok(left) => match left.as_secs() {
            seconds @ 0..60 => format!("{seconds} s left"),
            seconds => format!("{} min {} s left", seconds / 60, seconds % 60),
        },
        Err(over) => format!("over since {} s", over.duration().as_secs()),
    }
}
