//! Requests to the running daemon, over its control socket.

use std::io;
use std::path::{Path, PathBuf};

use super::failure::CommandFailure;
use super::{Exit, print_error};
use crate::config;
use crate::surface::control::{self, ControlError, ControlRequest, ControlResponse};
use base::error::with_fix;

/// The remedy if the calling account has no permission.
const PERMISSION_REMEDY: &str = "run this as root or as the daemon's account";

/// The control socket that a configuration names. If there is no such socket, prints the reason.
pub(super) fn control_socket(config: &Path) -> Result<PathBuf, Exit> {
    if let Err(error) = std::fs::File::open(config)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        print_error(format_args!(
            "hopend: {}: {error}. Fix: {PERMISSION_REMEDY}.",
            config.display()
        ));
        return Err(Exit::NoPermission);
    }
    match config::control_socket(config) {
        Ok(Some(path)) => Ok(path),
        Ok(None) => {
            print_error(format_args!(
                "hopend: control is \"off\" in [daemon] of {}, so its daemon accepts no requests. Fix: set it \
                 to a path and reload the daemon.",
                config.display()
            ));
            Err(Exit::Unavailable)
        }
        Err(problems) => {
            print_error(problems);
            Err(Exit::Configuration)
        }
    }
}

/// Sends a request to the daemon. An answer that refuses the request is a failure, too.
pub(super) fn send(
    control: &Path,
    request: &ControlRequest,
) -> Result<ControlResponse, CommandFailure> {
    let no_permission = |cause: String| CommandFailure {
        exit: Exit::NoPermission,
        message: with_fix(cause, PERMISSION_REMEDY),
    };
    let unavailable = |message: String| CommandFailure {
        exit: Exit::Unavailable,
        message,
    };
    match control::request(control, request) {
        Ok(ControlResponse::Denied(cause)) => Err(no_permission(cause)),
        Ok(ControlResponse::Failed(message) | ControlResponse::NoSession(message)) => {
            Err(unavailable(message))
        }
        Ok(answer) => Ok(answer),
        Err(error @ ControlError::NotPermitted { .. }) => Err(no_permission(error.to_string())),
        Err(error @ ControlError::NotListening { .. }) => Err(unavailable(with_fix(
            error,
            "start the daemon (systemctl start hopend), or name its configuration with --config",
        ))),
        Err(error @ ControlError::Broken { .. }) => Err(unavailable(with_fix(
            error,
            "read the daemon's log, and check that its version is that of this command",
        ))),
    }
}
