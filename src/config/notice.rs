//! Remarks of `hopend check` that do not make the configuration invalid: faults of this host, and
//! advice. hopend serves the configuration nevertheless.

use std::fmt;

use base::error::with_fix;

/// A fault of this host, or advice, about a key of a valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The line of the value in the file, from 1.
    pub line: usize,
    /// The key, such as `endpoint "hdb".listen`.
    pub key: String,
    /// The fault, as a predicate or a sentence.
    pub message: String,
    /// The remedy, as an imperative.
    pub remedy: String,
    /// The effect on the exit code of `hopend check`.
    pub severity: Severity,
}

/// The effect of a remark on the exit code of `hopend check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The check fails, because hopend cannot serve the configuration as written on this host. `hopend
    /// run` keeps trying.
    Error,
    /// The check succeeds.
    Warning,
}

/// Prints `KEY: message. Fix: remedy.`, without the line.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = with_fix(&self.message, &self.remedy);
        write!(f, "{}: {message}", self.key)
    }
}
