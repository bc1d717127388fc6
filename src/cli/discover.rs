//! `hopend clusters`, `hopend nodes` and `hopend connection-string`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::table::Table;
use super::{ConfigArgument, Exit, complain, runtime, screen};
use crate::config::{self, Config, NodeVia, User};
use crate::credential::{Fetch, FetchError, Recipe, RequestedNode, Sources};
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{AwsError, FinSpace};

/// Between two looks of `--watch`: each is a call of the API.
const EVERY: Duration = Duration::from_secs(5);

/// Where to look, as whom, and how to print what is found.
#[derive(Debug, clap::Args)]
struct Looking {
    #[command(flatten)]
    place: Place,
    /// As whom: the name of a [[user]], whose role is assumed. Without it, the daemon's own
    /// credentials
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look again every five seconds, until q or Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Which environment of which configuration.
#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    config: ConfigArgument,
    /// The environment, where the configuration has several
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
}

/// Arguments of `hopend clusters`.
#[derive(Debug, clap::Args)]
pub(super) struct ClustersArguments {
    #[command(flatten)]
    looking: Looking,
}

/// Arguments of `hopend nodes`.
#[derive(Debug, clap::Args)]
pub(super) struct NodesArguments {
    /// The cluster's name
    cluster: String,
    #[command(flatten)]
    looking: Looking,
}

/// Arguments of `hopend connection-string`.
#[derive(Debug, clap::Args)]
pub(super) struct StringArguments {
    #[command(flatten)]
    place: Place,
    /// Whose string: the name of a [[user]]
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// One of its nodes, by id
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// How the node's string is had: as node_via of an [[endpoint]]
    #[arg(long, value_name = "WAY", default_value = "api", requires = "node")]
    node_via: Via,
}

/// As `node_via` of an endpoint.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Via {
    Api,
    Cluster,
}

pub(super) fn clusters(arguments: &ClustersArguments) -> Exit {
    let looking = &arguments.looking;
    let aws = FinSpace::default();
    ask(
        &looking.place,
        looking.every(),
        async |config, environment| {
            let user = looking.user(config)?;
            let clusters = aws
                .clusters(environment, user.as_ref().map(|user| user.in_finspace()))
                .await?;
            if looking.json {
                let rows = clusters.iter().map(|cluster| {
                    json!({
                        "cluster_name": cluster.name,
                        "cluster_type": cluster.kind,
                        "status": cluster.status,
                        "description": cluster.description,
                    })
                });
                return Ok(serde_json::Value::from_iter(rows).to_string());
            }
            let mut table = Table::new(["NAME", "TYPE", "STATUS", "DESCRIPTION"]);
            for cluster in clusters {
                table.row([
                    cluster.name,
                    cluster.kind,
                    cluster.status,
                    cluster.description,
                ]);
            }
            Ok(table.to_string())
        },
    )
}

pub(super) fn nodes(arguments: &NodesArguments) -> Exit {
    let looking = &arguments.looking;
    let aws = FinSpace::default();
    ask(
        &looking.place,
        looking.every(),
        async |config, environment| {
            let user = looking.user(config)?;
            let nodes = aws
                .nodes(
                    environment,
                    &arguments.cluster,
                    user.as_ref().map(|user| user.in_finspace()),
                )
                .await?;
            let rows = nodes.into_iter().map(|node| {
                let launched = node
                    .launched
                    .and_then(|time| Timestamp::try_from(time).ok())
                    .map_or_else(String::new, |time| format!("{time:.0}"));
                [node.id, node.zone, launched, node.status]
            });
            if looking.json {
                let rows = rows.map(|[id, zone, launched, status]| {
                json!({ "node_id": id, "az_id": zone, "launch_time": launched, "status": status })
            });
                return Ok(serde_json::Value::from_iter(rows).to_string());
            }
            let mut table = Table::new(["NODE", "ZONE", "LAUNCHED", "STATUS"]);
            for row in rows {
                table.row(row);
            }
            Ok(table.to_string())
        },
    )
}

pub(super) fn connection_string(arguments: &StringArguments) -> Exit {
    ask(&arguments.place, None, async |config, environment| {
        let user = user(config, &arguments.user)?;
        let via = match arguments.node_via {
            Via::Api => NodeVia::Api,
            Via::Cluster => NodeVia::Cluster,
        };
        let recipe = Recipe::FinSpace {
            environment: Arc::clone(environment),
            cluster: arguments.cluster.clone(),
            node: arguments.node.clone().map(|id| RequestedNode { id, via }),
            kx_user: user.kx_user.clone(),
            role: user.role_arn.clone(),
            local_user: user.name.clone(),
        };
        let credential = Sources::default().fetch(&recipe).await?;
        let address = credential
            .address
            .map_or_else(String::new, |address| address.to_string());
        complain("This is a secret: whoever has it is that user until it expires.");
        let password = String::from_utf8_lossy(credential.password.expose());
        Ok(format!("{address}:{}:{password}", credential.user))
    })
}

impl Looking {
    fn every(&self) -> Option<Duration> {
        self.watch.then_some(EVERY)
    }

    fn user(&self, config: &Config) -> Result<Option<Arc<User>>, Failed> {
        self.user
            .as_deref()
            .map(|name| user(config, name))
            .transpose()
    }
}

fn user(config: &Config, name: &str) -> Result<Arc<User>, Failed> {
    let found = config.users.iter().find(|user| user.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = config.users.iter().map(|user| &*user.name).collect();
        Failed {
            kind: ErrorKind::Configuration,
            why: format!(
                "no [[user]] is called {name:?}. Fix: name one of these: {}.",
                names.join(" ")
            ),
        }
    })
}

/// Why there is no answer.
struct Failed {
    kind: ErrorKind,
    why: String,
}

impl From<AwsError> for Failed {
    fn from(error: AwsError) -> Self {
        Self {
            kind: error.kind,
            why: printable(&error),
        }
    }
}

impl From<FetchError> for Failed {
    fn from(error: FetchError) -> Self {
        Self {
            kind: error.kind,
            why: printable(&error),
        }
    }
}

/// What AWS and clusters said has no orders for a terminal.
fn printable(said: &impl ToString) -> String {
    said.to_string().replace(char::is_control, " ")
}

/// Reads the configuration, finds the environment, asks about it and prints the answer; again and
/// again with `every`.
fn ask(
    place: &Place,
    every: Option<Duration>,
    question: impl AsyncFn(&Config, &Arc<Environment>) -> Result<String, Failed> + Copy,
) -> Exit {
    let config = match config::load(&place.config.config) {
        Ok(config) => config,
        Err(problems) => {
            complain(problems);
            return Exit::Configuration;
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let environment = match choose(&config, place.environment.as_deref()) {
        Ok(environment) => environment,
        Err(why) => {
            complain(format_args!("hopend: {why}"));
            return Exit::Configuration;
        }
    };
    let look = || runtime.block_on(question(&config, &environment));
    match screen::print(every, look, |failed: Failed| failed.why) {
        Ok(Ok(())) => Exit::Ok,
        Ok(Err(error)) => screen::unusable(&error),
        Err(Failed { kind, why }) => {
            complain(format_args!("hopend: {why}"));
            match kind {
                ErrorKind::Denied => Exit::NoPermission,
                ErrorKind::Configuration => Exit::Configuration,
                _ => Exit::Unavailable,
            }
        }
    }
}

fn choose(config: &Config, name: Option<&str>) -> Result<Arc<Environment>, String> {
    let all = &config.environments;
    let names: Vec<_> = all.iter().map(|e| &*e.name).collect();
    match (name, &all[..]) {
        (_, []) => Err("the configuration has no [environment.NAME]".into()),
        (None, [only]) => Ok(Arc::clone(only)),
        (None, _) => Err(format!(
            "which environment? Say --environment with one of: {}",
            names.join(" ")
        )),
        (Some(name), _) => all
            .iter()
            .find(|environment| environment.name == name)
            .cloned()
            .ok_or_else(|| {
                format!(
                    "no environment is called {name:?}. Fix: name one of these: {}.",
                    names.join(" ")
                )
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Retry;

    #[test]
    fn what_others_said_gives_a_terminal_no_orders() {
        let failed = Failed::from(FetchError {
            kind: ErrorKind::Upstream,
            retry: Retry::Soon,
            message: "it answered '\x1b[2J\x07no".into(),
            remedy: "check".into(),
        });
        assert_eq!(failed.why, "it answered ' [2J no. Fix: check.");
    }
}
