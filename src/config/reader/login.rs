//! Reads the `login` key of an endpoint outside FinSpace.

use std::path::PathBuf;

use secret::Secret;

use super::document::{Choice, TomlTable, TomlValue};
use super::file::SecretFile;
use super::reported::Reported;
use crate::config::login::{Login, LoginCommand, LoginValue, LoginVariable};

pub(in crate::config) const KEYS: &[&str] = &["user", "password_file", "command", "env"];

const FORM: &str =
    "write { user = \"…\", password_file = \"…\" }, { command = [\"…\"] } or \"client\"";
/// The form of a value of `env`.
const VARIABLE_FORM: &str = "write TOKEN = \"…\", or TOKEN = { file = \"/etc/hopend/token\" }";
/// The variables that hopend sets for each login command.
const RESERVED_VARIABLES: &[&str] = &["HOPEND_ENDPOINT", "HOPEND_USER"];

/// Reads `{ user, password_file }`, `{ command, env }` or `"client"`.
pub(super) fn read(value: &TomlValue<'_>) -> Result<Login, Reported> {
    if value.raw().is_str() {
        value.one_of(&[Choice::new("client", ())])?;
        return Ok(Login::Client);
    }
    if !value.raw().is_table() {
        return Err(value.wrong_type("a table or \"client\"", FORM));
    }
    let table = value.table(FORM)?;
    table.reject_keys_except(KEYS);
    match table.get("command") {
        Some(command) => from_command(&table, &command),
        None => fixed(&table),
    }
}

fn from_command(table: &TomlTable<'_>, command: &TomlValue<'_>) -> Result<Login, Reported> {
    for other in ["user", "password_file"] {
        if let Some(value) = table.get(other) {
            value.problem("cannot be combined with command", "leave one of the two");
        }
    }
    let env = table.with_default("env", Vec::new(), environment_variables);
    let argv = arguments(command);
    Ok(Login::Command(LoginCommand {
        argv: argv?,
        env: env?,
    }))
}

fn fixed(table: &TomlTable<'_>) -> Result<Login, Reported> {
    if let Some(env) = table.get("env") {
        env.problem("has no effect without command", "remove it");
    }
    let user = table.required("user", FORM).and_then(|user| {
        user.restricted_text(
            0..=256,
            |c| c != ':' && c != '\0',
            "write the q user, without a colon",
        )
    });
    let password_file = table.required("password_file", FORM).and_then(|value| {
        let SecretFile { path, content } = match value.secret_file() {
            Ok(file) => file,
            Err(reported) => return unreadable_password_file(&value).ok_or(reported),
        };
        // hopend uses only the first line of the file.
        let first_line_is_empty = content
            .first()
            .is_none_or(|byte| matches!(byte, b'\r' | b'\n'));
        if first_line_is_empty {
            return Err(value.problem("the file's first line is empty", "write the password on it"));
        }
        Ok(path)
    });
    Ok(Login::Fixed {
        user: user?,
        password_file: password_file?,
    })
}

/// The path of a password file whose error is reported already. `hopend doctor` examines the addresses of
/// the endpoint nevertheless, for which the login needs a path.
fn unreadable_password_file(value: &TomlValue<'_>) -> Option<PathBuf> {
    let text = value.raw().as_str()?;
    value.diagnostics().resolve(text).ok()
}

/// Reads `command`. An error does not repeat an argument, which may be a token.
fn arguments(value: &TomlValue<'_>) -> Result<Vec<String>, Reported> {
    let words = value.array()?;
    let Some(program) = words.first() else {
        return Err(value.problem("is empty", "write the program's path and its arguments"));
    };
    // hopend reads all values before it returns the first error, so that each error is reported.
    let texts: Vec<Result<&str, Reported>> = words.iter().map(TomlValue::text).collect();
    program.check_program()?;
    let mut arguments = Vec::new();
    for (word, text) in words.iter().zip(texts) {
        let text = text?;
        if text.contains('\0') {
            return Err(word.problem("contains a NUL character", "remove the character"));
        }
        arguments.push(text.to_owned());
    }
    Ok(arguments)
}

/// Reads `env`. An error does not repeat a value.
fn environment_variables(value: &TomlValue<'_>) -> Result<Vec<LoginVariable>, Reported> {
    let table = value.table(VARIABLE_FORM)?;
    // hopend reads all values before it returns the first error, so that each error is reported.
    let variables: Vec<Result<LoginVariable, Reported>> = table
        .entries()
        .map(|(name, value)| variable(name, &value))
        .collect();
    variables.into_iter().collect()
}

fn variable(name: &str, value: &TomlValue<'_>) -> Result<LoginVariable, Reported> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(is_allowed) || !name.starts_with(|c: char| !c.is_ascii_digit()) {
        return Err(value.problem(
            "is not the name of an environment variable",
            "write letters, digits and underscores, and no digit first",
        ));
    }
    if RESERVED_VARIABLES.contains(&name) {
        return Err(value.problem("is set by hopend itself", "remove it"));
    }
    let value = if value.raw().is_table() {
        let table = value.table(VARIABLE_FORM)?;
        table.reject_keys_except(&["file"]);
        let file = table.required("file", VARIABLE_FORM)?;
        LoginValue::File(file.secret_file()?.path)
    } else if value.raw().is_str() {
        let text = value.text()?;
        if text.contains('\0') {
            return Err(value.problem("contains a NUL character", "remove the character"));
        }
        LoginValue::Text(Secret::from(text))
    } else {
        return Err(value.wrong_type("a text or a table", VARIABLE_FORM));
    };
    Ok(LoginVariable {
        name: name.to_owned(),
        value,
    })
}
