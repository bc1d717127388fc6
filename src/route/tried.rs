//! The addresses or nodes that a session tried in vain.

use super::error::OpenError;
use base::error::{chain, with_fix, without_fix};

/// What was tried, in order, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Tried {
    failures: Vec<Failure>,
    /// Which of them is the session's own reason: its kind counts, and its remedy is shown.
    deciding: usize,
    refused: bool,
}

/// One address or node.
#[derive(Debug)]
struct Failure {
    place: String,
    error: OpenError,
}

/// None of several addresses or nodes could be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_fix(format_args!("no kdb+ at {}: {}", .places.join(", "), .reasons.join("; ")), .fix))]
pub struct NoneOfThem {
    /// All that were tried, in order.
    places: Vec<String>,
    /// Why, in the same order; each reason once.
    reasons: Vec<String>,
    fix: String,
    /// What counts of it.
    pub(super) deciding: Box<OpenError>,
}

impl Tried {
    /// An attempt that failed. The last one decides, unless kdb+ refused a login.
    pub(super) fn failed(&mut self, place: &str, error: OpenError) {
        if !self.refused {
            self.deciding = self.failures.len();
        }
        self.push(place, error);
    }

    /// An attempt whose login kdb+ refused. The first one decides: a refusal says more than the silence
    /// of another address.
    pub(super) fn refused(&mut self, place: &str, error: OpenError) {
        if !self.refused {
            self.deciding = self.failures.len();
        }
        self.refused = true;
        self.push(place, error);
    }

    fn push(&mut self, place: &str, error: OpenError) {
        let place = place.to_owned();
        self.failures.push(Failure { place, error });
    }

    /// Why the session gets no kdb+: every address that was tried, with its reason.
    pub(super) fn into_error(mut self) -> OpenError {
        if self.failures.len() < 2 {
            return match self.failures.pop() {
                Some(failure) => failure.error,
                None => OpenError::NoAddress,
            };
        }
        let mut reasons: Vec<String> = Vec::new();
        for Failure { place, error } in &self.failures {
            let text = chain(error);
            let (reason, _) = without_fix(&text);
            let reason = reason.strip_prefix(&format!("{place}: ")).unwrap_or(reason);
            if !reasons.iter().any(|known| known == reason) {
                reasons.push(reason.to_owned());
            }
        }
        let places = self.failures.iter().map(|failure| failure.place.clone());
        let places = places.collect();
        let deciding = Box::new(self.failures.swap_remove(self.deciding).error);
        let text = chain(&*deciding);
        let fix = without_fix(&text).1.unwrap_or_default().to_owned();
        OpenError::NoneOfThem(NoneOfThem {
            places,
            reasons,
            fix,
            deciding,
        })
    }
}
