//! `hopend kill`.

use super::{ConfigArgument, Exit, complain, daemon, say};
use crate::surface::control::{ControlRequest, ControlResponse};
use crate::telemetry::live::SessionSelection;

/// Arguments of `hopend kill`.
///
/// Names one session by its number, or all sessions of a user, of an endpoint, or of a user at an
/// endpoint. The client sees its connection break; the daemon's audit line names the account that ran this.
/// For root and the daemon's own account.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The session's number, as `hopend status` shows it
    #[arg(required_unless_present_any = ["user", "endpoint"], conflicts_with_all = ["user", "endpoint"])]
    session: Option<u64>,
    /// End all sessions of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// End all sessions of this endpoint; with --user, those of the user there
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let control = match daemon::control(&arguments.config.config) {
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
    match daemon::ask(&control, &request) {
        Ok(ControlResponse::KilledAll { ended: 1 }) => {
            say(format_args!("1 session has ended"));
            Exit::Ok
        }
        Ok(ControlResponse::KilledAll { ended }) => {
            say(format_args!("{ended} sessions have ended"));
            Exit::Ok
        }
        Ok(_) => {
            let session = arguments.session.unwrap_or_default();
            say(format_args!("session {session} has ended"));
            Exit::Ok
        }
        Err(unanswered) => {
            complain(format_args!("hopend: {}", unanswered.why));
            unanswered.exit
        }
    }
}
