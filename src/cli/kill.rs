//! `hopend kill`.

use super::{ConfigArgument, Exit, complain, daemon, say};
use crate::control::Request;

/// Arguments of `hopend kill`.
///
/// The client sees its connection break; the daemon's audit line names the account that ran this.
/// For root and the daemon's own account.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The session's number, as `hopend status` shows it
    session: u64,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let control = match daemon::control(&arguments.config.config) {
        Ok(control) => control,
        Err(exit) => return exit,
    };
    let session = arguments.session;
    match daemon::ask(&control, &Request::Kill { session }) {
        Ok(_) => {
            say(format_args!("session {session} has ended"));
            Exit::Ok
        }
        Err(unanswered) => {
            complain(format_args!("hopend: {}", unanswered.why));
            unanswered.exit
        }
    }
}
