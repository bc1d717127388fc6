//! Checks which accounts can change or read the configuration file itself.

use std::path::Path;

use base::file_access::{self, FileAccessError, Protection};
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostics::{Diagnostics, Evidence};
use super::document::TomlTable;
use crate::config::problem::Problem;
use crate::config::problem_scope::ProblemScope;

/// Reports if an account other than root and hopend's own can change the file at `path`. If the file
/// contains a secret, only its owner and its group may read it.
pub(super) fn check(root: &TomlTable<'_>, path: &Path) {
    let diagnostics = root.diagnostics();
    match file_access::check(path, Protection::FromChange) {
        Ok(()) => {}
        // The file has been read already, so its path was accessible a moment ago.
        Err(FileAccessError::Inaccessible { .. }) => return,
        Err(exposed) => {
            return report(diagnostics, None, exposed.message(), exposed.remedy());
        }
    }
    let Some(secret) = first_secret(root) else {
        return;
    };
    if let Err(FileAccessError::Readable { mode, .. }) =
        file_access::check(path, Protection::FromChangeAndReading)
    {
        let line = diagnostics.line(secret.span().start);
        let message = format!(
            "this configuration file holds secrets and is open to every account (mode {mode:04o})"
        );
        let remedy = format!("chmod o-rwx {}", path.display());
        report(diagnostics, Some(line), message, remedy);
    }
}

/// The first password hash of a user, or else the first variable of a login command with its value in the
/// file.
fn first_secret<'a>(root: &TomlTable<'a>) -> Option<&'a Spanned<DeValue<'a>>> {
    let hash = elements(root, "user").find_map(|user| user.get_ref().get("password"));
    hash.or_else(|| {
        elements(root, "endpoint")
            .filter_map(|endpoint| endpoint.get_ref().get("login")?.get_ref().get("env"))
            .filter_map(|env| env.get_ref().as_table())
            .flat_map(|env| env.values())
            .find(|value| value.get_ref().is_str())
    })
}

/// The elements of the array `key`. Empty if the key is missing or is no array.
fn elements<'a>(root: &TomlTable<'a>, key: &str) -> impl Iterator<Item = &'a Spanned<DeValue<'a>>> {
    let array = root.get(key).and_then(|value| value.raw().as_array());
    array.into_iter().flat_map(|array| array.iter())
}

fn report(diagnostics: &Diagnostics<'_>, line: Option<usize>, message: String, remedy: String) {
    let problem = Problem {
        line,
        key: String::new(),
        message,
        remedy,
        reach: ProblemScope::Daemon,
    };
    diagnostics.add(Evidence::AbsentFromFile, problem);
}
