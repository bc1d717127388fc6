//! Whose side a failure is on, as metrics, audit lines and exit codes count it.

use std::error::Error;
use std::fmt;
use std::io;

use nix::errno::Errno;

/// The side at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What the client sent or did.
    Client,
    /// The configuration file, or something it names.
    Configuration,
    /// Somebody may not do this: refused here, by AWS or by the cluster.
    Denied,
    /// AWS, or a login command.
    ControlPlane,
    /// The cluster or node, or the way to it.
    Upstream,
    /// A limit of the configuration or the host.
    Limit,
    /// hopend itself, or the host it runs on.
    Internal,
}

impl ErrorKind {
    /// All of them, each at the place that its value as a number says.
    pub const ALL: [Self; 7] = [
        Self::Client,
        Self::Configuration,
        Self::Denied,
        Self::ControlPlane,
        Self::Upstream,
        Self::Limit,
        Self::Internal,
    ];

    /// The name in logs, audit lines and metrics.
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

/// The cause when [`out_of_descriptors`].
pub const NO_DESCRIPTORS: &str = "hopend has run out of file descriptors";
/// The remedy when [`out_of_descriptors`].
pub const MORE_DESCRIPTORS: &str =
    "raise LimitNOFILE of the service (ulimit -n), or lower max_sessions of the endpoints";

/// Stands between what failed and the remedy, in every message that has one.
pub const FIX: &str = ". Fix: ";

/// Whether the process, or the host, has no file descriptor left.
pub fn out_of_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EMFILE | Errno::ENFILE))
}

/// The same error once more, for another that waited for it.
pub fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// A message in the form that all messages have: `what failed: cause. Fix: action.`
///
/// The caller knows more than what it calls: a remedy that `what` has already gives way to `fix`.
/// Without a `fix`, the message is `what`.
pub fn with_fix(what: impl fmt::Display, fix: impl fmt::Display) -> String {
    let (what, fix) = (what.to_string(), fix.to_string());
    if fix.is_empty() {
        return what;
    }
    let (what, _) = without_fix(&what);
    format!("{what}{FIX}{}", sentence(&fix))
}

/// A remedy with the full stop that it ends with. A policy statement is copied as a whole, and a question
/// has its mark.
pub fn sentence(fix: &str) -> String {
    let stop = match fix.ends_with(['.', '?', '!', '}']) {
        true => "",
        false => ".",
    };
    format!("{fix}{stop}")
}

/// A message with another remedy, for a reader to whom both apply: `… Fix: this, or that.`
pub fn or_fix(message: &str, other: &str) -> String {
    match without_fix(message) {
        (what, Some(fix)) => with_fix(
            what,
            format_args!("{}, or {other}", fix.trim_end_matches('.')),
        ),
        (what, None) => with_fix(what, other),
    }
}

/// An error with its causes, and what hopend does about it: `what failed: cause; note. Fix: action.`
pub fn with_note(error: &(dyn Error + 'static), note: &str) -> String {
    let text = chain(error);
    let (what, fix) = without_fix(&text);
    with_fix(format_args!("{what}; {note}"), fix.unwrap_or_default())
}

/// What failed, and the remedy by itself.
pub fn without_fix(message: &str) -> (&str, Option<&str>) {
    match message.split_once(FIX) {
        Some((what, fix)) => (what, Some(fix)),
        None => (message, None),
    }
}

/// An error with everything that caused it, on one line: the one place where a chain is printed. No
/// text stands in it twice, and the outermost remedy stands at its end.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut fix = None;
    for error in std::iter::successors(Some(error), |&error| error.source()) {
        let message = error.to_string();
        let (what, remedy) = without_fix(&message);
        if fix.is_none() {
            fix = remedy.map(str::to_owned);
        }
        // Some libraries repeat their cause in their own message.
        if text.contains(what) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(what);
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
        let told = chain(&connect());
        assert_eq!(
            told,
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
        let told = chain(&Failure::Node(connect().into()));
        let expected = "node n1: 10.0.0.1:5000: no connection: the cluster is gone. Fix: start it.";
        assert_eq!(told, expected);
    }

    #[test]
    fn the_outermost_remedy_is_the_one_that_counts() {
        let told = chain(&Failure::Advised(connect().into()));
        let expected = "10.0.0.1:5000: no connection: the cluster is gone. Fix: start n1.";
        assert_eq!(told, expected);
        assert_eq!(
            or_fix(&told, "wait"),
            expected.replace("n1.", "n1, or wait.")
        );
        assert_eq!(or_fix("gone", "wait"), "gone. Fix: wait.");
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
