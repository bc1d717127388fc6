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

/// What to do when [`out_of_descriptors`].
pub const MORE_DESCRIPTORS: &str = "hopend has run out of file descriptors: raise LimitNOFILE of its service (ulimit -n), or \
     lower max_sessions of the endpoints";

/// Whether the process, or the host, has no file descriptor left.
pub fn out_of_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EMFILE | Errno::ENFILE))
}

/// An error with everything that caused it, on one line: the one place where a chain is printed.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
