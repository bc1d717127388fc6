//! The failed attempts of one opening at several addresses.

use super::error::OpenError;
use base::error::{chain, split_fix, with_fix};

/// The failed attempts so far, in the order in which they failed. There is at least one.
#[derive(Debug)]
pub(super) struct FailedAttempts {
    failures: Vec<FailedAttempt>,
    /// The index of the failure whose kind counts and whose remedy is shown.
    deciding: usize,
    /// Whether kdb+ refused the login in the deciding attempt.
    refused: bool,
}

/// An attempt at one address.
#[derive(Debug)]
pub(super) struct FailedAttempt {
    /// The address or the node, as messages name it.
    pub(super) label: String,
    pub(super) error: OpenError,
    /// Whether kdb+ refused the login.
    pub(super) refused: bool,
}

/// All attempts at several addresses or nodes have failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_fix(format_args!("no kdb+ at {}: {}", .addresses.join(", "), .reasons.join("; ")), .fix))]
pub struct AllAddressesFailed {
    /// The addresses or nodes, in the order of the attempts.
    addresses: Vec<String>,
    /// The causes, each of them once, in the same order.
    reasons: Vec<String>,
    fix: String,
    /// The failure whose kind counts.
    pub(super) deciding: Box<OpenError>,
}

impl From<FailedAttempt> for FailedAttempts {
    fn from(first: FailedAttempt) -> Self {
        Self {
            deciding: 0,
            refused: first.refused,
            failures: vec![first],
        }
    }
}

impl FailedAttempts {
    /// Adds a failure. The last failure decides, unless kdb+ has refused a login. Then the first refusal
    /// decides: it says more than the silence of another address.
    pub(super) fn add(&mut self, failure: FailedAttempt) {
        if !self.refused {
            self.deciding = self.failures.len();
            self.refused = failure.refused;
        }
        self.failures.push(failure);
    }

    /// The error of the opening. If several addresses were tried, it names each of them, with its cause.
    pub(super) fn into_error(mut self) -> OpenError {
        if self.failures.len() == 1 {
            return self.failures.swap_remove(0).error;
        }
        let mut reasons: Vec<String> = Vec::new();
        for FailedAttempt { label, error, .. } in &self.failures {
            let text = chain(error);
            let (reason, _) = split_fix(&text);
            let reason = reason.strip_prefix(&format!("{label}: ")).unwrap_or(reason);
            if !reasons.iter().any(|known| known == reason) {
                reasons.push(reason.to_owned());
            }
        }
        let addresses = self.failures.iter().map(|failure| failure.label.clone());
        let addresses = addresses.collect();
        let deciding = Box::new(self.failures.swap_remove(self.deciding).error);
        let text = chain(&*deciding);
        let fix = split_fix(&text).1.unwrap_or_default().to_owned();
        OpenError::AllAddressesFailed(AllAddressesFailed {
            addresses,
            reasons,
            fix,
            deciding,
        })
    }
}
