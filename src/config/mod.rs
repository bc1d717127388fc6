//! The configuration of the daemon, as types. All values are checked, so no caller checks one again.
//!
//! [`load`] and [`parse`] read a TOML file into a [`Config`], or return everything that is wrong with the
//! file as [`Problems`]. The module `reader` knows TOML; the other modules do not.

mod account_database;
mod admin;
mod certificate_name;
mod configuration;
mod daemon;
mod endpoint;
mod hash_cost;
mod left_out;
mod listen_address;
mod load;
mod loaded;
mod local_account;
mod login;
mod machine_memory;
mod max_memory;
mod notice;
mod part;
mod problem;
mod reach;
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
pub use configuration::Config;
pub use daemon::{Confine, Daemon, LogFormat, OnRemoval};
pub use endpoint::{Endpoint, Errors, OpensPerUser};
pub(crate) use endpoint::{PLAIN, PLAIN_REMEDY};
pub use hash_cost::hash_cost;
#[cfg(test)]
pub(crate) use hash_cost::refusal_costs;
pub use left_out::{LeftOut, LeftOutCause};
pub use listen_address::ListenAddress;
pub use load::{control, load, load_in_part, load_to_look_at, load_to_serve, parse, parse_in_part};
pub use loaded::Loaded;
pub use local_account::{LocalAccount, OsUser};
pub use login::{Login, LoginCommand, LoginValue, LoginVariable};
pub use machine_memory::MachineMemory;
pub use max_memory::MaxMemory;
pub use notice::{Notice, Severity};
pub use part::{Part, PartKind};
pub use problem::{Problem, Problems};
pub use reach::Reach;
pub use server_tls::{ServerTls, TlsVersion};
pub use target::{Node, NodeVia, Policy, Target};
pub use uncovered_loopback::{HOSTS, SingleFamily, single_families};
pub use user::{User, Verifier};
pub use viewers::Viewers;
