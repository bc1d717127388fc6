//! The daemon confines itself: Landlock restricts the files that it may touch, and seccomp restricts its
//! system calls.
//!
//! The confinement lasts until the process ends. It applies to the calling thread, and to every thread and
//! program that this thread starts later.

mod calls;
mod dumps;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Confine};
pub use calls::CallsError;
pub use dumps::forbid as forbid_dumps;
pub use files::FilesError;
use files::{FileScope, folder_of, is_under};

/// The confinement that is in force. The default is none.
#[derive(Debug, Default)]
pub struct Confinement {
    /// The folders that the daemon may touch. None if files are not confined.
    files: Option<FileScope>,
    /// Whether system calls are confined.
    calls: bool,
    /// Whether the confinement prevents the start of programs.
    no_programs: bool,
    /// The parts of the confinement that the kernel does not support, each as a message.
    lacking: Vec<String>,
}

/// The reason why the daemon could not confine itself.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Landlock failed.
    #[error("{0}")]
    Files(#[from] FilesError),
    /// seccomp failed.
    #[error("{0}")]
    Calls(#[from] CallsError),
    /// `confine = "strict"` requires a part that the kernel does not support.
    #[error("confine = \"strict\" in [daemon], and {0}. Fix: set it to \"auto\" to go without.")]
    Lacking(String),
}

impl Confinement {
    /// Confines this thread, and all threads and programs that it starts later, to the needs of the
    /// configuration in the file at `path`. A reload of that file needs no more.
    ///
    /// # Errors
    /// The configuration has `confine = "strict"`, and the kernel does not support a part.
    pub fn enter(config: &Config, path: &Path) -> Result<Self, ConfineError> {
        let wanted = config.daemon.confine;
        if wanted == Confine::Off {
            return Ok(Self::default());
        }
        let scope = FileScope::of(config, path);
        let mut confinement = Self {
            no_programs: !scope.programs,
            ..Self::default()
        };
        match files::confine(&scope) {
            Ok(lacking) => {
                confinement.files = Some(scope.clone());
                confinement.lacking.extend(lacking);
            }
            Err(error) => confinement.lacking.push(error.to_string()),
        }
        match calls::confine(scope.programs) {
            Ok(()) => confinement.calls = true,
            Err(error) => confinement.lacking.push(error.to_string()),
        }
        // Landlock and seccomp each prevent the start of programs.
        confinement.no_programs &= confinement.files.is_some() || confinement.calls;
        if wanted == Confine::Strict && !confinement.lacking.is_empty() {
            return Err(ConfineError::Lacking(confinement.lacking.join(", and ")));
        }
        Ok(confinement)
    }

    /// Checks that the daemon can serve another configuration within this confinement.
    ///
    /// # Errors
    /// The configuration needs more. The text names the need and the remedy.
    pub fn covers(&self, config: &Config) -> Result<(), String> {
        if self.no_programs && !files::commands(config).is_empty() {
            return Err(format!(
                "a login command can't be run: there was none when hopend started and confined itself. \
                 Fix: {RESTART}."
            ));
        }
        let Some(scope) = &self.files else {
            return Ok(());
        };
        let sockets = files::sockets(config);
        let outside = sockets
            .iter()
            .find(|socket| !is_under(&folder_of(socket), &scope.sockets));
        if let Some(socket) = outside {
            return Err(beyond_scope("a socket can't be made at", socket));
        }
        match &config.daemon.audit {
            Some(file) if !is_under(&folder_of(file), &scope.logs) => {
                Err(beyond_scope("the audit file can't be written at", file))
            }
            _ => Ok(()),
        }
    }

    /// Finds one of these files that the confinement makes unreadable. The text names the file and the
    /// remedy.
    pub fn find_unreadable(&self, files: &[PathBuf]) -> Option<String> {
        let scope = self.files.as_ref()?;
        let outside = files
            .iter()
            .find(|file| files::is_denied(file) && !is_under(&folder_of(file), &scope.read))?;
        Some(beyond_scope("hopend can't read", outside))
    }
}

/// The remedy of everything that the confinement does not include.
const RESTART: &str = "restart it (systemctl restart hopend)";

/// The message about a file in a folder that the confinement does not include.
fn beyond_scope(what: &str, file: &Path) -> String {
    format!(
        "{what} {}: the configuration named nothing in that folder when hopend started and confined \
         itself. Fix: {RESTART}.",
        file.display()
    )
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.files.is_some() {
            parts.push("files (Landlock)");
        }
        if self.calls {
            parts.push("system calls (seccomp)");
        }
        if self.no_programs {
            parts.push("no programs");
        }
        if parts.is_empty() {
            f.write_str("not confined")?;
        } else {
            write!(f, "confined: {}", parts.join(", "))?;
        }
        for lacking in &self.lacking {
            write!(f, "; {lacking}")?;
        }
        Ok(())
    }
}
