//! `hopend policy`.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::failure::CommandFailure;
use super::{ConfigArgument, Exit, print_error, print_line, runtime};
use crate::config::{self, Config, Endpoint};
use crate::policy::{
    IamFacts, Policies, PolicyGap, RoleOwner, RolePolicies, UserWithoutRole, users_without_role,
};
use finspace::FinSpace;
use finspace::role_arn::RoleArn;

/// The description in `hopend policy --help`.
pub(super) const ABOUT: &str = "\
Print the least IAM policies that the configuration needs: the policy of the daemon's own role, and \
the policy and the trust policy of each user's role. hopend calls AWS only with --ask.

Without --document, hopend prints one JSON object. It holds daemon.policy, and roles: a list of objects \
with role, users, policy and trust. Placeholders stand for unknown roles and accounts; standard error names \
them. With --document, hopend refuses to print a document with an unknown role.

Without --daemon-role, the users' roles trust the root of their account, as in the FinSpace user guide. \
Then the policies of the account, such as the daemon's, decide who may assume them. In both cases the \
session must have the local user's name as its source identity. In the guide, the roles also trust \
finspace.amazonaws.com; --trust-finspace adds that.

The policies do not include finspace:ListKxClusters and finspace:ListKxClusterNodes for `hopend clusters` \
and `hopend nodes`, which call AWS with the credentials of the account that runs them.";

/// The sections of `hopend policy --help` after the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  hopend policy --ask
  aws iam put-role-policy --role-name hopend --policy-name hopend \\
      --policy-document \"$(hopend policy --ask --document daemon)\"
  aws iam update-assume-role-policy --role-name user-alice \\
      --policy-document \"$(hopend policy --ask --document trust --user alice)\"";

/// Arguments of `hopend policy`.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print only the policies that this endpoint needs; may be given several times
    #[arg(long, value_name = "NAME")]
    endpoint: Vec<String>,
    /// Ask FinSpace (GetKxUser) for the roles that the configuration does not name
    #[arg(long)]
    ask: bool,
    /// The role of a user for whom the configuration has no role_arn; may be given several times
    #[arg(long, value_name = "USER=ARN", value_parser = parse_user_role)]
    role: Vec<UserRole>,
    /// The AWS account of the environments, if no role names it
    #[arg(long, value_name = "ID", value_parser = parse_account)]
    account: Option<String>,
    /// The daemon's own role or IAM user; then the users' roles trust only it
    #[arg(long, value_name = "ARN", value_parser = parse_principal)]
    daemon_role: Option<String>,
    /// Let the users' roles also trust finspace.amazonaws.com
    #[arg(long)]
    trust_finspace: bool,
    /// Print only this document, ready to apply
    #[arg(long, value_name = "WHICH")]
    document: Option<PolicyKind>,
    /// The user whose role the document is for, if there are several roles
    #[arg(long, value_name = "NAME", requires = "document")]
    user: Option<String>,
}

/// A role given on the command line.
#[derive(Debug, Clone)]
struct UserRole {
    user: String,
    role: RoleArn,
}

/// One of the documents that `--document` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PolicyKind {
    /// The policy of the daemon's own role
    Daemon,
    /// The policy of a user's role
    Role,
    /// The trust policy of a user's role
    Trust,
}

pub(super) fn run(arguments: &PolicyArguments) -> Exit {
    let config = match config::load(&arguments.config.config) {
        Ok(config) => config,
        Err(problems) => {
            print_error(problems);
            return Exit::Configuration;
        }
    };
    let printed = select_endpoints(&config, &arguments.endpoint).and_then(|endpoints| {
        let known = find_roles(arguments, &config, &endpoints)?;
        print(arguments, &Policies::of(&endpoints, &known))
    });
    match printed {
        Ok(()) => Exit::Ok,
        Err(failure) => failure.report(),
    }
}

/// The endpoints of these names; all if there are no names.
fn select_endpoints(
    config: &Config,
    names: &[String],
) -> Result<Vec<Arc<Endpoint>>, CommandFailure> {
    if names.is_empty() {
        return Ok(config.endpoints.clone());
    }
    let find = |name: &String| {
        let mut endpoints = config.endpoints.iter();
        let found = endpoints.find(|endpoint| endpoint.name == *name).cloned();
        found.ok_or_else(|| {
            let existing = config.endpoints.iter().map(|endpoint| &*endpoint.name);
            let existing: Vec<_> = existing.collect();
            CommandFailure::configuration(format!(
                "no endpoint is called {name:?}. Fix: name one of these: {}.",
                existing.join(" ")
            ))
        })
    };
    names.iter().map(find).collect()
}

/// Collects the roles and accounts that the configuration does not name. They stem from the command
/// line, and with `--ask` from FinSpace.
fn find_roles(
    arguments: &PolicyArguments,
    config: &Config,
    endpoints: &[Arc<Endpoint>],
) -> Result<IamFacts, CommandFailure> {
    for UserRole { user: name, .. } in &arguments.role {
        if !config.users.iter().any(|user| user.name == *name) {
            return Err(CommandFailure::configuration(format!(
                "--role: no [[user]] is called {name:?}"
            )));
        }
    }
    let given: HashMap<&str, &RoleArn> = arguments
        .role
        .iter()
        .map(|given| (&*given.user, &given.role))
        .collect();
    let mut roles = HashMap::new();
    let mut to_ask = Vec::new();
    for UserWithoutRole { environment, user } in users_without_role(endpoints) {
        match given.get(&*user.name) {
            Some(&role) => {
                roles.insert(RoleOwner::new(&environment, &user), role.clone());
            }
            None => to_ask.push((environment, user)),
        }
    }
    if arguments.ask && !to_ask.is_empty() {
        let runtime = runtime().map_err(|exit| CommandFailure {
            exit,
            message: "FinSpace cannot be asked".into(),
        })?;
        runtime.block_on(async {
            let finspace = FinSpace::default();
            for (environment, user) in &to_ask {
                let role = finspace.role(environment, user.as_finspace_user()).await?;
                roles.insert(RoleOwner::new(environment, user), role);
            }
            Ok::<_, CommandFailure>(())
        })?;
    }
    Ok(IamFacts {
        account: arguments.account.clone(),
        daemon: arguments.daemon_role.clone(),
        roles,
        trust_finspace: arguments.trust_finspace,
    })
}

fn print(arguments: &PolicyArguments, policies: &Policies) -> Result<(), CommandFailure> {
    let missing = || {
        let gaps = policies.gaps.iter();
        let gaps = gaps.filter(|gap| matches!(gap, PolicyGap::Role { .. }));
        let gaps: Vec<_> = gaps.map(ToString::to_string).collect();
        CommandFailure::configuration(format!("the document would have gaps: {}", gaps.join(" ")))
    };
    let role = || {
        let role = select_role(policies, arguments.user.as_deref())?;
        policies
            .is_complete(role)
            .then_some(role)
            .ok_or_else(missing)
    };
    let json = match arguments.document {
        None => {
            for gap in &policies.gaps {
                print_error(format_args!("note: {gap}"));
            }
            pretty(policies)
        }
        Some(PolicyKind::Daemon) if !policies.daemon_is_complete() => return Err(missing()),
        Some(PolicyKind::Daemon) => {
            let policy = policies.daemon.policy.as_ref();
            pretty(policy.ok_or_else(|| {
                CommandFailure::configuration("these endpoints do not use AWS: there is no policy")
            })?)
        }
        Some(PolicyKind::Role) => pretty(&role()?.policy),
        Some(PolicyKind::Trust) => pretty(&role()?.trust),
    };
    let json = json.map_err(|error| CommandFailure {
        exit: Exit::Software,
        message: error.to_string(),
    })?;
    print_line(json);
    Ok(())
}

/// The policies of the user's role. Without a user, there must be only one role.
fn select_role<'a>(
    policies: &'a Policies,
    user: Option<&str>,
) -> Result<&'a RolePolicies, CommandFailure> {
    let mut matching = policies
        .roles
        .iter()
        .filter(|role| user.is_none_or(|name| role.users.iter().any(|known| known == name)));
    match (matching.next(), matching.next(), user) {
        (Some(role), None, _) => Ok(role),
        (Some(_), Some(_), None) => Err(CommandFailure::configuration(
            "there are several roles. Fix: name a user with --user.",
        )),
        (Some(_), Some(_), Some(user)) => Err(CommandFailure::configuration(format!(
            "user {user} has several roles. Fix: add --endpoint."
        ))),
        (None, _, Some(user)) => Err(CommandFailure::configuration(format!(
            "these endpoints need no role of a user {user:?}"
        ))),
        (None, _, None) => Err(CommandFailure::configuration(
            "these endpoints need no user's role",
        )),
    }
}

fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value)
}

fn parse_user_role(text: &str) -> Result<UserRole, String> {
    let (user, role) = text.split_once('=').ok_or("write USER=ARN")?;
    let role = role.parse::<RoleArn>().map_err(|error| error.to_string())?;
    Ok(UserRole {
        user: user.to_owned(),
        role,
    })
}

fn parse_account(text: &str) -> Result<String, String> {
    let digits = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.to_owned())
        .ok_or_else(|| "an AWS account has twelve digits".into())
}

/// Parses the ARN of a role or an IAM user. Both have the same form apart from one word.
fn parse_principal(text: &str) -> Result<String, String> {
    let as_role = text.replacen(":user/", ":role/", 1);
    as_role
        .parse::<RoleArn>()
        .map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
