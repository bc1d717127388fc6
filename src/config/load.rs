//! Loads a configuration from a file or from a text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::account_database::{AccountResolver, system_account};
use super::configuration::Config;
use super::endpoint::Endpoint;
use super::local_account::OsUser;
use super::partial_config::PartialConfig;
use super::problem::{Problem, Problems};
use super::problem_scope::ProblemScope;
use super::reader::{self, Input, UnsoundEndpoints};

/// Loads and checks a configuration file, and the files that it names.
///
/// # Errors
/// All problems of the file.
pub fn load(path: &Path) -> Result<Config, Problems> {
    all_valid(load_valid_parts(path, &system_account)?)
}

/// Loads a configuration file, and keeps the parts that are valid.
///
/// # Errors
/// All problems, if the file cannot be read or is not TOML.
pub fn load_valid_parts(
    path: &Path,
    accounts: &AccountResolver<'_>,
) -> Result<PartialConfig, Problems> {
    load_with(path, accounts, UnsoundEndpoints::Excluded)
}

/// Loads a configuration file for `hopend doctor`. The result contains endpoints with errors too, as far as
/// their tables can be read. The daemon must not serve it.
///
/// # Errors
/// All problems, if the file cannot be read or is not TOML.
pub fn load_for_doctor(
    path: &Path,
    accounts: &AccountResolver<'_>,
) -> Result<PartialConfig, Problems> {
    load_with(path, accounts, UnsoundEndpoints::Included)
}

/// Loads a configuration file for the daemon, which serves the endpoints `running` now.
///
/// A running endpoint with an error in the new file continues unchanged. If the account database does not
/// answer, an account that a running endpoint knows stays known.
///
/// # Errors
/// All problems, if one of them concerns the daemon as a whole, or if no endpoint is left.
pub fn load_to_serve(
    path: &Path,
    accounts: &AccountResolver<'_>,
    running: &[Arc<Endpoint>],
) -> Result<PartialConfig, Problems> {
    let accounts = |text: &str| {
        accounts(text).or_else(|error| known_account(running, text).map(Some).ok_or(error))
    };
    let mut loaded = load_valid_parts(path, &accounts)?;
    loaded.keep_running(running);
    let concerns_daemon = loaded
        .problems
        .as_ref()
        .is_some_and(Problems::concern_daemon);
    match loaded.problems {
        Some(problems) if concerns_daemon || loaded.config.endpoints.is_empty() => Err(problems),
        _ => Ok(loaded),
    }
}

/// Loads only `[daemon] control` of a configuration file: the socket on which the daemon of that file
/// answers. `None` means that it has no such socket.
///
/// The rest of the file may have errors, because a running daemon has read an earlier version of it.
///
/// # Errors
/// The file cannot be read, or the key has an error.
pub fn control_socket(path: &Path) -> Result<Option<PathBuf>, Problems> {
    reader::read_control(&text_of(path)?, path)
}

/// Checks the text of a configuration, and the files that it names. Problems name `file`, and relative paths
/// start from its directory.
///
/// # Errors
/// All problems of the text.
pub fn parse(text: &str, file: &Path, accounts: &AccountResolver<'_>) -> Result<Config, Problems> {
    all_valid(parse_valid_parts(text, file, accounts)?)
}

/// Checks the text of a configuration as [`parse`] does, and keeps the parts that are valid.
///
/// # Errors
/// All problems, if the text is not TOML.
pub fn parse_valid_parts(
    text: &str,
    file: &Path,
    accounts: &AccountResolver<'_>,
) -> Result<PartialConfig, Problems> {
    reader::read(&Input {
        text,
        file,
        accounts,
        is_on_disk: false,
        unsound_endpoints: UnsoundEndpoints::Excluded,
    })
}

fn load_with(
    path: &Path,
    accounts: &AccountResolver<'_>,
    unsound_endpoints: UnsoundEndpoints,
) -> Result<PartialConfig, Problems> {
    reader::read(&Input {
        text: &text_of(path)?,
        file: path,
        accounts,
        is_on_disk: true,
        unsound_endpoints,
    })
}

/// The configuration, if it has no problem.
fn all_valid(loaded: PartialConfig) -> Result<Config, Problems> {
    loaded.problems.map_or(Ok(loaded.config), Err)
}

/// The account that a running endpoint knows by this name or number.
fn known_account(endpoints: &[Arc<Endpoint>], text: &str) -> Option<OsUser> {
    let users = endpoints.iter().flat_map(|endpoint| &endpoint.users);
    let mut accounts = users.filter_map(|user| user.os_user.as_ref());
    accounts
        .find(|account| account.text() == text)?
        .resolved()
        .cloned()
}

/// Reads the text of a file.
fn text_of(path: &Path) -> Result<Zeroizing<String>, Problems> {
    let unreadable = |message: String, remedy: &str| {
        let problem = Problem {
            line: None,
            key: String::new(),
            message,
            remedy: remedy.to_owned(),
            reach: ProblemScope::Daemon,
        };
        Problems::new(path, vec![problem])
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "create it, or name another with --config",
            std::io::ErrorKind::IsADirectory => "name the file in it with --config",
            _ => "let the account that runs hopend read it",
        };
        unreadable(format!("can't be read: {error}"), remedy)
    })?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map(str::to_owned);
    text.map(Zeroizing::new).map_err(|error| {
        let (before, _) = bytes.split_at(error.valid_up_to());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        unreadable(format!("is not UTF-8 on line {line}"), "save it as UTF-8")
    })
}
