//! Reads the text of a configuration file.
//!
//! Each submodule reads one table or one kind of value. The submodule reports errors to the
//! [`Diagnostics`] and continues, so that one run shows all mistakes of a file.

mod account;
mod admin;
pub(super) mod daemon;
mod definitions;
mod diagnostics;
mod document;
pub(super) mod endpoint;
pub(super) mod environment;
mod file;
pub(super) mod keepalive;
mod limit;
mod listen;
pub(super) mod login;
mod loops;
mod name;
mod password_file;
mod permitted_users;
mod privileged_port;
mod protection;
mod reported;
mod scalar;
pub(super) mod server_tls;
mod target;
pub(super) mod user;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use self::diagnostics::{Diagnostics, Evidence};
use self::document::TomlTable;
use self::endpoint::Referable;
use self::listen::AddressClaims;
use super::account_database::AccountResolver;
use super::configuration::Config;
use super::partial_config::PartialConfig;
use super::problem::{Problem, Problems};
use super::problem_scope::ProblemScope;

const KEYS: &[&str] = &["environment", "user", "endpoint", "daemon"];

/// The text of a configuration file, and the way to read it.
pub(super) struct Input<'i> {
    pub(super) text: &'i str,
    /// The path that problems name. Relative paths in the text start from its directory.
    pub(super) file: &'i Path,
    pub(super) accounts: &'i AccountResolver<'i>,
    /// Whether the text is on disk at `file`, whose permissions are then checked.
    pub(super) is_on_disk: bool,
    pub(super) unsound_endpoints: UnsoundEndpoints,
}

/// The treatment of endpoints whose table can be read, but has an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnsoundEndpoints {
    /// The configuration does not contain them.
    Excluded,
    /// The configuration contains them, so that `hopend doctor` can examine them. The daemon must not
    /// serve it.
    Included,
}

/// Reads a configuration, and keeps the valid parts.
///
/// # Errors
/// All problems, if the text is not TOML. Then a part that seems valid may lack a key.
pub(super) fn read(input: &Input<'_>) -> Result<PartialConfig, Problems> {
    let mut diagnostics = Diagnostics::new(input.text, input.file);
    let (document, errors) = DeTable::parse_recoverable(input.text);
    let is_toml = errors.is_empty();
    for error in errors {
        diagnostics.syntax_error(error.span(), error.message());
    }
    let root = TomlTable::root(&diagnostics, document.get_ref());
    let config = config(&root, input);
    if input.is_on_disk {
        protection::check(&root, input.file);
    }
    let (left_out, problems) = diagnostics.finish();
    match problems {
        Some(problems) if !is_toml => Err(problems),
        problems => Ok(PartialConfig {
            config,
            left_out,
            problems,
        }),
    }
}

/// Reads only `[daemon] control`. `None` means that the daemon has no control socket.
///
/// # Errors
/// The problem with this key.
pub(super) fn read_control(text: &str, file: &Path) -> Result<Option<PathBuf>, Problems> {
    let diagnostics = Diagnostics::new(text, file);
    let (document, _) = DeTable::parse_recoverable(text);
    let root = TomlTable::root(&diagnostics, document.get_ref());
    let control = daemon::read_control(&root);
    match diagnostics.into_problems() {
        Some(problems) => Err(problems),
        None => Ok(control.unwrap_or_default()),
    }
}

/// Reads the tables. A part with an error is reported, and the result does not contain it.
fn config(root: &TomlTable<'_>, input: &Input<'_>) -> Config {
    root.reject_keys_except(KEYS);
    let mut claims = AddressClaims::default();
    let environments = environment::read_all(root);
    let users = user::read_all(root, input.accounts);
    let referable = Referable {
        environments: &environments,
        users: &users,
    };
    let mut endpoints = endpoint::read_all(root, &referable, &mut claims);
    let daemon = daemon::read(root, &mut claims, input.accounts);
    match input.unsound_endpoints {
        UnsoundEndpoints::Excluded => endpoints.drop_unsound(root.diagnostics()),
        UnsoundEndpoints::Included => {}
    }
    if root.lacks("endpoint") {
        report_absent_tables(
            root,
            "endpoint",
            "there is none",
            "add a table [[endpoint]] with name, listen, and cluster or connect",
        );
    }
    if root.lacks("user") {
        report_absent_tables(
            root,
            "user",
            "there is none, so nobody could use an endpoint",
            "add a table [[user]] with name and os_user",
        );
    }
    Config {
        daemon,
        environments: environments.valid().cloned().collect(),
        users: users.definitions.valid().cloned().collect(),
        endpoints: endpoints.valid().cloned().collect(),
        files: root.diagnostics().named_files(),
        notices: root.diagnostics().notices(),
    }
}

fn report_absent_tables(root: &TomlTable<'_>, key: &str, message: &str, remedy: &str) {
    let problem = Problem {
        line: None,
        key: key.to_owned(),
        message: message.to_owned(),
        remedy: remedy.to_owned(),
        reach: ProblemScope::Daemon,
    };
    root.diagnostics().add(Evidence::AbsentFromFile, problem);
}
