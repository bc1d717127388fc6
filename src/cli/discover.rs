//! `hopend clusters`, `hopend nodes` and `hopend connection-string`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::table::Table;
use super::{ConfigArgument, Exit, complain, runtime, say};
use crate::config::{self, Config, Environment};
use crate::error::ErrorKind;
use crate::finspace::{AwsError, FinSpace, StringRequest};

/// Where to look, and how to print what is found.
#[derive(Debug, clap::Args)]
struct Looking {
    #[command(flatten)]
    config: ConfigArgument,
    /// The environment, where the configuration has several
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
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
    config: ConfigArgument,
    /// The environment, where the configuration has several
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Whose string: the name of a [[user]]
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: String,
}

pub(super) fn clusters(arguments: &ClustersArguments) -> Exit {
    let looking = &arguments.looking;
    ask(
        &looking.config,
        looking.environment.as_deref(),
        async |_, environment| {
            let clusters = FinSpace::default().clusters(&environment).await?;
            if looking.json {
                let rows = clusters.iter().map(|cluster| {
                    json!({
                        "cluster_name": cluster.name,
                        "cluster_type": cluster.kind,
                        "status": cluster.status,
                        "description": cluster.description,
                    })
                });
                say(serde_json::Value::from_iter(rows));
                return Ok(());
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
            say(table);
            Ok(())
        },
    )
}

pub(super) fn nodes(arguments: &NodesArguments) -> Exit {
    let looking = &arguments.looking;
    ask(
        &looking.config,
        looking.environment.as_deref(),
        async |_, environment| {
            let nodes = FinSpace::default()
                .nodes(&environment, &arguments.cluster)
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
                say(serde_json::Value::from_iter(rows));
                return Ok(());
            }
            let mut table = Table::new(["NODE", "ZONE", "LAUNCHED", "STATUS"]);
            for row in rows {
                table.row(row);
            }
            say(table);
            Ok(())
        },
    )
}

pub(super) fn connection_string(arguments: &StringArguments) -> Exit {
    ask(
        &arguments.config,
        arguments.environment.as_deref(),
        async |config, environment| {
            let user = config
                .users
                .iter()
                .find(|user| user.name == arguments.user)
                .ok_or_else(|| {
                    let names: Vec<_> = config.users.iter().map(|user| &*user.name).collect();
                    Failed::Configuration(format!(
                        "no [[user]] is called {:?}; there are: {}",
                        arguments.user,
                        names.join(" ")
                    ))
                })?;
            let signed = FinSpace::default()
                .connection_string(&StringRequest {
                    environment: &environment,
                    cluster: &arguments.cluster,
                    kx_user: &user.kx_user,
                    role: user.role_arn.as_ref(),
                    local_user: &user.name,
                })
                .await?;
            complain("This is a secret: whoever has it is that user until it expires.");
            let password = String::from_utf8_lossy(signed.string.password.expose());
            say(format_args!(
                "{}:{}:{password}",
                signed.string.address, signed.string.user
            ));
            Ok(())
        },
    )
}

/// Why there is no answer.
enum Failed {
    Aws(AwsError),
    Configuration(String),
}

impl From<AwsError> for Failed {
    fn from(error: AwsError) -> Self {
        Self::Aws(error)
    }
}

/// Reads the configuration, finds the environment, and asks AWS about it.
fn ask(
    config: &ConfigArgument,
    environment: Option<&str>,
    question: impl AsyncFnOnce(&Config, Arc<Environment>) -> Result<(), Failed>,
) -> Exit {
    let config = match config::load(&config.config) {
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
    let answered = match choose(&config, environment) {
        Ok(environment) => runtime.block_on(question(&config, environment)),
        Err(why) => Err(Failed::Configuration(why)),
    };
    match answered {
        Ok(()) => Exit::Ok,
        Err(Failed::Configuration(why)) => {
            complain(format_args!("hopend: {why}"));
            Exit::Configuration
        }
        Err(Failed::Aws(error)) => {
            complain(format_args!("hopend: {error}"));
            match error.kind {
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
                    "no environment is called {name:?}; there are: {}",
                    names.join(" ")
                )
            }),
    }
}
