//! `login` of an endpoint that is not FinSpace's.

use super::Login;
use super::reader::Value;

pub(super) const KEYS: &[&str] = &["user", "password_file", "command"];

const HOW: &str =
    "write { user = \"…\", password_file = \"…\" }, { command = [\"…\"] } or \"client\"";

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
        return read_command(&command).map(Login::Command);
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
