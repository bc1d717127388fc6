//! `hopend clusters`, `hopend nodes` and `hopend connection-string`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::failure::CommandFailure;
use super::screen;
use super::table::TextTable;
use super::{ConfigArgument, Exit, print_error, runtime};
use crate::config::{self, Config, NodeVia, User};
use crate::credential::{Fetch, Recipe, RequestedNode, Sources};
use finspace::FinSpace;
use finspace::environment::Environment;

/// The interval of `--watch`. Each update calls the API.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// The arguments that `hopend clusters` and `hopend nodes` share.
#[derive(Debug, clap::Args)]
struct ListArguments {
    #[command(flatten)]
    environment: EnvironmentArguments,
    /// The name of a [[user]] whose role hopend assumes for the call. Without it, hopend uses the
    /// daemon's own credentials
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Update the list every five seconds, until q or Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// The arguments that select an environment of a configuration.
#[derive(Debug, clap::Args)]
struct EnvironmentArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The environment, if the configuration has several
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
}

/// Arguments of `hopend clusters`.
#[derive(Debug, clap::Args)]
pub(super) struct ClustersArguments {
    #[command(flatten)]
    list: ListArguments,
}

/// Arguments of `hopend nodes`.
#[derive(Debug, clap::Args)]
pub(super) struct NodesArguments {
    /// The cluster's name
    cluster: String,
    #[command(flatten)]
    list: ListArguments,
}

/// Arguments of `hopend connection-string`.
#[derive(Debug, clap::Args)]
pub(super) struct StringArguments {
    #[command(flatten)]
    environment: EnvironmentArguments,
    /// The name of the [[user]] whose connection string to print
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The id of one of its nodes
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// The source of the node's connection string, as node_via of an [[endpoint]]
    #[arg(long, value_name = "WAY", default_value = "api", requires = "node")]
    node_via: NodeViaArgument,
}

/// The values of `--node-via`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum NodeViaArgument {
    Api,
    Cluster,
}

pub(super) fn clusters(arguments: &ClustersArguments) -> Exit {
    let list = &arguments.list;
    let aws = FinSpace::default();
    let query = async |config: &Config, environment: &Arc<Environment>| {
        let user = list.find_user(config)?;
        let user = user.as_ref().map(|user| user.as_finspace_user());
        let clusters = aws.clusters(environment, user).await?;
        if list.json {
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
        let mut table = TextTable::new(["NAME", "TYPE", "STATUS", "DESCRIPTION"]);
        for cluster in clusters {
            table.add_row([
                cluster.name,
                cluster.kind,
                cluster.status,
                cluster.description,
            ]);
        }
        Ok(table.to_string())
    };
    print(&list.environment, list.interval(), query)
}

pub(super) fn nodes(arguments: &NodesArguments) -> Exit {
    let list = &arguments.list;
    let aws = FinSpace::default();
    let query = async |config: &Config, environment: &Arc<Environment>| {
        let user = list.find_user(config)?;
        let user = user.as_ref().map(|user| user.as_finspace_user());
        let nodes = aws.nodes(environment, &arguments.cluster, user).await?;
        let rows = nodes.into_iter().map(|node| {
            let launched = node
                .launched
                .and_then(|time| Timestamp::try_from(time).ok())
                .map_or_else(String::new, |time| format!("{time:.0}"));
            [node.id, node.zone, launched, node.status]
        });
        if list.json {
            let rows = rows.map(|[id, zone, launched, status]| {
                json!({ "node_id": id, "az_id": zone, "launch_time": launched, "status": status })
            });
            return Ok(serde_json::Value::from_iter(rows).to_string());
        }
        let mut table = TextTable::new(["NODE", "ZONE", "LAUNCHED", "STATUS"]);
        for row in rows {
            table.add_row(row);
        }
        Ok(table.to_string())
    };
    print(&list.environment, list.interval(), query)
}

pub(super) fn connection_string(arguments: &StringArguments) -> Exit {
    let query = async |config: &Config, environment: &Arc<Environment>| {
        let user = find_user(config, &arguments.user)?;
        let via = match arguments.node_via {
            NodeViaArgument::Api => NodeVia::Api,
            NodeViaArgument::Cluster => NodeVia::Cluster,
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
        print_error("This is a secret: anyone who has it can act as that user until it expires.");
        let password = String::from_utf8_lossy(credential.password.expose());
        Ok(format!("{address}:{}:{password}", credential.user))
    };
    print(&arguments.environment, None, query)
}

impl ListArguments {
    /// The interval of updates; `None` without `--watch`.
    fn interval(&self) -> Option<Duration> {
        self.watch.then_some(WATCH_INTERVAL)
    }

    fn find_user(&self, config: &Config) -> Result<Option<Arc<User>>, CommandFailure> {
        self.user
            .as_deref()
            .map(|name| find_user(config, name))
            .transpose()
    }
}

fn find_user(config: &Config, name: &str) -> Result<Arc<User>, CommandFailure> {
    let found = config.users.iter().find(|user| user.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = config.users.iter().map(|user| &*user.name).collect();
        CommandFailure::configuration(format!(
            "no [[user]] is called {name:?}. Fix: name one of these: {}.",
            names.join(" ")
        ))
    })
}

/// Reads the configuration, finds the environment, runs the query and prints its result. With an
/// `interval`, repeats the query until the user stops it.
fn print(
    arguments: &EnvironmentArguments,
    interval: Option<Duration>,
    query: impl AsyncFn(&Config, &Arc<Environment>) -> Result<String, CommandFailure> + Copy,
) -> Exit {
    let config = match config::load(&arguments.config.config) {
        Ok(config) => config,
        Err(problems) => {
            print_error(problems);
            return Exit::Configuration;
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let environment = match find_environment(&config, arguments.environment.as_deref()) {
        Ok(environment) => environment,
        Err(failure) => return failure.report(),
    };
    let update = || runtime.block_on(query(&config, &environment));
    match screen::print(interval, update) {
        Ok(()) => Exit::Ok,
        Err(failure) => failure.report(),
    }
}

/// The environment of this name. Without a name, the configuration must have only one.
fn find_environment(
    config: &Config,
    name: Option<&str>,
) -> Result<Arc<Environment>, CommandFailure> {
    let all = &config.environments;
    let names: Vec<_> = all.iter().map(|e| &*e.name).collect();
    let message = match (name, &all[..]) {
        (_, []) => "the configuration has no [environment.NAME]".into(),
        (None, [only]) => return Ok(Arc::clone(only)),
        (None, _) => format!(
            "the configuration has several environments. Fix: add --environment with one of these: {}.",
            names.join(" ")
        ),
        (Some(name), _) => match all.iter().find(|environment| environment.name == name) {
            Some(found) => return Ok(Arc::clone(found)),
            None => format!(
                "no environment is called {name:?}. Fix: name one of these: {}.",
                names.join(" ")
            ),
        },
    };
    Err(CommandFailure::configuration(message))
}
