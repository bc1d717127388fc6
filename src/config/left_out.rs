//! The parts of the configuration that hopend does not serve, with the reasons.

use std::fmt;

use super::config_part::ConfigPart;
use super::local_account::LocalAccount;
use super::problem::Problems;
use super::problem_scope::ProblemScope;

/// A part of the configuration that hopend does not serve, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOutPart {
    /// The part.
    pub part: ConfigPart,
    /// The cause, which decides how the part can be served again.
    pub cause: LeftOutCause,
    /// The problems and their remedies, as `hopend check` prints them.
    pub reason: String,
}

/// The cause for which hopend leaves out a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOutCause {
    /// The file has an error in the part. A reload of the corrected file serves it.
    Broken,
    /// As [`LeftOutCause::Broken`], but the endpoint was running before the reload and continues
    /// unchanged.
    Kept,
    /// The user's password was removed from the password file.
    ProofGone,
    /// The account database does not know the account. hopend repeats the query until it does.
    AccountUnknown(LocalAccount),
}

impl LeftOutCause {
    /// The cause as one word, for programs that read the status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Kept => "kept",
            Self::ProofGone => "proof_gone",
            Self::AccountUnknown(_) => "account_unknown",
        }
    }
}

impl LeftOutPart {
    /// Whether hopend serves the part by now, because the account database knows its account.
    pub fn is_served(&self) -> bool {
        matches!(&self.cause, LeftOutCause::AccountUnknown(account) if account.resolved().is_some())
    }
}

/// A part that hopend leaves out because it needs another part that is left out.
#[derive(Debug)]
pub(super) struct Dependent {
    pub(super) part: ConfigPart,
    pub(super) needs: ConfigPart,
}

/// Lists each part that is left out once, in the order of the file, with all its reasons.
pub(super) fn collect(problems: Option<&Problems>, dependents: Vec<Dependent>) -> Vec<LeftOutPart> {
    let mut all: Vec<LeftOutPart> = Vec::new();
    if let Some(problems) = problems {
        for problem in problems {
            let cause = match &problem.reach {
                ProblemScope::Daemon => continue,
                ProblemScope::Parts(_) => LeftOutCause::Broken,
                ProblemScope::Proof(_) => LeftOutCause::ProofGone,
                ProblemScope::Account(_, account) => LeftOutCause::AccountUnknown(account.clone()),
            };
            for part in problem.reach.parts() {
                add(
                    &mut all,
                    LeftOutPart {
                        part: part.clone(),
                        cause: cause.clone(),
                        reason: problems.print(problem),
                    },
                );
            }
        }
    }
    for Dependent { part, needs } in dependents {
        add(
            &mut all,
            LeftOutPart {
                part,
                cause: LeftOutCause::Broken,
                reason: format!("{needs} is left out."),
            },
        );
    }
    all.sort_by_key(|left_out| left_out.part.line);
    all
}

/// Adds a part, or adds its reason if the list has the part already.
fn add(all: &mut Vec<LeftOutPart>, new: LeftOutPart) {
    let Some(known) = all.iter_mut().find(|known| known.part.is_same(&new.part)) else {
        return all.push(new);
    };
    known.reason = format!("{} {}", known.reason, new.reason);
    // A part with an error stays out even if its account appears later. A password that is gone ends
    // live sessions, so it outranks every other cause.
    if let (LeftOutCause::AccountUnknown(_), _) | (_, LeftOutCause::ProofGone) =
        (&known.cause, &new.cause)
    {
        known.cause = new.cause;
    }
}

/// Prints `user "alice" is left out: reason`.
impl fmt::Display for LeftOutPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, reason) = (&self.part, &self.reason);
        match self.cause {
            LeftOutCause::Broken | LeftOutCause::ProofGone => {
                write!(f, "{part} is left out: {reason}")
            }
            LeftOutCause::Kept => write!(f, "{part} stays as it was: {reason}"),
            LeftOutCause::AccountUnknown(_) => write!(
                f,
                "{part} is left out until the account is known; hopend repeats the query: {reason}"
            ),
        }
    }
}
