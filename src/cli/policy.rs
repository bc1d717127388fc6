//! `hopend policy`.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::{ConfigArgument, Exit, complain, runtime, say};
use crate::config::{self, Config, Endpoint};
use crate::policy::{
    IamFacts, Policies, PolicyGap, RoleOwner, RolePolicies, UserWithoutRole, users_without_role,
};
use base::error::ErrorKind;
use finspace::role_arn::RoleArn;
use finspace::{AwsError, FinSpace};

/// What a person should know who applies what is printed.
pub(super) const ABOUT: &str = "\
Print the least IAM policies that the configuration needs: the policy of the daemon's own role, and \
of every user's role its policy and its trust policy. Nothing is asked of AWS, unless with --ask.

Without --document it is one JSON object: daemon.policy, and roles, a list of role, users, policy \
and trust. Whatever stands in it for something unknown is told on standard error; a single document \
with such a gap is not printed.

Without --daemon-role the users' roles trust the root of their account, as the FinSpace user guide \
has it: then the account's own policies, such as the daemon's here, decide who may take them. Either \
way the session must carry the local user's name as its source identity. In the guide the roles \
trust finspace.amazonaws.com besides; --trust-finspace adds that.

Not among them is what `hopend clusters` and `hopend nodes` ask as whoever runs them: \
finspace:ListKxClusters and finspace:ListKxClusterNodes.";

/// How it is applied.
pub(super) const EXAMPLES: &str = "\
Examples:
  hopend policy --ask
  aws iam put-role-policy --role-name hopend --policy-name hopend \\
      --policy-document \"$(hopend policy --ask --document daemon)\"
  aws iam update-assume-role-policy --role-name user-alice \\
      --policy-document \"$(hopend policy --ask --document trust --user alice)\"";

/// Arguments of `hopend policy`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only what this endpoint needs; may be given several times
    #[arg(long, value_name = "NAME")]
    endpoint: Vec<String>,
    /// Ask FinSpace (GetKxUser) for the roles that the configuration does not tell
    #[arg(long)]
    ask: bool,
    /// The role of a user for whom the configuration has no role_arn; may be given several times
    #[arg(long, value_name = "USER=ARN", value_parser = role_of_user)]
    role: Vec<(String, RoleArn)>,
    /// The account of the environments, where no role tells it
    #[arg(long, value_name = "ID", value_parser = account)]
    account: Option<String>,
    /// The role or IAM user that the daemon runs as, to be the only one that the users' roles trust
    #[arg(long, value_name = "ARN", value_parser = principal)]
    daemon_role: Option<String>,
    /// Have the users' roles trust finspace.amazonaws.com as well
    #[arg(long)]
    trust_finspace: bool,
    /// Print one document only, to be applied as it is
    #[arg(long, value_name = "WHICH")]
    document: Option<Which>,
    /// Whose role the document is for, where there are several
    #[arg(long, value_name = "NAME", requires = "document")]
    user: Option<String>,
}

/// A document by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// The policy of the daemon's own role
    Daemon,
    /// The policy of a user's role
    Role,
    /// The trust policy of a user's role
    Trust,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let config = match config::load(&arguments.config.config) {
        Ok(config) => config,
        Err(problems) => {
            complain(problems);
            return Exit::Configuration;
        }
    };
    let printed = chosen(&config, &arguments.endpoint).and_then(|endpoints| {
        let known = known(arguments, &config, &endpoints)?;
        print(arguments, &Policies::of(&endpoints, &known))
    });
    match printed {
        Ok(()) => Exit::Ok,
        Err((exit, why)) => {
            complain(format_args!("hopend: {why}"));
            exit
        }
    }
}

type Failed = (Exit, String);

fn wrong(why: impl Into<String>) -> Failed {
    (Exit::Configuration, why.into())
}

fn chosen(config: &Config, names: &[String]) -> Result<Vec<Arc<Endpoint>>, Failed> {
    if names.is_empty() {
        return Ok(config.endpoints.clone());
    }
    let find = |name: &String| {
        let mut endpoints = config.endpoints.iter();
        let found = endpoints.find(|endpoint| endpoint.name == *name).cloned();
        found.ok_or_else(|| {
            let there = config.endpoints.iter().map(|endpoint| &*endpoint.name);
            let there: Vec<_> = there.collect();
            wrong(format!(
                "no endpoint is called {name:?}. Fix: name one of these: {}.",
                there.join(" ")
            ))
        })
    };
    names.iter().map(find).collect()
}

/// What the command line tells, and with `--ask` FinSpace.
fn known(
    arguments: &Arguments,
    config: &Config,
    endpoints: &[Arc<Endpoint>],
) -> Result<IamFacts, Failed> {
    for (name, _) in &arguments.role {
        if !config.users.iter().any(|user| user.name == *name) {
            return Err(wrong(format!("--role: no [[user]] is called {name:?}")));
        }
    }
    let told: HashMap<&str, &RoleArn> = arguments
        .role
        .iter()
        .map(|(name, role)| (&**name, role))
        .collect();
    let mut roles = HashMap::new();
    let mut to_ask = Vec::new();
    for UserWithoutRole { environment, user } in users_without_role(endpoints) {
        match told.get(&*user.name) {
            Some(&role) => {
                roles.insert(RoleOwner::new(&environment, &user), role.clone());
            }
            None => to_ask.push((environment, user)),
        }
    }
    if arguments.ask && !to_ask.is_empty() {
        let runtime = runtime().map_err(|exit| (exit, "can't ask FinSpace".into()))?;
        let asked = runtime.block_on(async {
            let finspace = FinSpace::default();
            for (environment, user) in &to_ask {
                let role = finspace.role(environment, user.in_finspace()).await?;
                roles.insert(RoleOwner::new(environment, user), role);
            }
            Ok(())
        });
        asked.map_err(|error: AwsError| (exit_of(&error), error.to_string()))?;
    }
    Ok(IamFacts {
        account: arguments.account.clone(),
        daemon: arguments.daemon_role.clone(),
        roles,
        trust_finspace: arguments.trust_finspace,
    })
}

fn exit_of(error: &AwsError) -> Exit {
    match error.kind {
        ErrorKind::Denied => Exit::NoPermission,
        ErrorKind::Configuration => Exit::Configuration,
        _ => Exit::Unavailable,
    }
}

fn print(arguments: &Arguments, policies: &Policies) -> Result<(), Failed> {
    let missing = || {
        let gaps = policies.gaps.iter();
        let gaps = gaps.filter(|gap| matches!(gap, PolicyGap::Role { .. }));
        let gaps: Vec<_> = gaps.map(ToString::to_string).collect();
        wrong(format!("the document would have gaps: {}", gaps.join(" ")))
    };
    let role = || {
        let role = role(policies, arguments.user.as_deref())?;
        policies
            .is_complete(role)
            .then_some(role)
            .ok_or_else(missing)
    };
    let json = match arguments.document {
        None => {
            for gap in &policies.gaps {
                complain(format_args!("note: {gap}"));
            }
            pretty(policies)
        }
        Some(Which::Daemon) if !policies.daemon_is_complete() => return Err(missing()),
        Some(Which::Daemon) => {
            let policy = policies.daemon.policy.as_ref();
            pretty(policy.ok_or_else(|| wrong("nothing here needs AWS: there is no policy"))?)
        }
        Some(Which::Role) => pretty(&role()?.policy),
        Some(Which::Trust) => pretty(&role()?.trust),
    };
    say(json.map_err(|error| (Exit::Software, error.to_string()))?);
    Ok(())
}

/// The role of a user, or the only one.
fn role<'a>(policies: &'a Policies, user: Option<&str>) -> Result<&'a RolePolicies, Failed> {
    let mut of_user = policies
        .roles
        .iter()
        .filter(|role| user.is_none_or(|name| role.users.iter().any(|known| known == name)));
    match (of_user.next(), of_user.next(), user) {
        (Some(role), None, _) => Ok(role),
        (Some(_), Some(_), None) => Err(wrong("whose role? Say --user with a user's name")),
        (Some(_), Some(_), Some(user)) => Err(wrong(format!(
            "user {user} has several roles. Fix: add --endpoint."
        ))),
        (None, _, Some(user)) => Err(wrong(format!("no role of a user {user:?} is needed"))),
        (None, _, None) => Err(wrong("nothing here needs a user's role")),
    }
}

fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value)
}

fn role_of_user(text: &str) -> Result<(String, RoleArn), String> {
    let (user, role) = text.split_once('=').ok_or("write USER=ARN")?;
    let role = role.parse::<RoleArn>().map_err(|why| why.to_string())?;
    Ok((user.to_owned(), role))
}

fn account(text: &str) -> Result<String, String> {
    let digits = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.to_owned())
        .ok_or_else(|| "an account has twelve digits".into())
}

/// An IAM user's ARN has the form of a role's.
fn principal(text: &str) -> Result<String, String> {
    let as_role = text.replacen(":user/", ":role/", 1);
    as_role.parse::<RoleArn>().map_err(|why| why.to_string())?;
    Ok(text.to_owned())
}
