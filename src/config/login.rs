//! `login` of an endpoint that is not FinSpace's.

use super::reader::Value;
use super::{Login, LoginCommand, LoginValue, LoginVariable};
use secret::Secret;

pub(super) const KEYS: &[&str] = &["user", "password_file", "command", "env"];

const HOW: &str =
    "write { user = \"…\", password_file = \"…\" }, { command = [\"…\"] } or \"client\"";
/// For a value of `env`.
const VARIABLE: &str = "write TOKEN = \"…\", or TOKEN = { file = \"/etc/hopend/token\" }";
/// What hopend sets itself.
const OWN: &[&str] = &["HOPEND_ENDPOINT", "HOPEND_USER"];

/// Reads `{ user, password_file }`, `{ command }` or `"client"`.
pub(super) fn read(value: &Value<'_>) -> Option<Login> {
    if value.raw().is_str() {
        return value.word(&[("client", ())]).map(|()| Login::Client);
    }
    if !value.raw().is_table() {
        value.wrong_type("a table or \"client\"", HOW);
        return None;
    }
    let table = value.table(HOW)?;
    table.only(KEYS);
    if let Some(command) = table.get("command") {
        for other in ["user", "password_file"] {
            if let Some(value) = table.get(other) {
                value.problem("stands beside a command", "leave one of the two");
            }
        }
        let env = match table.get("env") {
            Some(env) => read_env(&env),
            None => Some(Vec::new()),
        };
        let argv = read_command(&command);
        return Some(Login::Command(LoginCommand {
            argv: argv?,
            env: env?,
        }));
    }
    if let Some(env) = table.get("env") {
        env.problem("has no command that it is for", "remove it");
    }
    let user = table.required("user", HOW).and_then(|user| {
        user.made_of(
            0..=256,
            |c| c != ':' && c != '\0',
            "write the q user, without a colon",
        )
    });
    let password_file = table.required("password_file", HOW).and_then(|file| {
        let Some((path, bytes)) = file.secret_file() else {
            // That is reported; where kdb+ is can be said all the same.
            return file
                .raw()
                .as_str()
                .and_then(|text| file.source.resolve(text).ok());
        };
        // Only the first line counts.
        if bytes
            .first()
            .is_none_or(|byte| matches!(byte, b'\r' | b'\n'))
        {
            file.problem("the file's first line is empty", "write the password on it");
            return None;
        }
        Some(path)
    });
    Some(Login::Fixed {
        user: user?,
        password_file: password_file?,
    })
}

/// The variables for a command. No value is ever repeated.
fn read_env(value: &Value<'_>) -> Option<Vec<LoginVariable>> {
    let table = value.table(VARIABLE)?;
    // Every one of them, so that each mistake is told.
    let variables: Vec<_> = table
        .entries()
        .map(|(name, value)| read_variable(name, &value))
        .collect();
    variables.into_iter().collect()
}

fn read_variable(name: &str, value: &Value<'_>) -> Option<LoginVariable> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(fine) || !name.starts_with(|c: char| !c.is_ascii_digit()) {
        value.problem(
            "is not the name of an environment variable",
            "write letters, digits and underscores, and no digit first",
        );
        return None;
    }
    if OWN.contains(&name) {
        value.problem("is set by hopend itself", "remove it");
        return None;
    }
    let value = if value.raw().is_table() {
        let table = value.table(VARIABLE)?;
        table.only(&["file"]);
        let file = table.required("file", VARIABLE)?;
        LoginValue::File(file.secret_file()?.0)
    } else if value.raw().is_str() {
        let text = value.text()?;
        if text.contains('\0') {
            value.problem("holds a NUL", "leave it out");
            return None;
        }
        LoginValue::Text(Secret::from(text))
    } else {
        value.wrong_type("a text or a table", VARIABLE);
        return None;
    };
    Some(LoginVariable {
        name: name.to_owned(),
        value,
    })
}

/// The arguments are never repeated: one of them may be a token.
fn read_command(value: &Value<'_>) -> Option<Vec<String>> {
    let words = value.array()?;
    let Some(program) = words.first() else {
        value.problem("is empty", "write the program's path and its arguments");
        return None;
    };
    let texts: Vec<Option<&str>> = words.iter().map(Value::text).collect();
    program.program()?;
    let mut command = Vec::new();
    for (word, text) in words.iter().zip(texts) {
        let text = text?;
        if text.contains('\0') {
            word.problem("holds a NUL", "leave it out");
            return None;
        }
        command.push(text.to_owned());
    }
    Some(command)
}
