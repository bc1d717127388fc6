//! The file as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::account::{Accounts, system_account};
use super::endpoint::{Claims, Known};
use super::left_out::{Loaded, Reach};
use super::problem::{Problem, Problems};
use super::reader::Table;
use super::source::{Basis, Source};
use super::{Config, Endpoint, OsUser, daemon, endpoint, environment, user};
use base::file_access::{self, FileAccessError, Protection};

const KEYS: &[&str] = &["environment", "user", "endpoint", "daemon"];

/// Reads and checks a configuration file, and the files that it names.
///
/// # Errors
/// All problems at once.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = text(path)?;
    read(&text, path, &system_account, Some(path))
}

/// As [`load`], with what is valid although something is not.
///
/// # Errors
/// All problems, where the text is no TOML and nothing can be said for certain.
pub fn load_in_part(path: &Path, accounts: &Accounts<'_>) -> Result<Loaded, Problems> {
    let text = text(path)?;
    read_in_part(&text, path, accounts, Some(path), Unsound::LeftOut)
}

/// What `hopend doctor` looks at: also endpoints that have a problem, as far as their tables can be read.
/// They must not be served.
///
/// # Errors
/// All problems, where the text is no TOML and nothing can be said for certain.
pub fn load_to_look_at(path: &Path, accounts: &Accounts<'_>) -> Result<Loaded, Problems> {
    read_in_part(&text(path)?, path, accounts, Some(path), Unsound::Shown)
}

/// As [`load_in_part`], for the daemon to serve in place of what it serves now: endpoints that are
/// `running` go on as they are where the file is wrong about them. While the account database can't be
/// asked, an account that they know stays known.
///
/// # Errors
/// All problems, where one of them concerns the daemon as a whole, and where no endpoint is left.
pub fn load_to_serve(
    path: &Path,
    accounts: &Accounts<'_>,
    running: &[Arc<Endpoint>],
) -> Result<Loaded, Problems> {
    let accounts =
        |text: &str| accounts(text).or_else(|error| known_of(running, text).map(Some).ok_or(error));
    let mut loaded = load_in_part(path, &accounts)?;
    loaded.keep_running(running);
    let stops = loaded
        .problems
        .as_ref()
        .is_some_and(Problems::stop_the_daemon);
    match loaded.problems {
        Some(problems) if stops || loaded.config.endpoints.is_empty() => Err(problems),
        _ => Ok(loaded),
    }
}

/// An account that an endpoint knows by what its file says.
fn known_of(endpoints: &[Arc<Endpoint>], text: &str) -> Option<OsUser> {
    let users = endpoints.iter().flat_map(|endpoint| &endpoint.users);
    let mut accounts = users.filter_map(|user| user.os_user.as_ref());
    accounts
        .find(|account| account.text() == text)?
        .found()
        .cloned()
}

/// Reads `[daemon] control` alone: where the daemon of a configuration file is asked, `None` for
/// nowhere. The rest of the file may be wrong: a daemon that runs has read it when it was right.
///
/// # Errors
/// What is wrong with the file or this value.
pub fn control(path: &Path) -> Result<Option<PathBuf>, Problems> {
    let text = text(path)?;
    let source = Source::new(&text, path);
    let (document, _) = DeTable::parse_recoverable(&text);
    let root = Table::root(&source, document.get_ref());
    let control = daemon::control_of(&root);
    source.conclude(control)
}

/// The text of the file.
fn text(path: &Path) -> Result<Zeroizing<String>, Problems> {
    let unreadable = |what: String, remedy: &str| {
        let problem = Problem {
            line: None,
            key: String::new(),
            what,
            remedy: remedy.to_owned(),
            reach: Reach::Daemon,
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

/// Checks a configuration, and the files that it names. `file` is what problems are told of; its
/// directory is where relative paths start.
///
/// # Errors
/// All problems at once.
pub fn parse(text: &str, file: &Path, accounts: &Accounts<'_>) -> Result<Config, Problems> {
    read(text, file, accounts, None)
}

/// As [`parse`], with what is valid although something is not.
///
/// # Errors
/// All problems, where the text is no TOML and nothing can be said for certain.
pub fn parse_in_part(text: &str, file: &Path, accounts: &Accounts<'_>) -> Result<Loaded, Problems> {
    read_in_part(text, file, accounts, None, Unsound::LeftOut)
}

fn read(
    text: &str,
    file: &Path,
    accounts: &Accounts<'_>,
    on_disk: Option<&Path>,
) -> Result<Config, Problems> {
    let loaded = read_in_part(text, file, accounts, on_disk, Unsound::LeftOut)?;
    loaded.problems.map_or(Ok(loaded.config), Err)
}

fn read_in_part(
    text: &str,
    file: &Path,
    accounts: &Accounts<'_>,
    on_disk: Option<&Path>,
    unsound: Unsound,
) -> Result<Loaded, Problems> {
    let mut source = Source::new(text, file);
    let (document, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    for error in errors {
        source.not_toml(error.span(), error.message());
    }
    let root = Table::root(&source, document.get_ref());
    let config = config(&root, accounts, unsound);
    if let Some(path) = on_disk {
        protected(&root, path);
    }
    let (left_out, problems) = source.conclude_in_part();
    match problems {
        Some(problems) if !is_toml => Err(problems),
        problems => Ok(Loaded {
            config,
            left_out,
            problems,
        }),
    }
}

/// What becomes of an endpoint whose table can be read and has a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsound {
    /// It is not in the configuration.
    LeftOut,
    /// It is in the configuration, for `hopend doctor` to look at. It must not be served.
    Shown,
}

/// Whatever is not valid is reported and left out.
fn config(root: &Table<'_>, accounts: &Accounts<'_>, unsound: Unsound) -> Config {
    root.only(KEYS);
    let mut claims = Claims::default();
    let environments = environment::read_all(root);
    let users = user::read_all(root, accounts);
    let known = Known {
        environments: &environments,
        users: &users,
    };
    let mut endpoints = endpoint::read_all(root, &known, &mut claims);
    let daemon = daemon::read(root, &mut claims, accounts);
    if unsound == Unsound::LeftOut {
        endpoints.settle(root.source);
    }
    if root.lacks("endpoint") {
        whole_file(
            root,
            None,
            "endpoint",
            "there is none",
            "add a table [[endpoint]] with name, listen, and cluster or connect",
        );
    }
    if root.lacks("user") {
        whole_file(
            root,
            None,
            "user",
            "there is none, so nobody could use an endpoint",
            "add a table [[user]] with name and os_user",
        );
    }
    Config {
        daemon,
        environments: environments.into_valid(),
        users: users.named.into_valid(),
        endpoints: endpoints.into_valid(),
        files: root.source.named(),
        notices: root.source.notices(),
    }
}

fn whole_file(root: &Table<'_>, line: Option<usize>, key: &str, what: &str, remedy: &str) {
    root.source.add(
        Basis::AbsentInFile,
        Problem {
            line,
            key: key.to_owned(),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
            reach: Reach::Daemon,
        },
    );
}

/// Nobody but root and hopend's account may change the file; one that holds a password hash, or a
/// value for a login command, is to be read by its owner and group only.
fn protected(root: &Table<'_>, path: &Path) {
    match file_access::check(path, Protection::FromChange) {
        Ok(()) => {}
        // It has been read.
        Err(FileAccessError::Unseen { .. }) => return,
        Err(exposed) => {
            return whole_file(root, None, "", &exposed.what(), &exposed.remedy());
        }
    }
    let users = root.get("user").and_then(|users| users.raw().as_array());
    let hash = users
        .into_iter()
        .flat_map(|users| users.iter())
        .find_map(|user| user.get_ref().get("password"));
    let endpoints = root.get("endpoint");
    let endpoints = endpoints.and_then(|endpoints| endpoints.raw().as_array());
    let value = endpoints
        .into_iter()
        .flat_map(|endpoints| endpoints.iter())
        .filter_map(|endpoint| endpoint.get_ref().get("login")?.get_ref().get("env"))
        .filter_map(|env| env.get_ref().as_table())
        .flat_map(|env| env.values())
        .find(|value| value.get_ref().is_str());
    let Some(hash) = hash.or(value) else { return };
    if let Err(FileAccessError::Readable { mode, .. }) =
        file_access::check(path, Protection::FromChangeAndReading)
    {
        let line = root.source.line(hash.span().start);
        let what = format!(
            "this configuration file holds secrets and is open to every account (mode {mode:04o})"
        );
        let remedy = format!("chmod o-rwx {}", path.display());
        whole_file(root, Some(line), "", &what, &remedy);
    }
}
