//! `hopend hash-password`.

use std::io::IsTerminal;

use super::{Exit, print_error, print_line, secrets};
use crate::identity::password;
use secret::Secret;

/// Arguments of `hopend hash-password`.
#[derive(Debug, clap::Args)]
pub(super) struct HashPasswordArguments {}

pub(super) fn run(_arguments: &HashPasswordArguments) -> Exit {
    let password = match read_new_password() {
        Ok(password) => password,
        Err(cause) => {
            print_error(format_args!("hopend hash-password: {cause}"));
            return Exit::Usage;
        }
    };
    match password::hash(&password) {
        Ok(hash) => {
            print_line(hash);
            Exit::Ok
        }
        Err(error) => {
            print_error(format_args!("hopend hash-password: {error}"));
            Exit::Software
        }
    }
}

/// Reads a password: twice at a terminal, once from standard input. Refuses an empty one.
fn read_new_password() -> Result<Secret, String> {
    let io_error = |error: std::io::Error| error.to_string();
    let password = if std::io::stdin().is_terminal() {
        let first = secrets::prompt("Password: ").map_err(io_error)?;
        if secrets::prompt("Once more: ").map_err(io_error)? != first {
            return Err("the two passwords differ".into());
        }
        first
    } else {
        secrets::read_line().map_err(io_error)?
    };
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    Ok(password)
}
