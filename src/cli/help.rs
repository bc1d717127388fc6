//! What `--help` says after the options, and the man pages after them: for each subcommand sections
//! of a heading and indented lines.

use clap::CommandFactory;

use super::Command;

/// What it is.
const ABOUT: &str = "\
hopend gives q processes plain hopen endpoints, on their own machine, for kdb+ that is behind IAM, TLS \
and credentials that expire. It learns from the kernel or from a password who a client is, keeps that \
user's signed connection string of Amazon FinSpace fresh, dials the cluster over TLS, and relays q IPC \
with the keepalives that stop a handle from being cut.

One configuration file names the endpoints, the users and the kdb+ processes.";

/// Of the command itself.
const GENERAL: &str = "\
Exit status:
  0   it went well
  64  the command line is not right
  69  something that is needed can't be had
  70  a fault of hopend's own
  77  not allowed: by AWS, by kdb+, or to this account
  78  the configuration is not right

Files:
  /etc/hopend/hopend.toml    the configuration, where --config names no other
  /run/hopend/control        where a running daemon is asked ([daemon] control)
  /var/log/hopend/audit.log  audit lines ([daemon] audit has to name it)

Environment:
  AWS_*  of the AWS SDK, for an environment of the configuration that names no profile

Examples:
  hopend check && hopend run
  hopend policy --ask";

/// Of each subcommand.
const SUBCOMMANDS: &[(&str, &str)] = &[
    (
        "run",
        "\
Signals:
  SIGHUP           read the configuration again; with an error in it nothing changes
  SIGTERM, SIGINT  stop accepting, let what is outstanding finish, then end; a second one ends at once

Environment:
  NOTIFY_SOCKET, WATCHDOG_USEC  systemd's: told of readiness, reloads and the end, and fed while hopend turns
  LISTEN_FDS, LISTEN_FDNAMES    systemd's: sockets that are taken over in place of binding their addresses
  CREDENTIALS_DIRECTORY         systemd's: where \"$CREDENTIALS_DIRECTORY/...\" in the configuration leads

Examples:
  hopend run
  hopend run --config hopend.toml --log-level debug
  systemctl reload hopend",
    ),
    (
        "check",
        "\
Examples:
  hopend check
  hopend check --config hopend.toml && systemctl reload hopend",
    ),
    #[cfg(feature = "demo")]
    ("demo", super::demo::EXAMPLES),
    #[cfg(feature = "demo")]
    ("sim", super::demo::sim::EXAMPLES),
    (
        "status",
        "Examples:\n  hopend status\n  hopend status --watch\n  hopend status --json",
    ),
    (
        "kill",
        "Examples:\n  hopend kill 28609200017\n  hopend kill --user alice\n  hopend kill --user alice --endpoint hdb",
    ),
    (
        "clusters",
        "\
Examples:
  hopend clusters
  hopend clusters --environment prod --user alice --json",
    ),
    (
        "nodes",
        "\
Examples:
  hopend nodes hdb-cluster
  hopend nodes hdb-cluster --user alice --json",
    ),
    (
        "connection-string",
        "Examples:\n  hopend connection-string --user alice --cluster hdb-cluster",
    ),
    ("doctor", super::doctor::EXAMPLES),
    ("policy", super::policy::EXAMPLES),
    (
        "hash-password",
        "\
Examples:
  hopend hash-password
  hopend hash-password < alice.password",
    ),
    (
        "completions",
        "\
Examples:
  hopend completions bash > /usr/share/bash-completion/completions/hopend
  hopend completions zsh > /usr/share/zsh/site-functions/_hopend
  hopend completions fish > ~/.config/fish/completions/hopend.fish",
    ),
    (
        "man",
        "\
Examples:
  hopend man | man -l -
  hopend man --dir /usr/local/share/man/man1",
    ),
];

/// What more is said of some subcommands than one line.
const DESCRIPTIONS: &[(&str, &str)] = &[
    #[cfg(feature = "demo")]
    ("sim", super::demo::sim::ABOUT),
    ("doctor", super::doctor::ABOUT),
    ("policy", super::policy::ABOUT),
    (
        "hash-password",
        "\
Make a hash for `password` of a [[user]].

The password is asked for at a terminal, twice, or read from standard input as one line; it is never \
an argument, as arguments can be seen by other accounts.",
    ),
];

/// The command line with all that is said of it.
pub(super) fn command() -> clap::Command {
    let command = Command::command()
        .long_about(ABOUT)
        .after_long_help(GENERAL)
        .subcommand_value_name("COMMAND");
    let command = DESCRIPTIONS.iter().fold(command, |command, (name, text)| {
        command.mut_subcommand(name, |subcommand| subcommand.long_about(*text))
    });
    SUBCOMMANDS.iter().fold(command, |command, (name, text)| {
        command.mut_subcommand(name, |subcommand| subcommand.after_long_help(*text))
    })
}

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
