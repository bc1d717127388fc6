//! The login that hopend presents to kdb+ outside FinSpace.

use std::path::PathBuf;

use secret::Secret;

/// The source of the q user and password for kdb+ that is not FinSpace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// One q user for all sessions.
    Fixed {
        /// The q user.
        user: String,
        /// The file with the password on its first line. hopend reads it for each dial.
        password_file: PathBuf,
    },
    /// A program that prints the login.
    Command(LoginCommand),
    /// The user and the password that the client gave to hopen.
    Client,
}

/// A program that prints a login.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginCommand {
    /// The program and its arguments. While the program runs, every account of the host can read them.
    pub argv: Vec<String>,
    /// Variables that hopend adds to its own environment for the program. Only root and hopend's account
    /// can read them.
    pub env: Vec<LoginVariable>,
}

/// An environment variable of a login command.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginVariable {
    /// The name of the variable.
    pub name: String,
    /// The source of its value.
    pub value: LoginValue,
}

/// The source of the value of a [`LoginVariable`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginValue {
    /// The configuration contains the value.
    Text(Secret),
    /// The value is the first line of this file. hopend reads it each time it runs the program.
    File(PathBuf),
}
