//! The kinds of errors, and the form that all error messages share:
//! `what failed: cause. Fix: action.`

use std::error::Error;
use std::fmt;
use std::io;

use nix::errno::Errno;

/// The party that caused a failure. Metrics, audit lines and exit codes classify failures by this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The client, by the bytes that it sent or by its behaviour.
    Client,
    /// The configuration file, or a file that it names.
    Configuration,
    /// A lack of permission, because hopend, AWS or kdb+ refused the user.
    Denied,
    /// The source of logins: AWS, or a login command.
    ControlPlane,
    /// kdb+, or the network between hopend and kdb+.
    Upstream,
    /// A limit that the configuration or the host sets.
    Limit,
    /// hopend itself, or the host that it runs on.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of declaration: `kind as usize` is the index of a kind.
    pub const ALL: [Self; 7] = [
        Self::Client,
        Self::Configuration,
        Self::Denied,
        Self::ControlPlane,
        Self::Upstream,
        Self::Limit,
        Self::Internal,
    ];

    /// The kind's name in logs, audit lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Configuration => "configuration",
            Self::Denied => "denied",
            Self::ControlPlane => "control-plane",
            Self::Upstream => "upstream",
            Self::Limit => "limit",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cause to print when [`out_of_descriptors`] is true.
pub const NO_DESCRIPTORS: &str = "hopend has run out of file descriptors";
/// The remedy to print when [`out_of_descriptors`] is true.
pub const MORE_DESCRIPTORS: &str =
    "raise LimitNOFILE of the service (ulimit -n), or lower max_sessions of the endpoints";

/// Separates the failure from the remedy, in every message that has a remedy.
pub const FIX: &str = ". Fix: ";

/// Whether the error is `EMFILE` or `ENFILE`, so that the process or the host has no file descriptor
/// left.
pub fn out_of_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EMFILE | Errno::ENFILE))
}

/// Copies an error, so that several callers that waited for the same result can each return it.
/// [`io::Error`] is not `Clone`.
pub fn clone_io_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Appends a remedy to a failure: `what failed: cause. Fix: action.`
///
/// If `failure` ends with a remedy already, `fix` replaces it, because the caller knows more than the
/// function that it called. If `fix` is empty, the message is `failure` unchanged.
pub fn with_fix(failure: impl fmt::Display, fix: impl fmt::Display) -> String {
    let (failure, fix) = (failure.to_string(), fix.to_string());
    if fix.is_empty() {
        return failure;
    }
    let (failure, _) = split_fix(&failure);
    format!("{failure}{FIX}{}", with_full_stop(&fix))
}

/// Ends a remedy with a full stop, unless it ends with `.`, `?` or `!` already. A remedy that ends with
/// `}` is an IAM policy statement to copy, and stays as it is.
pub fn with_full_stop(fix: &str) -> String {
    let stop = match fix.ends_with(['.', '?', '!', '}']) {
        true => "",
        false => ".",
    };
    format!("{fix}{stop}")
}

/// Adds an alternative to the remedy of a message: `… Fix: this, or that.`
pub fn with_alternative_fix(message: &str, alternative: &str) -> String {
    match split_fix(message) {
        (failure, Some(fix)) => with_fix(
            failure,
            format_args!("{}, or {alternative}", fix.trim_end_matches('.')),
        ),
        (failure, None) => with_fix(failure, alternative),
    }
}

/// Prints an error with its causes, and with a note on the reaction of hopend:
/// `what failed: cause; note. Fix: action.`
pub fn with_note(error: &(dyn Error + 'static), note: &str) -> String {
    let text = chain(error);
    let (failure, fix) = split_fix(&text);
    with_fix(format_args!("{failure}; {note}"), fix.unwrap_or_default())
}

/// Splits a message into the failure and the remedy, if it has one.
pub fn split_fix(message: &str) -> (&str, Option<&str>) {
    match message.split_once(FIX) {
        Some((failure, fix)) => (failure, Some(fix)),
        None => (message, None),
    }
}

/// Prints an error with all its causes on one line. Only this function walks through
/// [`Error::source`].
///
/// A cause whose text is printed already is left out. Of several remedies, only the outermost is
/// printed, at the end.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut fix = None;
    for error in std::iter::successors(Some(error), |&error| error.source()) {
        let message = error.to_string();
        let (failure, remedy) = split_fix(&message);
        if fix.is_none() {
            fix = remedy.map(str::to_owned);
        }
        // Some libraries repeat their cause in their own message.
        if text.contains(failure) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(failure);
    }
    with_fix(text, fix.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("the cluster is gone")]
        Gone,
        #[error("10.0.0.1:5000: no connection. Fix: start it.")]
        Connect(#[source] Box<Failure>),
        #[error("node n1: {0}")]
        Node(#[source] Box<Failure>),
        #[error("{}", with_fix(.0, "start n1"))]
        Advised(#[source] Box<Failure>),
    }

    fn connect() -> Failure {
        Failure::Connect(Failure::Gone.into())
    }

    #[test]
    fn a_message_is_what_failed_then_the_cause_then_the_fix() {
        let message = chain(&connect());
        assert_eq!(
            message,
            "10.0.0.1:5000: no connection: the cluster is gone. Fix: start it."
        );
        assert_eq!(chain(&Failure::Gone), "the cluster is gone");
        let noted = with_note(&connect(), "hopend goes on trying");
        let expected = "10.0.0.1:5000: no connection: the cluster is gone; hopend goes on trying. \
                        Fix: start it.";
        assert_eq!(noted, expected);
    }

    #[test]
    fn no_text_stands_in_a_message_twice() {
        let message = chain(&Failure::Node(connect().into()));
        let expected = "node n1: 10.0.0.1:5000: no connection: the cluster is gone. Fix: start it.";
        assert_eq!(message, expected);
    }

    #[test]
    fn the_outermost_remedy_is_the_one_that_counts() {
        let message = chain(&Failure::Advised(connect().into()));
        let expected = "10.0.0.1:5000: no connection: the cluster is gone. Fix: start n1.";
        assert_eq!(message, expected);
        assert_eq!(
            with_alternative_fix(&message, "wait"),
            expected.replace("n1.", "n1, or wait.")
        );
        assert_eq!(with_alternative_fix("gone", "wait"), "gone. Fix: wait.");
    }

    #[test]
    fn a_remedy_ends_with_one_mark() {
        assert_eq!(with_fix("gone", ""), "gone");
        for (fix, expected) in [
            ("start it", "gone. Fix: start it."),
            ("start it.", "gone. Fix: start it."),
            ("did you mean x?", "gone. Fix: did you mean x?"),
            ("allow it: {}", "gone. Fix: allow it: {}"),
        ] {
            assert_eq!(with_fix("gone", fix), expected);
        }
    }
}
