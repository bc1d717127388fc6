//! `hopend hash-password`.

use std::io::{BufRead, IsTerminal};

use super::{Exit, complain, say};
use crate::identity::password;
use secret::Secret;

/// Arguments of `hopend hash-password`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: &Arguments) -> Exit {
    let password = match read() {
        Ok(password) => password,
        Err(why) => {
            complain(format_args!("hopend hash-password: {why}"));
            return Exit::Usage;
        }
    };
    match password::hash(&password) {
        Ok(hash) => {
            say(hash);
            Exit::Ok
        }
        Err(error) => {
            complain(format_args!("hopend hash-password: {error}"));
            Exit::Software
        }
    }
}

fn read() -> Result<Secret, String> {
    let stdin = std::io::stdin();
    let password = if stdin.is_terminal() {
        let ask = |prompt| {
            rpassword::prompt_password(prompt)
                .map(Secret::from)
                .map_err(|error| error.to_string())
        };
        let first = ask("Password: ")?;
        if ask("Once more: ")? != first {
            return Err("the two differ".into());
        }
        first
    } else {
        let mut line = zeroize::Zeroizing::new(String::new());
        stdin
            .lock()
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        Secret::from(line.trim_end_matches(['\r', '\n']))
    };
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    Ok(password)
}
