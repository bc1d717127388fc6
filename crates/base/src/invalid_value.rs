//! The error of a text that cannot be parsed.

use crate::error::with_fix;

/// Says why a text cannot be parsed, and how to write it. The error never contains a text that could be
/// a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", with_fix(.message, .remedy))]
pub struct InvalidValue {
    /// The error as a predicate, such as `is not a duration`. The name of the value goes before it.
    pub message: String,
    /// The form to write instead, as an imperative.
    pub remedy: String,
}

impl InvalidValue {
    /// Makes an error from its message and its remedy.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}
