//! `hopend completions`.

use clap_complete::Shell;

use super::{Exit, help, print_line};

/// Arguments of `hopend completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionsArguments) -> Exit {
    let mut script = Vec::new();
    let mut command = help::command();
    clap_complete::generate(arguments.shell, &mut command, "hopend", &mut script);
    print_line(String::from_utf8_lossy(&script).trim_end());
    Exit::Ok
}
