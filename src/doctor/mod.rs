//! The examination of `hopend doctor`: everything between a q process on this host and an answer of kdb+.
//!
//! The doctor runs one stage after another, each under a deadline. A stage that fails is reported with its
//! remedy, stages that need its result are skipped, and all others still run. No report holds a secret.

mod addresses;
mod aws;
mod aws_verdicts;
mod certificate;
mod cluster;
mod diagnosis;
mod endpoint;
mod handshake;
mod listen;
mod options;
mod path;
mod recorder;
mod runner;
mod stage;
mod target;
mod tls;

use std::path::Path;
use std::sync::Arc;

use crate::config::{self, Config, Endpoint, NodeSelector, Problems, Target, User};
use crate::telemetry::audit;
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::zone_of_host;

use aws::AwsStages;
use endpoint::EndpointStages;
use listen::DaemonAccount;
pub(crate) use options::DoctorOptions;
use runner::{StageFailure, StageFinding, StageRunner};
pub(crate) use stage::{StageEvent, StageName, StageOutcome, StageReport, StageSubject};

/// Runs every stage, and calls `report` when one starts or finishes.
pub(crate) async fn examine(
    options: &DoctorOptions,
    report: &mut (dyn FnMut(StageEvent<'_>) + Send),
) {
    let mut runner = StageRunner::new(options.limit, report);
    let Some(config) = read_configuration(&mut runner, options).await else {
        return runner.skip_after(StageName::Configuration, &[StageName::Rest]);
    };
    let endpoints: Vec<_> = config
        .endpoints
        .iter()
        .filter(|endpoint| options.selects_endpoint(endpoint))
        .filter(|endpoint| !options.selected_users(endpoint).is_empty())
        .collect();
    if let (true, Some(name)) = (endpoints.is_empty(), &options.endpoint) {
        runner.subject.endpoint = Some(name.clone());
        return runner.skip_after(StageName::Configuration, &[StageName::Rest]);
    }
    if let Some(file) = &config.daemon.audit {
        runner
            .run(StageName::AuditFile, check_audit_file(file))
            .await;
    }
    check_zone(&mut runner, &config, &endpoints).await;
    let mut aws = AwsStages::new(options.limit);
    for environment in environments(&endpoints) {
        aws.check_base_credentials(&mut runner, environment).await;
        for user in environment_users(environment, &endpoints, options) {
            aws.check_user(&mut runner, environment, user).await;
        }
    }
    let daemon = DaemonAccount::find(config.daemon.control.as_deref());
    for endpoint in endpoints {
        let stages = EndpointStages {
            runner: &mut runner,
            aws: &aws,
            endpoint,
            options,
            daemon,
        };
        Box::pin(stages.run()).await;
    }
}

/// Reads the configuration. With errors in it, returns the part without errors, or `None` if there is none.
async fn read_configuration(
    runner: &mut StageRunner<'_>,
    options: &DoctorOptions,
) -> Option<Config> {
    let mut readable = None;
    let read = async {
        let path = options.config.clone();
        let load = move || config::load_for_doctor(&path, &config::system_account);
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|panic| {
            StageFailure::new(ErrorKind::Internal, panic.to_string(), "report this")
        })?;
        let loaded = loaded.map_err(|problems| list_problems(&problems))?;
        let config = loaded.config;
        let judged = match loaded.problems {
            Some(problems) => Err(list_problems(&problems)),
            None => judge_configuration(options, &config),
        };
        readable = Some(config);
        judged
    };
    runner.run(StageName::Configuration, read).await;
    readable
}

/// Lists the problems as `hopend check` prints them.
fn list_problems(problems: &Problems) -> StageFailure {
    let count = match problems.iter().count() {
        1 => "one problem".into(),
        count => format!("{count} problems"),
    };
    StageFailure {
        kind: ErrorKind::Configuration,
        cause: format!("{count}\n{problems}"),
        remedy: None,
        missing: None,
    }
}

/// Checks that the endpoint and the user of the options exist, and that this user may use this endpoint.
fn judge_configuration(
    options: &DoctorOptions,
    config: &Config,
) -> Result<StageFinding<()>, StageFailure> {
    let unknown = |kind: &str, name: &str, all: &[&str]| {
        StageFailure::new(
            ErrorKind::Configuration,
            format!("no [[{kind}]] is called {name:?}"),
            format!("name one of: {}", all.join(" ")),
        )
    };
    let endpoints: Vec<&str> = config.endpoints.iter().map(|e| &*e.name).collect();
    let users: Vec<&str> = config.users.iter().map(|user| &*user.name).collect();
    if let Some(name) = &options.user
        && !users.contains(&name.as_str())
    {
        return Err(unknown("user", name, &users));
    }
    if let Some(name) = &options.endpoint {
        let Some(endpoint) = config.endpoints.iter().find(|e| e.name == *name) else {
            return Err(unknown("endpoint", name, &endpoints));
        };
        if options.selected_users(endpoint).is_empty() {
            return Err(StageFailure::new(
                ErrorKind::Denied,
                format!(
                    "{} may not use endpoint {name}",
                    options.user.as_deref().unwrap_or_default()
                ),
                format!("add the name to users of endpoint {name:?}"),
            ));
        }
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let text = format!(
        "{}: {} endpoint{}, {} user{}",
        options.config.display(),
        endpoints.len(),
        plural(endpoints.len()),
        users.len(),
        plural(users.len())
    );
    Ok(StageFinding::new((), text))
}

/// Checks that the daemon can write the audit file, as far as the account of this process may see.
async fn check_audit_file(file: &Path) -> Result<StageFinding<()>, StageFailure> {
    let path = file.to_path_buf();
    let checked = tokio::task::spawn_blocking(move || audit::check_writable(&path)).await;
    let checked = checked.map_err(|panic| {
        StageFailure::new(ErrorKind::Internal, panic.to_string(), "report this")
    })?;
    let path = file.display();
    match checked {
        Ok(()) => Ok(StageFinding::new((), path.to_string())),
        Err(error) if error.is_permission() => {
            let text = format!("{path}: {}", error.cause());
            Ok(StageFinding::new((), text)
                .warn("run this as the account of the daemon, which may have access"))
        }
        Err(error) => Err(StageFailure::new(
            ErrorKind::Configuration,
            format!("{path}: {}", error.cause()),
            error.remedy(),
        )),
    }
}

/// Finds this host's availability zone, if an endpoint chooses nodes by zone.
async fn check_zone(runner: &mut StageRunner<'_>, config: &Config, endpoints: &[&Arc<Endpoint>]) {
    let by_zone = |endpoint: &&Arc<Endpoint>| {
        matches!(
            endpoint.target,
            Target::FinSpace {
                node: NodeSelector::Zone,
                ..
            }
        )
    };
    if !endpoints.iter().any(by_zone) {
        return;
    }
    let limit = runner.limit;
    let configured = config.daemon.zone.clone();
    let find = async {
        if let Some(zone) = configured {
            return Ok(StageFinding::new((), format!("{zone}, set in [daemon]")));
        }
        let answer = tokio::time::timeout(limit.mul_f64(0.9), zone_of_host()).await;
        match answer.unwrap_or_else(|_| Err("no answer".into())) {
            Ok(zone) => Ok(StageFinding::new(
                (),
                format!("{zone}, from instance metadata"),
            )),
            Err(cause) => Ok(StageFinding::new(
                (),
                format!("unknown, so hopend prefers no node: instance metadata: {cause}"),
            )
            .warn("set zone in [daemon]")),
        }
    };
    runner.run(StageName::Zone, find).await;
}

/// The environments that the endpoints need, each once.
fn environments<'a>(endpoints: &[&'a Arc<Endpoint>]) -> Vec<&'a Arc<Environment>> {
    let mut all: Vec<&Arc<Environment>> = Vec::new();
    for endpoint in endpoints {
        let environment = match &endpoint.target {
            Target::FinSpace { environment, .. } => Some(environment),
            Target::Console { environment } => environment.as_ref(),
            Target::Addresses { .. } => None,
        };
        if let Some(environment) = environment
            && !all.contains(&environment)
        {
            all.push(environment);
        }
    }
    all
}

/// The selected users of an environment's clusters, each once.
fn environment_users<'a>(
    environment: &Environment,
    endpoints: &[&'a Arc<Endpoint>],
    options: &DoctorOptions,
) -> Vec<&'a Arc<User>> {
    let is_in_environment = |endpoint: &&&Arc<Endpoint>| {
        matches!(
            &endpoint.target,
            Target::FinSpace { environment: other, .. } if **other == *environment
        )
    };
    let mut all: Vec<&Arc<User>> = Vec::new();
    for endpoint in endpoints.iter().filter(is_in_environment) {
        for user in options.selected_users(endpoint) {
            if !all.contains(&user) {
                all.push(user);
            }
        }
    }
    all
}
