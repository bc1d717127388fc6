//! Parts of the configuration file that hopend can leave out while it serves the rest.

use std::fmt;

/// A table of the file, or a viewer in it, that hopend can leave out without the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigPart {
    /// The kind of the part.
    pub kind: ConfigPartKind,
    /// The name that the file gives to the part. Empty if the name is missing or invalid.
    pub name: String,
    /// The line of the part's table or value, from 1.
    pub line: usize,
}

/// The kind of a [`ConfigPart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigPartKind {
    /// A table `[environment.NAME]`. hopend leaves out the endpoints that use it as well.
    Environment,
    /// A table `[[user]]`. hopend serves the other users of its endpoints.
    User,
    /// A table `[[endpoint]]`.
    Endpoint,
    /// An account in `viewers` of `[daemon]`.
    Viewer,
}

impl ConfigPart {
    /// A part whose name is not known yet.
    pub(super) fn unnamed(kind: ConfigPartKind, line: usize) -> Self {
        Self {
            kind,
            name: String::new(),
            line,
        }
    }

    /// Whether both are the same part. Two tables of one kind and name count as the same, because a
    /// reference to that name is ambiguous.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_name = if self.name.is_empty() || other.name.is_empty() {
            self.line == other.line
        } else {
            self.name == other.name
        };
        self.kind == other.kind && same_name
    }
}

impl ConfigPartKind {
    /// The key of the tables of this kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::User => "user",
            Self::Endpoint => "endpoint",
            Self::Viewer => "viewer",
        }
    }
}

/// Prints `user "alice"`, or `user of line 6` for a part without a name.
impl fmt::Display for ConfigPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        if self.name.is_empty() {
            write!(f, "{kind} of line {}", self.line)
        } else {
            write!(f, "{kind} {:?}", self.name)
        }
    }
}
