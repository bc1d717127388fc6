//! The configuration of the daemon, as types. All values are checked, so no caller checks one again.
//!
//! [`load`] and [`parse`] read a TOML file into a [`Config`], or return everything that is wrong with the
//! file as [`Problems`]. The module `reader` knows TOML; the other modules do not.

mod account_database;
mod admin;
mod certificate_name;
mod config_part;
mod configuration;
mod daemon;
mod endpoint;
mod hash_cost;
mod left_out;
mod listen_address;
mod load;
mod local_account;
mod login;
mod machine_memory;
mod max_memory;
mod notice;
mod partial_config;
mod problem;
mod problem_scope;
mod reader;
pub(crate) mod server_tls;
mod target;
#[cfg(test)]
mod tests;
mod uncovered_loopback;
mod user;
mod viewers;

pub use account_database::{AccountDatabase, AccountResolver, system_account};
pub use admin::{AdminSettings, Exposure};
pub use certificate_name::CertificateName;
pub use config_part::{ConfigPart, ConfigPartKind};
pub use configuration::Config;
pub use daemon::{Confine, DaemonSettings, LogFormat, OnRemoval};
pub(crate) use endpoint::{EXPOSED_WITHOUT_TLS, EXPOSED_WITHOUT_TLS_REMEDY};
pub use endpoint::{Endpoint, OnOpenFailure, OpensPerUser};
pub use hash_cost::hash_cost;
#[cfg(test)]
pub(crate) use hash_cost::refusal_costs;
pub use left_out::{LeftOutCause, LeftOutPart};
pub use listen_address::ListenAddress;
pub use load::{
    control_socket, load, load_for_doctor, load_to_serve, load_valid_parts, parse,
    parse_valid_parts,
};
pub use local_account::{LocalAccount, OsUser};
pub use login::{Login, LoginCommand, LoginValue, LoginVariable};
pub use machine_memory::MachineMemory;
pub use max_memory::MaxMemory;
pub use notice::{Notice, Severity};
pub use partial_config::PartialConfig;
pub use problem::{Problem, Problems};
pub use problem_scope::ProblemScope;
pub use server_tls::{ServerTls, TlsVersion};
pub use target::{AddressOrder, NodeSelector, NodeVia, Target};
pub use uncovered_loopback::{HOSTS_FILE, UncoveredLoopback, loopback_warnings};
pub use user::{PasswordVerifier, User};
pub use viewers::Viewers;
