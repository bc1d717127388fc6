//! The IAM policies that a configuration needs, with no more permissions than necessary: the policy of the
//! daemon's own role, and the policy and the trust policy of each user's role.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{Endpoint, NodeSelector, Target, User};
use finspace::arn::{ANY_ACCOUNT, EnvironmentArn};
use finspace::environment::Environment;
use finspace::policy_document::{PolicyDocument, Principal, Statement, TrustStatement};
use finspace::role_arn::RoleArn;
use finspace::role_session::session_name;

/// The placeholder for the account in the ARN of a role that is not known.
const ACCOUNT_PLACEHOLDER: &str = "ACCOUNT";
/// The service that a user's role trusts beside the account, according to the FinSpace user guide.
const FINSPACE_SERVICE: &str = "finspace.amazonaws.com";
/// The actions of the daemon on a user's role.
const ROLE_ACTIONS: [&str; 2] = ["sts:AssumeRole", "sts:SetSourceIdentity"];
/// The actions of a user's role on a cluster.
const CLUSTER_ACTIONS: [&str; 2] = [
    "finspace:GetKxConnectionString",
    "finspace:ConnectKxCluster",
];

/// Facts that a configuration does not have. The command line and FinSpace supply them.
#[derive(Debug, Clone, Default)]
pub(crate) struct IamFacts {
    /// The account of the environments whose account no role tells: twelve digits.
    pub account: Option<String>,
    /// The ARN of the role or IAM user that the daemon runs as. Without it the users' roles trust their
    /// whole account, and the identity policies of that account decide.
    pub daemon: Option<String>,
    /// The roles of users without `role_arn`.
    pub roles: HashMap<RoleOwner, RoleArn>,
    /// Whether the users' roles trust the FinSpace service too.
    pub trust_finspace: bool,
}

/// A user in an environment, who has one role there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RoleOwner {
    /// The name of the environment.
    pub environment: String,
    /// The name of the user.
    pub user: String,
}

impl RoleOwner {
    /// The owner of the role with which `user` reaches `environment`.
    pub(crate) fn new(environment: &Environment, user: &User) -> Self {
        Self {
            environment: environment.name.clone(),
            user: user.name.clone(),
        }
    }
}

/// All IAM policies that a configuration needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Policies {
    /// The policy of the daemon's own role.
    pub daemon: DaemonPolicy,
    /// The policies of the users' roles, sorted by ARN.
    pub roles: Vec<RolePolicies>,
    /// The facts that are not known, for which the documents have placeholders.
    #[serde(skip)]
    pub gaps: Vec<PolicyGap>,
}

/// The policy of the daemon's own role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DaemonPolicy {
    /// The identity policy. None if the daemon makes no call to AWS.
    pub policy: Option<PolicyDocument<Statement>>,
}

/// The policies of a role. Several users may share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RolePolicies {
    /// The ARN of the role.
    pub role: String,
    /// The names of its users, sorted.
    pub users: Vec<String>,
    /// The identity policy: what the role may do.
    pub policy: PolicyDocument<Statement>,
    /// The trust policy: who may assume the role.
    pub trust: PolicyDocument<TrustStatement>,
}

/// A fact that is not known, for which the documents have a placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyGap {
    /// The role of a user.
    Role {
        /// The user, and the environment that the user reaches with the role.
        owner: RoleOwner,
        /// The placeholder for the ARN of the role.
        placeholder: String,
    },
    /// The account of an environment. The placeholder is `*`, which IAM accepts.
    Account {
        /// The name of the environment.
        environment: String,
    },
}

impl fmt::Display for PolicyGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role {
                owner: RoleOwner { environment, user },
                placeholder,
            } => write!(
                f,
                "the role of user {user} in environment {environment} is not in the configuration, \
                 and {placeholder} stands for it. Fix: ask FinSpace with --ask, or give --role {user}=ARN."
            ),
            Self::Account { environment } => write!(
                f,
                "the account of environment {environment} is not in the configuration, and * stands \
                 for it, which IAM accepts. Fix: give --account to be exact."
            ),
        }
    }
}

/// A user without `role_arn`, and an environment that the user reaches.
#[derive(Debug, Clone)]
pub(crate) struct UserWithoutRole {
    /// The environment, which knows the role.
    pub environment: Arc<Environment>,
    /// The user.
    pub user: Arc<User>,
}

/// The users whose role only FinSpace knows, once for each environment that they reach.
pub(crate) fn users_without_role(endpoints: &[Arc<Endpoint>]) -> Vec<UserWithoutRole> {
    let mut found: Vec<UserWithoutRole> = Vec::new();
    for endpoint in endpoints {
        let Target::FinSpace { environment, .. } = &endpoint.target else {
            continue;
        };
        for user in endpoint.users.iter().filter(|u| u.role_arn.is_none()) {
            let is_same = |it: &UserWithoutRole| {
                it.environment.name == environment.name && it.user.name == user.name
            };
            if !found.iter().any(is_same) {
                found.push(UserWithoutRole {
                    environment: Arc::clone(environment),
                    user: Arc::clone(user),
                });
            }
        }
    }
    found
}

impl Policies {
    /// The policies that these endpoints need.
    pub(crate) fn of(endpoints: &[Arc<Endpoint>], facts: &IamFacts) -> Self {
        let mut needs = PolicyNeeds {
            facts,
            arns: environment_arns(endpoints, facts),
            daemon: BTreeMap::new(),
            roles: BTreeMap::new(),
            gaps: Vec::new(),
        };
        for endpoint in endpoints {
            needs.add_endpoint(endpoint);
        }
        needs.into_policies()
    }

    /// Whether the daemon's policy has no placeholder for a role.
    pub(crate) fn daemon_is_complete(&self) -> bool {
        self.roles.iter().all(|role| self.is_complete(role))
    }

    /// Whether the ARN of a role is no placeholder.
    pub(crate) fn is_complete(&self, role: &RolePolicies) -> bool {
        let is_its_gap = |gap: &PolicyGap| matches!(gap, PolicyGap::Role { placeholder, .. } if *placeholder == role.role);
        !self.gaps.iter().any(is_its_gap)
    }
}

/// The ARN of each environment, by name, with the account as far as it is known.
fn environment_arns<'a>(
    endpoints: &'a [Arc<Endpoint>],
    facts: &IamFacts,
) -> BTreeMap<&'a str, EnvironmentArn<'a>> {
    let mut arns = BTreeMap::new();
    for endpoint in endpoints {
        let environment = match &endpoint.target {
            Target::FinSpace { environment, .. } => environment,
            Target::Console {
                environment: Some(environment),
            } => environment,
            Target::Console { environment: None } | Target::Addresses { .. } => continue,
        };
        let arn = arns
            .entry(&*environment.name)
            .or_insert_with(|| EnvironmentArn::in_any_account(environment));
        // The role of a FinSpace user belongs to the account of the environment.
        let role = endpoint
            .users
            .iter()
            .find_map(|user| facts.role_of(environment, user));
        if let Some(role) = role.filter(|_| arn.account == ANY_ACCOUNT) {
            arn.partition.clone_from(&role.partition);
            arn.account.clone_from(&role.account);
        }
    }
    if let Some(account) = &facts.account {
        for arn in arns.values_mut().filter(|arn| arn.account == ANY_ACCOUNT) {
            arn.account.clone_from(account);
        }
    }
    arns
}

impl IamFacts {
    fn role_of<'a>(&'a self, environment: &Environment, user: &'a User) -> Option<&'a RoleArn> {
        let owner = || RoleOwner::new(environment, user);
        user.role_arn.as_ref().or_else(|| self.roles.get(&owner()))
    }
}

/// The permissions that the endpoints seen so far need.
struct PolicyNeeds<'a> {
    facts: &'a IamFacts,
    /// By name of the environment.
    arns: BTreeMap<&'a str, EnvironmentArn<'a>>,
    /// The resources of each action of the daemon's own role.
    daemon: BTreeMap<&'static str, BTreeSet<String>>,
    /// By ARN.
    roles: BTreeMap<String, RoleNeeds>,
    gaps: Vec<PolicyGap>,
}

/// The permissions that a user's role needs.
struct RoleNeeds {
    users: BTreeSet<String>,
    /// ARNs.
    clusters: BTreeSet<String>,
    /// The ARN that stands for every identity of the role's account.
    account_root: String,
}

impl<'a> PolicyNeeds<'a> {
    fn add_endpoint(&mut self, endpoint: &'a Endpoint) {
        match &endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node,
                ..
            } => {
                let arn = self.environment_arn(environment);
                if *node != NodeSelector::Any {
                    self.let_daemon("finspace:ListKxClusterNodes", arn.cluster(cluster));
                }
                for user in &endpoint.users {
                    self.add_user(&arn, user, cluster);
                }
            }
            Target::Console {
                environment: Some(environment),
            } => {
                let arn = self.environment_arn(environment);
                self.let_daemon("finspace:ListKxClusters", arn.to_string());
                self.let_daemon("finspace:ListKxClusterNodes", arn.cluster("*"));
            }
            Target::Console { environment: None } | Target::Addresses { .. } => {}
        }
    }

    /// The ARN of an environment. Notes the gap if its account is not known.
    fn environment_arn(&mut self, environment: &'a Environment) -> EnvironmentArn<'a> {
        let arn = self.arns[&*environment.name].clone();
        if arn.account == ANY_ACCOUNT {
            self.add_gap(PolicyGap::Account {
                environment: environment.name.clone(),
            });
        }
        arn
    }

    fn add_user(&mut self, environment: &EnvironmentArn<'_>, user: &User, cluster: &str) {
        if user.role_arn.is_none() {
            self.let_daemon("finspace:GetKxUser", environment.user(&user.kx_user));
        }
        let role = self.facts.role_of(environment.environment, user);
        let (arn, partition, account) = match role {
            Some(role) => (role.text.clone(), &role.partition, role.account.clone()),
            None => {
                let account = match &*environment.account {
                    ANY_ACCOUNT => ACCOUNT_PLACEHOLDER.to_owned(),
                    account => account.to_owned(),
                };
                let placeholder = self.add_role_placeholder(environment, user, &account);
                (placeholder, &environment.partition, account)
            }
        };
        for action in ROLE_ACTIONS {
            self.let_daemon(action, arn.clone());
        }
        let needs = self.roles.entry(arn).or_insert_with(|| RoleNeeds {
            users: BTreeSet::new(),
            clusters: BTreeSet::new(),
            account_root: format!("arn:{partition}:iam::{account}:root"),
        });
        needs.users.insert(user.name.clone());
        needs.clusters.insert(environment.cluster(cluster));
    }

    /// Notes the gap of a role that is not known, and returns the placeholder for its ARN.
    fn add_role_placeholder(
        &mut self,
        environment: &EnvironmentArn<'_>,
        user: &User,
        account: &str,
    ) -> String {
        let placeholder = format!(
            "arn:{}:iam::{account}:role/ROLE-OF-{}",
            environment.partition,
            session_name(&user.name)
        );
        self.add_gap(PolicyGap::Role {
            owner: RoleOwner::new(environment.environment, user),
            placeholder: placeholder.clone(),
        });
        placeholder
    }

    fn add_gap(&mut self, gap: PolicyGap) {
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
    }

    fn let_daemon(&mut self, action: &'static str, resource: String) {
        self.daemon.entry(action).or_default().insert(resource);
    }

    fn into_policies(self) -> Policies {
        let facts = self.facts;
        let roles = self.roles.into_iter().map(|(arn, needs)| RolePolicies {
            policy: PolicyDocument::of(vec![statement(&CLUSTER_ACTIONS, &needs.clusters)]),
            trust: PolicyDocument::of(trust_statements(facts, &needs)),
            role: arn,
            users: needs.users.into_iter().collect(),
        });
        let roles = roles.collect();
        let daemon = daemon_statements(&self.daemon);
        Policies {
            daemon: DaemonPolicy {
                policy: (!daemon.is_empty()).then(|| PolicyDocument::of(daemon)),
            },
            roles,
            gaps: self.gaps,
        }
    }
}

/// The statements of the daemon's policy. Actions on the same resources share a statement.
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
    // A resource that a wildcard covers needs no entry of its own.
    let is_covered = |resource: &str| {
        resources.iter().any(|other| {
            let prefix = other.strip_suffix('*');
            prefix.is_some_and(|prefix| other != resource && resource.starts_with(prefix))
        })
    };
    let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
    let needed: Vec<&str> = resources
        .into_iter()
        .filter(|resource| !is_covered(resource))
        .collect();
    Statement::allow(actions, &needed)
}

/// The trust policy of a role. It requires the name of one of its users as source identity, so a session
/// for any other user is refused.
fn trust_statements(facts: &IamFacts, role: &RoleNeeds) -> Vec<TrustStatement> {
    let daemon = facts.daemon.as_ref().unwrap_or(&role.account_root);
    let names: BTreeSet<String> = role.users.iter().map(|user| session_name(user)).collect();
    let mut statements = vec![
        TrustStatement::allow(Principal::Aws(daemon.clone()), &ROLE_ACTIONS)
            .where_equal("sts:SourceIdentity", names.into_iter().collect()),
    ];
    if facts.trust_finspace {
        let service = Principal::Service(FINSPACE_SERVICE);
        statements.push(TrustStatement::allow(service, &["sts:AssumeRole"]));
    }
    statements
}

#[cfg(test)]
mod tests;
