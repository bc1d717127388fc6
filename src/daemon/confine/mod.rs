//! The daemon confines itself: which files it may touch (Landlock) and which system calls it may make
//! (seccomp). What is given up here is gone for good, for every thread and program started from here
//! on.

mod calls;
mod dumps;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Confine};
pub use calls::CallsError;
pub use dumps::forbid as forbid_dumps;
pub use files::FilesError;
use files::{Scope, folder_of, is_under};

/// What is in force.
#[derive(Debug, Default)]
pub struct Confinement {
    /// None where files are not confined.
    files: Option<Scope>,
    /// Whether system calls are confined.
    calls: bool,
    /// Whether programs can't be started.
    no_programs: bool,
    /// What the kernel has not got.
    lacking: Vec<String>,
}

/// Why the daemon could not confine itself.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Files.
    #[error("{0}")]
    Files(#[from] FilesError),
    /// System calls.
    #[error("{0}")]
    Calls(#[from] CallsError),
    /// The configuration insists.
    #[error("confine = \"strict\" in [daemon], and {0}. Fix: set it to \"auto\" to go without.")]
    Lacking(String),
}

impl Confinement {
    /// Confines this thread, and all that it starts from here on, to what the configuration in the
    /// file at `path` needs. Reading it again needs no more.
    ///
    /// # Errors
    /// With `confine = "strict"` whenever something is not to be had.
    pub fn enter(config: &Config, path: &Path) -> Result<Self, ConfineError> {
        let wanted = config.daemon.confine;
        if wanted == Confine::Off {
            return Ok(Self::default());
        }
        let scope = Scope::of(config, path);
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
        // Either of them keeps programs from being started.
        confinement.no_programs &= confinement.files.is_some() || confinement.calls;
        if wanted == Confine::Strict && !confinement.lacking.is_empty() {
            return Err(ConfineError::Lacking(confinement.lacking.join(", and ")));
        }
        Ok(confinement)
    }

    /// Whether another configuration can be served without another start.
    ///
    /// # Errors
    /// What it needs beyond, and what to do.
    pub fn covers(&self, config: &Config) -> Result<(), String> {
        if self.no_programs && !files::commands(config).is_empty() {
            return Err(format!(
                "a login command can't be run, as there was none when hopend started and it has \
                 confined itself. Fix: {RESTART}."
            ));
        }
        let Some(scope) = &self.files else {
            return Ok(());
        };
        let sockets = files::sockets(config);
        let beyond = sockets
            .iter()
            .find(|socket| !is_under(&folder_of(socket), &scope.sockets));
        if let Some(socket) = beyond {
            return Err(beyond_scope("a socket can't be made at", socket));
        }
        match &config.daemon.audit {
            Some(file) if !is_under(&folder_of(file), &scope.logs) => {
                Err(beyond_scope("the audit file can't be written at", file))
            }
            _ => Ok(()),
        }
    }

    /// Why one of these files can't be read and what to do, where it is for the confinement.
    pub fn keeps_from(&self, files: &[PathBuf]) -> Option<String> {
        let scope = self.files.as_ref()?;
        let beyond = files
            .iter()
            .find(|file| files::is_denied(file) && !is_under(&folder_of(file), &scope.read))?;
        Some(beyond_scope("hopend can't read", beyond))
    }
}

const RESTART: &str = "restart it (systemctl restart hopend)";

fn beyond_scope(what: &str, file: &Path) -> String {
    format!(
        "{what} {}, as the configuration named nothing in that folder when hopend started and \
         confined itself. Fix: {RESTART}.",
        file.display()
    )
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut held = Vec::new();
        if self.files.is_some() {
            held.push("files (Landlock)");
        }
        if self.calls {
            held.push("system calls (seccomp)");
        }
        if self.no_programs {
            held.push("no programs");
        }
        if held.is_empty() {
            f.write_str("not confined")?;
        } else {
            write!(f, "confined: {}", held.join(", "))?;
        }
        for lacking in &self.lacking {
            write!(f, "; {lacking}")?;
        }
        Ok(())
    }
}
