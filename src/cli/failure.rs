//! The failure of a subcommand.

use super::{Exit, print_error};
use crate::credential::FetchError;
use base::error::ErrorKind;
use finspace::AwsError;

/// Why a subcommand failed: a message for the user, and an exit code.
#[derive(Debug)]
pub(super) struct CommandFailure {
    pub(super) exit: Exit,
    /// The cause with its remedy.
    pub(super) message: String,
}

impl CommandFailure {
    /// Makes a failure that the configuration or the command line causes.
    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Configuration,
            message: message.into(),
        }
    }

    /// Prints the message and returns the exit code.
    pub(super) fn report(&self) -> Exit {
        print_error(format_args!("hopend: {}", self.message));
        self.exit
    }
}

impl From<AwsError> for CommandFailure {
    fn from(error: AwsError) -> Self {
        Self {
            exit: error.kind.into(),
            message: printable(&error),
        }
    }
}

impl From<FetchError> for CommandFailure {
    fn from(error: FetchError) -> Self {
        Self {
            exit: error.kind.into(),
            message: printable(&error),
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Denied => Self::NoPermission,
            ErrorKind::Configuration => Self::Configuration,
            _ => Self::Unavailable,
        }
    }
}

/// Replaces control characters, because AWS and clusters could otherwise send commands to the terminal.
fn printable(text: &impl ToString) -> String {
    text.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Retry;

    #[test]
    fn what_others_said_gives_a_terminal_no_orders() {
        let failure = CommandFailure::from(FetchError {
            kind: ErrorKind::Upstream,
            retry: Retry::Soon,
            message: "it answered '\x1b[2J\x07no".into(),
            remedy: "check".into(),
        });
        assert_eq!(failure.message, "it answered ' [2J no. Fix: check.");
    }
}
