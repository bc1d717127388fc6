//! What a configuration needs of IAM, and no more: the policy of the daemon's own role, and of each
//! user's role its policy and its trust policy.

mod arn;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{Endpoint, Node, Target, User};
use arn::{Place, partition};
use finspace::environment::Environment;
use finspace::policy_document::{Document, Principal, Statement, Trust};
use finspace::role_arn::RoleArn;
use finspace::role_session::session_name;

/// Stands for an account in the ARN of a role that is not known.
const UNKNOWN_ACCOUNT: &str = "ACCOUNT";
/// What the FinSpace user guide has a user's role trust, beside the account.
const SERVICE: &str = "finspace.amazonaws.com";
/// What the daemon does on a user's role.
const ON_ROLES: [&str; 2] = ["sts:AssumeRole", "sts:SetSourceIdentity"];
/// What a user's role does on a cluster.
const ON_CLUSTERS: [&str; 2] = [
    "finspace:GetKxConnectionString",
    "finspace:ConnectKxCluster",
];

/// What the configuration does not tell.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The account of the environments whose account no role tells.
    pub account: Option<String>,
    /// The role, or the IAM user, that the daemon runs as. Without one the users' roles trust their
    /// account, whose identity policies then decide.
    pub daemon: Option<String>,
    /// The roles of users without `role_arn`, by name of the environment and of the user.
    pub roles: HashMap<(String, String), RoleArn>,
    /// Whether the users' roles trust FinSpace itself as well.
    pub trust_finspace: bool,
}

/// Everything that a configuration needs of IAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policies {
    /// For the daemon's own credentials.
    pub daemon: DaemonPolicy,
    /// For the users' roles, by ARN.
    pub roles: Vec<RolePolicies>,
    /// What is not known, and stands for something in the documents.
    #[serde(skip)]
    pub gaps: Vec<Gap>,
}

/// For the daemon's own credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DaemonPolicy {
    /// None where the daemon asks nothing of AWS.
    pub policy: Option<Document<Statement>>,
}

/// For the role of one user, or of several who share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolePolicies {
    /// Its ARN.
    pub role: String,
    /// Names of the users.
    pub users: Vec<String>,
    /// What it may do.
    pub policy: Document<Statement>,
    /// Who may take it.
    pub trust: Document<Trust>,
}

/// Something that has to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// The role of a user.
    Role {
        /// The environment's name.
        environment: String,
        /// The user's.
        user: String,
        /// What stands for its ARN.
        stand_in: String,
    },
    /// The account of an environment, for which `*` stands.
    Account {
        /// The environment's name.
        environment: String,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role {
                environment,
                user,
                stand_in,
            } => write!(
                f,
                "the role of user {user} in environment {environment} is not in the configuration, \
                 and {stand_in} stands for it. Fix: ask FinSpace with --ask, or say --role {user}=ARN."
            ),
            Self::Account { environment } => write!(
                f,
                "the account of environment {environment} is not in the configuration, and * \
                 stands for it, which works. Fix: say --account to be exact."
            ),
        }
    }
}

/// The users whose role only FinSpace knows, each with an environment that is reached as them.
pub fn unknown_roles(endpoints: &[Arc<Endpoint>]) -> Vec<(Arc<Environment>, Arc<User>)> {
    let mut unknown: Vec<(Arc<Environment>, Arc<User>)> = Vec::new();
    for endpoint in endpoints {
        let Target::FinSpace { environment, .. } = &endpoint.target else {
            continue;
        };
        for user in endpoint.users.iter().filter(|u| u.role_arn.is_none()) {
            let seen = |(e, u): &(Arc<Environment>, Arc<User>)| {
                e.name == environment.name && u.name == user.name
            };
            if !unknown.iter().any(seen) {
                unknown.push((Arc::clone(environment), Arc::clone(user)));
            }
        }
    }
    unknown
}

impl Policies {
    /// What these endpoints need.
    pub fn of(endpoints: &[Arc<Endpoint>], known: &Known) -> Self {
        let mut needs = Needs {
            known,
            places: places(endpoints, known),
            daemon: BTreeMap::new(),
            roles: BTreeMap::new(),
            gaps: Vec::new(),
        };
        for endpoint in endpoints {
            needs.endpoint(endpoint);
        }
        needs.written()
    }

    /// Whether every ARN in the daemon's policy is one.
    pub fn daemon_is_whole(&self) -> bool {
        self.roles.iter().all(|role| self.is_whole(role))
    }

    /// Whether every ARN in the policies of a role is one.
    pub fn is_whole(&self, role: &RolePolicies) -> bool {
        !self
            .gaps
            .iter()
            .any(|gap| matches!(gap, Gap::Role { stand_in, .. } if *stand_in == role.role))
    }
}

/// Where each environment is, by name.
fn places<'a>(endpoints: &'a [Arc<Endpoint>], known: &Known) -> BTreeMap<&'a str, Place<'a>> {
    let mut places = BTreeMap::new();
    for endpoint in endpoints {
        let environment = match &endpoint.target {
            Target::FinSpace { environment, .. } => environment,
            Target::Console {
                environment: Some(environment),
            } => environment,
            Target::Console { environment: None } | Target::Addresses { .. } => continue,
        };
        let place = places.entry(&*environment.name).or_insert_with(|| Place {
            environment,
            partition: partition(&environment.region).to_owned(),
            account: "*".into(),
        });
        // FinSpace's users have roles of the environment's own account.
        let role = endpoint
            .users
            .iter()
            .find_map(|u| known.role(environment, u));
        if let Some(role) = role.filter(|_| place.account == "*") {
            place.partition.clone_from(&role.partition);
            place.account.clone_from(&role.account);
        }
    }
    if let Some(account) = &known.account {
        for place in places.values_mut().filter(|place| place.account == "*") {
            place.account.clone_from(account);
        }
    }
    places
}

impl Known {
    fn role<'a>(&'a self, environment: &Environment, user: &'a User) -> Option<&'a RoleArn> {
        let key = || (environment.name.clone(), user.name.clone());
        user.role_arn.as_ref().or_else(|| self.roles.get(&key()))
    }
}

/// What has been found so far.
struct Needs<'a> {
    known: &'a Known,
    places: BTreeMap<&'a str, Place<'a>>,
    /// Resources by action, for the daemon's own credentials.
    daemon: BTreeMap<&'static str, BTreeSet<String>>,
    /// By ARN.
    roles: BTreeMap<String, Role>,
    gaps: Vec<Gap>,
}

struct Role {
    users: BTreeSet<String>,
    clusters: BTreeSet<String>,
    /// The root of its account.
    root: String,
}

impl<'a> Needs<'a> {
    fn endpoint(&mut self, endpoint: &'a Endpoint) {
        match &endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node,
                ..
            } => {
                let place = self.place(environment);
                if *node != Node::Any {
                    self.ask("finspace:ListKxClusterNodes", place.cluster(cluster));
                }
                for user in &endpoint.users {
                    self.user(&place, user, cluster);
                }
            }
            Target::Console {
                environment: Some(environment),
            } => {
                let place = self.place(environment);
                self.ask("finspace:ListKxClusters", place.environment());
                self.ask("finspace:ListKxClusterNodes", place.cluster("*"));
            }
            Target::Console { environment: None } | Target::Addresses { .. } => {}
        }
    }

    fn place(&mut self, environment: &'a Environment) -> Place<'a> {
        let place = self.places[&*environment.name].clone();
        let gap = Gap::Account {
            environment: environment.name.clone(),
        };
        if place.account == "*" && !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
        place
    }

    fn user(&mut self, place: &Place<'_>, user: &User, cluster: &str) {
        if user.role_arn.is_none() {
            self.ask("finspace:GetKxUser", place.user(&user.kx_user));
        }
        let (arn, partition, account) = match self.known.role(place.environment, user) {
            Some(role) => (role.text.clone(), &role.partition, role.account.clone()),
            None => {
                let account = match &*place.account {
                    "*" => UNKNOWN_ACCOUNT.to_owned(),
                    account => account.to_owned(),
                };
                let arn = self.stand_in(place, user, &account);
                (arn, &place.partition, account)
            }
        };
        for action in ON_ROLES {
            self.ask(action, arn.clone());
        }
        let role = self.roles.entry(arn).or_insert_with(|| Role {
            users: BTreeSet::new(),
            clusters: BTreeSet::new(),
            root: format!("arn:{partition}:iam::{account}:root"),
        });
        role.users.insert(user.name.clone());
        role.clusters.insert(place.cluster(cluster));
    }

    fn stand_in(&mut self, place: &Place<'_>, user: &User, account: &str) -> String {
        let arn = format!(
            "arn:{}:iam::{account}:role/ROLE-OF-{}",
            place.partition,
            session_name(&user.name)
        );
        let gap = Gap::Role {
            environment: place.environment.name.clone(),
            user: user.name.clone(),
            stand_in: arn.clone(),
        };
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
        arn
    }

    fn ask(&mut self, action: &'static str, resource: String) {
        self.daemon.entry(action).or_default().insert(resource);
    }

    fn written(self) -> Policies {
        let known = self.known;
        let roles = self.roles.into_iter().map(|(arn, role)| RolePolicies {
            policy: Document::of(vec![statement(&ON_CLUSTERS, &role.clusters)]),
            trust: Document::of(trust(known, &role)),
            role: arn,
            users: role.users.into_iter().collect(),
        });
        let roles = roles.collect();
        let daemon = daemon_statements(&self.daemon);
        Policies {
            daemon: DaemonPolicy {
                policy: (!daemon.is_empty()).then(|| Document::of(daemon)),
            },
            roles,
            gaps: self.gaps,
        }
    }
}

/// One statement for all actions that are done on the same resources.
fn daemon_statements(needs: &BTreeMap<&'static str, BTreeSet<String>>) -> Vec<Statement> {
    let mut grouped: Vec<(Vec<&str>, &BTreeSet<String>)> = Vec::new();
    for (action, resources) in needs {
        match grouped.iter_mut().find(|(_, same)| *same == resources) {
            Some((actions, _)) => actions.push(action),
            None => grouped.push((vec![action], resources)),
        }
    }
    let statements = grouped.iter();
    let statements = statements.map(|(actions, resources)| statement(actions, resources));
    statements.collect()
}

fn statement(actions: &[&str], resources: &BTreeSet<String>) -> Statement {
    // What a wildcard covers need not be named beside it.
    let covered = |resource: &str| {
        resources.iter().any(|other| {
            let prefix = other.strip_suffix('*');
            prefix.is_some_and(|prefix| other != resource && resource.starts_with(prefix))
        })
    };
    let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
    let needed: Vec<&str> = resources.into_iter().filter(|r| !covered(r)).collect();
    Statement::allow(actions, &needed)
}

/// The source identity is the local user's name: nobody else's session can be had with the role.
fn trust(known: &Known, role: &Role) -> Vec<Trust> {
    let daemon = known.daemon.clone().unwrap_or_else(|| role.root.clone());
    let names: BTreeSet<String> = role.users.iter().map(|user| session_name(user)).collect();
    let mut statements = vec![
        Trust::allow(Principal::Aws(daemon), &ON_ROLES)
            .where_equal("sts:SourceIdentity", names.into_iter().collect()),
    ];
    if known.trust_finspace {
        let service = Principal::Service(SERVICE);
        statements.push(Trust::allow(service, &["sts:AssumeRole"]));
    }
    statements
}

#[cfg(test)]
mod tests;
