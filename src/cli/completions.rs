//! `hopend completions`.

use clap_complete::Shell;

use super::{Exit, help, say};

/// Arguments of `hopend completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let mut script = Vec::new();
    let mut command = help::command();
    clap_complete::generate(arguments.shell, &mut command, "hopend", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Exit::Ok
}
