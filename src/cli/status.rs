//! `hopend status`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::daemon::{self, Unanswered};
use super::{ConfigArgument, Exit, complain, overview, screen};
use crate::auth::process;
use crate::control::{Answer, Request};
use crate::status::Status;

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(1);

/// Arguments of `hopend status`.
///
/// Asks the running daemon at its control socket, so it is for root and the daemon's own account.
/// Processes of other accounts behind TCP connections are shown to root only.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look again each second, until q or Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let control = match daemon::control(&arguments.config.config) {
        Ok(control) => control,
        Err(exit) => return exit,
    };
    let look = || {
        let status = status(&control)?;
        Ok(if arguments.json {
            serde_json::to_string(&status).unwrap_or_else(|error| error.to_string())
        } else {
            overview::of(&status)
        })
    };
    let every = arguments.watch.then_some(EVERY);
    match screen::print(every, look, |unanswered: Unanswered| unanswered.why) {
        Ok(Ok(())) => Exit::Ok,
        Ok(Err(error)) => screen::unusable(&error),
        Err(unanswered) => give_up(&unanswered),
    }
}

fn give_up(unanswered: &Unanswered) -> Exit {
    complain(format_args!("hopend: {}", unanswered.why));
    unanswered.exit
}

fn status(control: &Path) -> Result<Status, Unanswered> {
    match daemon::ask(control, &Request::Status)? {
        Answer::Status(mut status) => {
            find_processes(&mut status);
            Ok(*status)
        }
        other => Err(Unanswered {
            exit: Exit::Software,
            why: format!("the daemon answered something else: {other:?}"),
        }),
    }
}

/// A daemon without privileges can't see which process of another account holds a connection; root,
/// who asks, can.
fn find_processes(status: &mut Status) {
    let mut wanted = Vec::new();
    for row in status.sessions.iter().filter(|row| row.pid.is_none()) {
        let endpoint = status.endpoints.iter().find(|e| e.name == row.endpoint);
        let listen = endpoint.iter().flat_map(|endpoint| &endpoint.listen);
        if let Ok(client) = row.client.parse::<SocketAddr>() {
            let servers = listen.filter_map(|text| text.parse::<SocketAddr>().ok());
            wanted.extend(servers.map(|server| (client, server)));
        }
    }
    for ((client, _), pid) in process::of_sockets(wanted) {
        let client = client.to_string();
        let found = status.sessions.iter_mut().find(|row| row.client == client);
        if let Some(row) = found {
            row.pid = Some(pid);
            row.program = process::program(pid);
        }
    }
}
