//! Asking the daemon that serves a configuration.

use std::io;
use std::path::{Path, PathBuf};

use super::{Exit, complain};
use crate::config;
use crate::surface::control::{self, ControlError, ControlRequest, ControlResponse};
use base::error::with_fix;

/// The remedy where the account that asks may not.
const AS_THE_DAEMON: &str = "run this as root or as the daemon's account";

/// The control socket that a configuration names. Where there is none, the reason has been printed.
pub(super) fn control(config: &Path) -> Result<PathBuf, Exit> {
    if let Err(error) = std::fs::File::open(config)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        complain(format_args!(
            "hopend: {}: {error}. Fix: {AS_THE_DAEMON}.",
            config.display()
        ));
        return Err(Exit::NoPermission);
    }
    match config::control(config) {
        Ok(Some(path)) => Ok(path),
        Ok(None) => {
            complain(format_args!(
                "hopend: control is \"off\" in [daemon] of {}, so its daemon can't be asked. Fix: set it \
                 to a path and reload the daemon.",
                config.display()
            ));
            Err(Exit::Unavailable)
        }
        Err(problems) => {
            complain(problems);
            Err(Exit::Configuration)
        }
    }
}

/// Why the daemon gave no answer to what it was asked.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) exit: Exit,
    /// With the remedy.
    pub(super) why: String,
}

/// Asks, and sorts out the answers that are none.
pub(super) fn ask(control: &Path, request: &ControlRequest) -> Result<ControlResponse, Unanswered> {
    let no_permission = |why: String| Unanswered {
        exit: Exit::NoPermission,
        why: with_fix(why, AS_THE_DAEMON),
    };
    let unavailable = |why: String| Unanswered {
        exit: Exit::Unavailable,
        why,
    };
    match control::request(control, request) {
        Ok(ControlResponse::Denied(why)) => Err(no_permission(why)),
        Ok(ControlResponse::Failed(why) | ControlResponse::NoSession(why)) => Err(unavailable(why)),
        Ok(answer) => Ok(answer),
        Err(error @ ControlError::NotPermitted { .. }) => Err(no_permission(error.to_string())),
        Err(error @ ControlError::NotListening { .. }) => Err(unavailable(with_fix(
            error,
            "start the daemon (systemctl start hopend), or name its configuration with --config",
        ))),
        Err(error @ ControlError::Broken { .. }) => Err(unavailable(with_fix(
            error,
            "read the daemon's log, and check that it is of the same version",
        ))),
    }
}
