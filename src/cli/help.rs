//! The texts of `--help` and of the man pages beside the options: descriptions, and sections of a heading
//! and indented lines.

use clap::CommandFactory;

use super::CommandLine;

/// The definition of the command line, with all help texts.
pub(super) fn command() -> clap::Command {
    let command = CommandLine::command()
        .long_about(ABOUT)
        .after_long_help(GENERAL)
        .subcommand_value_name("COMMAND");
    let command = DESCRIPTIONS.iter().fold(command, |command, description| {
        let SubcommandText { subcommand, text } = *description;
        command.mut_subcommand(subcommand, |subcommand| subcommand.long_about(text))
    });
    SECTIONS.iter().fold(command, |command, sections| {
        let SubcommandText { subcommand, text } = *sections;
        command.mut_subcommand(subcommand, |subcommand| subcommand.after_long_help(text))
    })
}

/// The description of hopend.
const ABOUT: &str = "\
hopend gives q processes plain hopen endpoints, on their own machine, for kdb+ that is behind IAM, TLS \
and credentials that expire. It identifies the client by the account that the kernel names, by a password \
or by a certificate. It keeps that user's signed connection string of Amazon FinSpace fresh, dials the \
cluster over TLS, and relays q IPC. Its keepalives prevent idle handles from being cut.

One configuration file names the endpoints, the users and the kdb+ processes.";

/// The sections of `hopend --help`.
const GENERAL: &str = "\
Exit status:
  0   success
  64  the command line has an error
  69  a service or a resource is unavailable
  70  hopend has a fault
  77  AWS, kdb+ or this host does not permit it
  78  the configuration has an error

Files:
  /etc/hopend/hopend.toml    the configuration, unless --config names another file
  /run/hopend/control        the control socket of the daemon ([daemon] control)
  /var/log/hopend/audit.log  audit lines, if [daemon] audit names this file

Environment:
  AWS_*  read by the AWS SDK, for environments of the configuration without a profile

Examples:
  hopend check && hopend run
  hopend policy --ask";

/// A help text of a subcommand.
struct SubcommandText {
    subcommand: &'static str,
    text: &'static str,
}

impl SubcommandText {
    const fn new(subcommand: &'static str, text: &'static str) -> Self {
        Self { subcommand, text }
    }
}

/// The sections of each subcommand's help.
const SECTIONS: &[SubcommandText] = &[
    SubcommandText::new(
        "run",
        "\
Signals:
  SIGHUP           reload the configuration; an error affects only the part that it is in
  SIGTERM, SIGINT  stop accepting, wait for outstanding answers, then exit; a second signal exits at once

Environment:
  NOTIFY_SOCKET, WATCHDOG_USEC  from systemd: hopend reports readiness, reloads and its end, and feeds the watchdog
  LISTEN_FDS, LISTEN_FDNAMES    from systemd: sockets that hopend uses instead of binding their addresses
  CREDENTIALS_DIRECTORY         from systemd: the folder for \"$CREDENTIALS_DIRECTORY/...\" in the configuration

Examples:
  hopend run
  hopend run --config hopend.toml --log-level debug
  systemctl reload hopend",
    ),
    SubcommandText::new(
        "check",
        "\
Examples:
  hopend check
  hopend check --config hopend.toml && systemctl reload hopend",
    ),
    #[cfg(feature = "demo")]
    SubcommandText::new("demo", super::demo::EXAMPLES),
    #[cfg(feature = "demo")]
    SubcommandText::new("sim", super::demo::sim::EXAMPLES),
    SubcommandText::new(
        "status",
        "Examples:\n  hopend status\n  hopend status --watch\n  hopend status --json",
    ),
    SubcommandText::new(
        "kill",
        "Examples:\n  hopend kill 28609200017\n  hopend kill --user alice\n  hopend kill --user alice --endpoint hdb",
    ),
    SubcommandText::new(
        "clusters",
        "\
Examples:
  hopend clusters
  hopend clusters --environment prod --user alice --json",
    ),
    SubcommandText::new(
        "nodes",
        "\
Examples:
  hopend nodes hdb-cluster
  hopend nodes hdb-cluster --user alice --json",
    ),
    SubcommandText::new(
        "connection-string",
        "Examples:\n  hopend connection-string --user alice --cluster hdb-cluster",
    ),
    SubcommandText::new("doctor", super::doctor::EXAMPLES),
    SubcommandText::new("policy", super::policy::EXAMPLES),
    SubcommandText::new(
        "hash-password",
        "\
Examples:
  hopend hash-password
  hopend hash-password < alice.password",
    ),
    SubcommandText::new(
        "completions",
        "\
Examples:
  hopend completions bash > /usr/share/bash-completion/completions/hopend
  hopend completions zsh > /usr/share/zsh/site-functions/_hopend
  hopend completions fish > ~/.config/fish/completions/hopend.fish",
    ),
    SubcommandText::new(
        "man",
        "\
Examples:
  hopend man | man -l -
  hopend man --dir /usr/local/share/man/man1",
    ),
];

/// The descriptions of subcommands that need more than one line.
const DESCRIPTIONS: &[SubcommandText] = &[
    #[cfg(feature = "demo")]
    SubcommandText::new("sim", super::demo::sim::ABOUT),
    SubcommandText::new("doctor", super::doctor::ABOUT),
    SubcommandText::new("policy", super::policy::ABOUT),
    SubcommandText::new(
        "hash-password",
        "\
Make a hash for `password` of a [[user]].

hopend asks for the password twice at a terminal, or reads one line of standard input. The password is \
never an argument, because other accounts can see the arguments of a process.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_its_examples_and_they_can_be_typed() {
        let command = command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            let text = subcommand.get_after_long_help();
            let text = text.unwrap_or_else(|| panic!("no examples of {name} in src/cli/help.rs"));
            let text = text.to_string();
            let (_, examples) = text.split_once("Examples:\n").unwrap();
            let own = format!("hopend {name}");
            assert!(examples.contains(&own), "{name}: {examples}");
            for line in examples.lines() {
                let words = line
                    .split_whitespace()
                    .take_while(|w| !"<>|&&\\".contains(w));
                let words: Vec<_> = words.collect();
                if words[0] == "hopend" {
                    let typed = command.clone().try_get_matches_from(&words);
                    assert!(typed.is_ok(), "{line}: {}", typed.unwrap_err());
                }
            }
        }
    }
}
