//! What `hopend doctor` looks at, stage by stage: everything between a q process here and an answer
//! of kdb+ there.
//!
//! Every stage runs under a deadline, and each that can still run does: what fails is told with what
//! to change, and what waits for it is told as left out. Nothing that is said is a secret.

mod aws;
mod certificate;
mod cluster;
mod endpoint;
mod listen;
mod path;
mod recorder;
mod stage;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, Endpoint, Node, Problems, Target, User};
use crate::telemetry::audit;
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::zone_of_host;
use secret::Secret;

use aws::Aws;
use endpoint::Examination;
use listen::DaemonAccount;
use stage::{Bench, Finding, Trouble};
pub use stage::{Event, Name, Outcome, Stage, Subject};

/// What is to be looked at.
#[derive(Debug)]
pub struct Question {
    /// The configuration file.
    pub config: PathBuf,
    /// One endpoint, instead of all.
    pub endpoint: Option<String>,
    /// One user, instead of all.
    pub user: Option<String>,
    /// What that user would give hopen, for `login = "client"`.
    pub password: Option<Secret>,
    /// The longest that one stage takes; TLS twice that, where it fails.
    pub limit: Duration,
}

/// Runs every stage and tells of each as it begins and ends.
pub async fn examine(question: &Question, tell: &mut (dyn FnMut(Event<'_>) + Send)) {
    let mut bench = Bench::new(question.limit, tell);
    let Some(config) = configuration(&mut bench, question).await else {
        return bench.wait_for(Name::Configuration, &[Name::Rest]);
    };
    let endpoints: Vec<_> = config
        .endpoints
        .iter()
        .filter(|endpoint| is(question.endpoint.as_ref(), &endpoint.name))
        .filter(|endpoint| !users(endpoint, question).is_empty())
        .collect();
    if let (true, Some(name)) = (endpoints.is_empty(), &question.endpoint) {
        bench.subject.endpoint = Some(name.clone());
        return bench.wait_for(Name::Configuration, &[Name::Rest]);
    }
    if let Some(file) = &config.daemon.audit {
        bench.stage(Name::AuditFile, audit_file(file)).await;
    }
    zone(&mut bench, &config, &endpoints).await;
    let mut aws = Aws::new(question.limit);
    for environment in environments(&endpoints) {
        aws.base_credentials(&mut bench, environment).await;
        for user in users_of(environment, &endpoints, question) {
            aws.identify(&mut bench, environment, user).await;
        }
    }
    let daemon = DaemonAccount::find(config.daemon.control.as_deref());
    for endpoint in endpoints {
        let examination = Examination {
            bench: &mut bench,
            aws: &aws,
            endpoint,
            users: users(endpoint, question),
            question,
            daemon,
        };
        Box::pin(examination.run()).await;
    }
}

/// The file; what is right in it, if anything is.
async fn configuration(bench: &mut Bench<'_>, question: &Question) -> Option<Config> {
    let mut right = None;
    let read = async {
        let path = question.config.clone();
        let load = move || config::load_to_look_at(&path, &config::system_account);
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|panicked| {
            Trouble::new(ErrorKind::Internal, panicked.to_string(), "report this")
        })?;
        let loaded = loaded.map_err(|problems| of_problems(&problems))?;
        let config = loaded.config;
        let judged = match loaded.problems {
            Some(problems) => Err(of_problems(&problems)),
            None => judge(question, &config),
        };
        right = Some(config);
        judged
    };
    bench.stage(Name::Configuration, read).await;
    right
}

/// As `hopend check` prints them.
fn of_problems(problems: &Problems) -> Trouble {
    let count = match problems.iter().count() {
        1 => "one problem".into(),
        count => format!("{count} problems"),
    };
    Trouble {
        kind: ErrorKind::Configuration,
        said: format!("{count}\n{problems}"),
        remedy: None,
        missing: None,
    }
}

/// Whether it has what is asked for.
fn judge(question: &Question, config: &Config) -> Result<Finding<()>, Trouble> {
    let unknown = |what: &str, name: &str, all: Vec<&str>| {
        Trouble::new(
            ErrorKind::Configuration,
            format!("no [[{what}]] is called {name:?}"),
            format!("name one of: {}", all.join(" ")),
        )
    };
    let endpoints: Vec<&str> = config.endpoints.iter().map(|e| &*e.name).collect();
    let names: Vec<&str> = config.users.iter().map(|user| &*user.name).collect();
    if let Some(name) = &question.user
        && !names.contains(&name.as_str())
    {
        return Err(unknown("user", name, names));
    }
    if let Some(name) = &question.endpoint {
        let Some(endpoint) = config.endpoints.iter().find(|e| e.name == *name) else {
            return Err(unknown("endpoint", name, endpoints));
        };
        if users(endpoint, question).is_empty() {
            return Err(Trouble::new(
                ErrorKind::Denied,
                format!(
                    "{} may not use endpoint {name}",
                    question.user.as_deref().unwrap_or_default()
                ),
                format!("add the name to users of endpoint {name:?}"),
            ));
        }
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let said = format!(
        "{}: {} endpoint{}, {} user{}",
        question.config.display(),
        endpoints.len(),
        plural(endpoints.len()),
        names.len(),
        plural(names.len())
    );
    Ok(Finding::new((), said))
}

/// Whether the daemon could write it, as far as this account can tell.
async fn audit_file(file: &Path) -> Result<Finding<()>, Trouble> {
    let path = file.to_path_buf();
    let looked = tokio::task::spawn_blocking(move || audit::check_writable(&path)).await;
    let looked = looked.map_err(|panicked| {
        Trouble::new(ErrorKind::Internal, panicked.to_string(), "report this")
    })?;
    let said = file.display();
    match looked {
        Ok(()) => Ok(Finding::new((), said.to_string())),
        Err(error) if error.is_permission() => {
            let said = format!("{said}: {}", error.cause());
            Ok(Finding::new((), said).but("ask as the account that runs hopend, which may be let"))
        }
        Err(error) => Err(Trouble::new(
            ErrorKind::Configuration,
            format!("{said}: {}", error.cause()),
            error.remedy(),
        )),
    }
}

/// Where an endpoint goes by zones: which one this host is in.
async fn zone(bench: &mut Bench<'_>, config: &Config, endpoints: &[&Arc<Endpoint>]) {
    let by_zone = |endpoint: &&Arc<Endpoint>| {
        matches!(
            endpoint.target,
            Target::FinSpace {
                node: Node::Zone,
                ..
            }
        )
    };
    if !endpoints.iter().any(by_zone) {
        return;
    }
    let limit = bench.limit;
    let told = config.daemon.zone.clone();
    let ask = async {
        if let Some(told) = told {
            return Ok(Finding::new((), format!("{told}, as [daemon] says")));
        }
        let asked = tokio::time::timeout(limit.mul_f64(0.9), zone_of_host()).await;
        match asked.unwrap_or_else(|_| Err("no answer".into())) {
            Ok(zone) => Ok(Finding::new(
                (),
                format!("{zone}, as instance metadata says"),
            )),
            Err(why) => Ok(Finding::new(
                (),
                format!("not known, so all nodes are equally near: instance metadata: {why}"),
            )
            .but("set zone in [daemon]")),
        }
    };
    bench.stage(Name::Zone, ask).await;
}

fn is(wanted: Option<&String>, name: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == name)
}

/// Those that are looked at of an endpoint's users.
fn users<'a>(endpoint: &'a Endpoint, question: &Question) -> Vec<&'a Arc<User>> {
    let users = endpoint.users.iter();
    users
        .filter(|user| is(question.user.as_ref(), &user.name))
        .collect()
}

fn environment_of(endpoint: &Endpoint) -> Option<&Arc<Environment>> {
    match &endpoint.target {
        Target::FinSpace { environment, .. } => Some(environment),
        Target::Console { environment } => environment.as_ref(),
        Target::Addresses { .. } => None,
    }
}

/// Each environment that the endpoints need, once.
fn environments<'a>(endpoints: &[&'a Arc<Endpoint>]) -> Vec<&'a Arc<Environment>> {
    let mut all: Vec<&Arc<Environment>> = Vec::new();
    for environment in endpoints
        .iter()
        .filter_map(|endpoint| environment_of(endpoint))
    {
        if !all.contains(&environment) {
            all.push(environment);
        }
    }
    all
}

/// Each user of an environment's clusters, once.
fn users_of<'a>(
    environment: &Environment,
    endpoints: &[&'a Arc<Endpoint>],
    question: &Question,
) -> Vec<&'a Arc<User>> {
    let mut all: Vec<&Arc<User>> = Vec::new();
    for endpoint in endpoints {
        let Target::FinSpace {
            environment: of, ..
        } = &endpoint.target
        else {
            continue;
        };
        if **of != *environment {
            continue;
        }
        for user in users(endpoint, question) {
            if !all.contains(&user) {
                all.push(user);
            }
        }
    }
    all
}
