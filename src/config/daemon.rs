//! The `[daemon]` table: settings of the process, beside those of its endpoints.

use std::path::PathBuf;
use std::time::Duration;

pub use crate::primitives::log::LogFormat;

use super::admin::AdminSettings;
use super::max_memory::MaxMemory;
use super::viewers::Viewers;

/// The default control socket.
const CONTROL: &str = "/run/hopend/control";

/// The `[daemon]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// The HTTP address that serves health, metrics and the status page. `None` serves no HTTP.
    pub admin: Option<AdminSettings>,
    /// The accounts that may see the status page.
    pub viewers: Viewers,
    /// The form of the log.
    pub log: LogFormat,
    /// The file that receives a copy of each audit line. The log always has the audit lines.
    pub audit: Option<PathBuf>,
    /// The time after SIGTERM in which sessions may finish their outstanding requests.
    pub drain: Duration,
    /// The Unix socket that serves `hopend status` and `hopend kill`. `None` binds no such socket.
    pub control: Option<PathBuf>,
    /// The availability zone id of this host, for `node = "zone"`. `None` asks the instance metadata.
    pub zone: Option<String>,
    /// The maximum number of concurrent sessions on all endpoints. `None` means as many as the file
    /// descriptors allow.
    pub max_sessions: Option<usize>,
    /// The maximum number of opens per second on all endpoints.
    pub max_opens_per_second: Option<u32>,
    /// The memory that the buffers of sessions and handshakes may use.
    pub max_memory: MaxMemory,
    /// Whether the daemon confines itself.
    pub confine: Confine,
    /// The effect of a reload on the live sessions of users who lose access by it.
    pub on_removal: OnRemoval,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            admin: None,
            viewers: Viewers::default(),
            log: LogFormat::Text,
            audit: None,
            drain: Duration::from_secs(30),
            control: Some(PathBuf::from(CONTROL)),
            zone: None,
            max_sessions: None,
            max_opens_per_second: None,
            max_memory: MaxMemory::default(),
            confine: Confine::Auto,
            on_removal: OnRemoval::End,
        }
    }
}

/// Whether the daemon confines itself by Landlock and seccomp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confine {
    /// The daemon confines itself as far as the kernel supports it.
    Auto,
    /// The daemon does not start unless the kernel supports all of the confinement.
    Strict,
    /// The daemon does not confine itself.
    Off,
}

/// The effect of a reload on the live sessions of users who lose access by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoval {
    /// hopend ends the sessions.
    End,
    /// The sessions continue until the client, kdb+ or a timeout ends them.
    Keep,
}
