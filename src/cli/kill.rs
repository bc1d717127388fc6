//! `hopend kill`.

use super::{ConfigArgument, Exit, daemon, print_line};
use crate::surface::control::{ControlRequest, ControlResponse};
use crate::telemetry::live::SessionSelection;

/// Arguments of `hopend kill`.
///
/// Ends one session by its number, or all sessions of a user, of an endpoint, or of a user at an endpoint.
/// The client's connection breaks. The daemon's audit line names the account that ran this command. Only
/// root and the daemon's own account may run it.
#[derive(Debug, clap::Args)]
pub(super) struct KillArguments {
    /// The number of the session, from `hopend status`
    #[arg(required_unless_present_any = ["user", "endpoint"], conflicts_with_all = ["user", "endpoint"])]
    session: Option<u64>,
    /// End all sessions of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// End all sessions at this endpoint; with --user, only those of that user
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &KillArguments) -> Exit {
    let control = match daemon::control_socket(&arguments.config.config) {
        Ok(control) => control,
        Err(exit) => return exit,
    };
    let request = match arguments.session {
        Some(session) => ControlRequest::Kill { session },
        None => ControlRequest::KillAll(SessionSelection {
            user: arguments.user.clone(),
            endpoint: arguments.endpoint.clone(),
        }),
    };
    match daemon::send(&control, &request) {
        Ok(ControlResponse::KilledAll { ended: 1 }) => {
            print_line(format_args!("1 session has ended"));
            Exit::Ok
        }
        Ok(ControlResponse::KilledAll { ended }) => {
            print_line(format_args!("{ended} sessions have ended"));
            Exit::Ok
        }
        Ok(_) => {
            let session = arguments.session.unwrap_or_default();
            print_line(format_args!("session {session} has ended"));
            Exit::Ok
        }
        Err(failure) => failure.report(),
    }
}
