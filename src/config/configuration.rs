//! The configuration file as a whole.

use std::path::PathBuf;
use std::sync::Arc;

use finspace::environment::Environment;

use super::daemon::DaemonSettings;
use super::endpoint::Endpoint;
use super::notice::Notice;
use super::user::User;

/// The contents of one configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The `[daemon]` table.
    pub daemon: DaemonSettings,
    /// The `[environment.NAME]` tables, sorted by name.
    pub environments: Vec<Arc<Environment>>,
    /// The `[[user]]` tables, in the order of the file.
    pub users: Vec<Arc<User>>,
    /// The `[[endpoint]]` tables, in the order of the file.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The path of every file that the configuration names. The daemon's confinement lets it read these.
    pub files: Vec<PathBuf>,
    /// Faults of this host, and advice. A notice never makes the configuration invalid.
    pub notices: Vec<Notice>,
}
