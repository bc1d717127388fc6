//! The error of a value that cannot be read.

/// Proof that the diagnostics hold a problem which explains why a value cannot be read. The problem
/// itself is not repeated here.
///
/// A reader returns it at once only if nothing else can be checked. Usually it reads all keys of a table
/// first, so that `hopend check` shows all mistakes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported(());

impl Reported {
    /// Only the diagnostics call this, when they receive a problem.
    pub(super) fn by_diagnostics() -> Self {
        Self(())
    }
}
