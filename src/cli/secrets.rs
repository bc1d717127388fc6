//! Passwords that the user types, or that standard input supplies.

use std::io::{self, BufRead, IsTerminal};

use secret::Secret;

/// Asks for a password at the terminal without showing it, or reads one line of standard input.
pub(super) fn read_password() -> io::Result<Secret> {
    if io::stdin().is_terminal() {
        prompt("Password: ")
    } else {
        read_line()
    }
}

/// Asks for a password at the terminal without showing it.
pub(super) fn prompt(text: &str) -> io::Result<Secret> {
    rpassword::prompt_password(text).map(Secret::from)
}

/// Reads a password from one line of standard input, without the line break.
pub(super) fn read_line() -> io::Result<Secret> {
    let mut line = zeroize::Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut line)?;
    Ok(Secret::from(line.trim_end_matches(['\r', '\n'])))
}
