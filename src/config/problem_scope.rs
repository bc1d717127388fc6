//! The extent of a problem: the parts of the configuration that hopend cannot serve because of it.

use super::config_part::ConfigPart;
use super::local_account::LocalAccount;

/// The parts of the configuration that hopend cannot serve because of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProblemScope {
    /// The whole configuration: the daemon does not start, and a reload changes nothing.
    Daemon,
    /// These parts, until somebody corrects the file and hopend loads it again.
    Parts(Vec<ConfigPart>),
    /// A user whose password was removed from the password file. hopend ends the user's live sessions as
    /// well.
    Proof(ConfigPart),
    /// A user or viewer whose account does not exist in the account database. hopend serves the part as
    /// soon as the account exists.
    Account(ConfigPart, LocalAccount),
}

impl ProblemScope {
    /// The parts that hopend leaves out. Empty if the problem concerns the whole daemon.
    pub fn parts(&self) -> &[ConfigPart] {
        match self {
            Self::Daemon => &[],
            Self::Parts(parts) => parts,
            Self::Proof(part) | Self::Account(part, _) => std::slice::from_ref(part),
        }
    }

    /// Whether the problem makes the part unusable until the file changes.
    pub(super) fn breaks(&self, part: &ConfigPart) -> bool {
        match self {
            Self::Daemon | Self::Account(..) => false,
            Self::Parts(parts) => parts.iter().any(|broken| broken.is_same(part)),
            Self::Proof(broken) => broken.is_same(part),
        }
    }
}
