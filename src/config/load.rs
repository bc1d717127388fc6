//! The file as a whole.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::account::{Accounts, system_account};
use super::endpoint::{Claims, Known};
use super::file::open_to_others;
use super::problem::{Problem, Problems};
use super::reader::Table;
use super::source::{Basis, Source};
use super::{Config, daemon, endpoint, environment, user};

const KEYS: &[&str] = &["environment", "user", "endpoint", "daemon"];

/// Reads and checks a configuration file, and the files that it names.
///
/// # Errors
/// All problems at once.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = text(path)?;
    let mode = std::fs::metadata(path)
        .ok()
        .map(|metadata| metadata.permissions().mode());
    read(&text, path, &system_account, mode)
}

/// As [`load`], for whoever can make use of what is right although something is not: the tables that
/// are valid, and the problems of the others.
///
/// # Errors
/// The problems, where the text is no TOML and nothing can be said for certain.
pub fn load_in_part(path: &Path) -> Result<(Config, Option<Problems>), Problems> {
    let text = text(path)?;
    if DeTable::parse(&text).is_err() {
        return load(path).map(|config| (config, None));
    }
    let source = Source::new(&text, path);
    let (document, _) = DeTable::parse_recoverable(&text);
    let root = Table::root(&source, document.get_ref());
    let config = config(&root, &system_account);
    if let Ok(metadata) = std::fs::metadata(path) {
        closed(&root, metadata.permissions().mode(), path);
    }
    Ok((config, source.conclude(Some(())).err()))
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
    source.conclude(Some(control))
}

/// The text of the file.
fn text(path: &Path) -> Result<Zeroizing<String>, Problems> {
    let unreadable = |what: String, remedy: &str| {
        let problem = Problem {
            line: None,
            key: String::new(),
            what,
            remedy: remedy.to_owned(),
        };
        Problems::new(path, vec![problem])
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "create it, or name another with --config",
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

fn read(
    text: &str,
    file: &Path,
    accounts: &Accounts<'_>,
    mode: Option<u32>,
) -> Result<Config, Problems> {
    let mut source = Source::new(text, file);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        source.not_toml(error.span(), error.message());
    }
    let root = Table::root(&source, document.get_ref());
    let config = config(&root, accounts);
    if let Some(mode) = mode {
        closed(&root, mode, file);
    }
    source.conclude(Some(config))
}

/// Whatever is not valid is reported and left out: `conclude` then keeps the rest back.
fn config(root: &Table<'_>, accounts: &Accounts<'_>) -> Config {
    root.only(KEYS);
    let mut claims = Claims::default();
    let environments = environment::read_all(root);
    let users = user::read_all(root, accounts);
    let known = Known {
        environments: &environments,
        users: &users,
    };
    let endpoints = endpoint::read_all(root, &known, &mut claims);
    let daemon = daemon::read(root, &mut claims, accounts);
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
        users: users.into_valid(),
        endpoints: endpoints.into_valid(),
        files: root.source.named(),
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
        },
    );
}

/// A file that holds a password hash is to be read by its owner and group only.
fn closed(root: &Table<'_>, mode: u32, file: &Path) {
    let Some(invalid) = open_to_others(mode, "this configuration file", file) else {
        return;
    };
    let users = root.get("user").and_then(|users| users.raw().as_array());
    let hash = users
        .into_iter()
        .flat_map(|users| users.iter())
        .find_map(|user| user.get_ref().get("password"));
    if let Some(hash) = hash {
        let line = root.source.line(hash.span().start);
        whole_file(root, Some(line), "", &invalid.what, &invalid.remedy);
    }
}
