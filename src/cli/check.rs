//! `hopend check`.

use super::{ConfigArgument, Exit, complain, say};
use crate::config::{self, Config, Target};

/// Arguments of `hopend check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let path = &arguments.config.config;
    match config::load(path) {
        Ok(config) => {
            say(format_args!("{}: right", path.display()));
            summarise(&config);
            Exit::Ok
        }
        Err(problems) => {
            complain(problems);
            Exit::Configuration
        }
    }
}

/// What the file means, one line an endpoint.
fn summarise(config: &Config) {
    for endpoint in &config.endpoints {
        let listen: Vec<_> = endpoint.listen.iter().map(ToString::to_string).collect();
        let users: Vec<_> = endpoint.users.iter().map(|user| &*user.name).collect();
        let target = match &endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                ..
            } => format!("cluster {cluster} in {}", environment.name),
            Target::Addresses { addresses, .. } if addresses.is_empty() => {
                "where its login command says".into()
            }
            Target::Addresses { addresses, .. } => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                addresses.join(" ")
            }
        };
        say(format_args!(
            "  {}: {} -> {target}, for {}",
            endpoint.name,
            listen.join(" "),
            users.join(" ")
        ));
    }
}
