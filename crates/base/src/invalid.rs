//! Why a text is not the value it should be.

use crate::error::with_fix;

/// What is wrong with a text, and how to write it. Never holds a text that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", with_fix(.what, .remedy))]
pub struct Invalid {
    /// What is wrong.
    pub what: String,
    /// How to write it.
    pub remedy: String,
}

impl Invalid {
    /// An error of a text that `what` is wrong with, and its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}
