//! What `hopend check` tells of beside errors: the state of this host, and advice. None of it keeps
//! anything from being served.

use std::fmt;

use base::error::with_fix;

/// Something that is not as it should be, although the file is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key, such as `endpoint "hdb".listen`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// What `hopend check` makes of it.
    pub severity: Severity,
}

/// What `hopend check` makes of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It fails: hopend can't do what the file says until the host is mended. `hopend run` tries again.
    Error,
    /// It succeeds.
    Warning,
}

/// `KEY: what. Fix: remedy`, without the line.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = with_fix(&self.what, &self.remedy);
        write!(f, "{}: {what}", self.key)
    }
}
