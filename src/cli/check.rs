//! `hopend check`.

use super::{ConfigArgument, Exit, complain, say};
use crate::audit;
use crate::config::{self, Config};

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
            if let Some(file) = &config.daemon.audit
                && let Err(error) = audit::look(file)
            {
                complain(format_args!("hopend: {error}"));
                // Only the daemon's account can tell.
                if !error.is_permission() {
                    return Exit::Configuration;
                }
            }
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
        say(format_args!(
            "  {}: {} -> {}, for {}",
            endpoint.name,
            listen.join(" "),
            endpoint.target,
            users.join(" ")
        ));
    }
}
