//! The command line: one file for each subcommand. Each subcommand returns an exit code.

mod check;
mod completions;
mod daemon;
#[cfg(feature = "demo")]
mod demo;
mod discover;
mod doctor;
mod failure;
mod hash_password;
mod help;
mod kill;
mod man;
mod overview;
mod policy;
mod report;
mod run;
mod screen;
mod secrets;
mod signals;
mod status;
mod table;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{FromArgMatches, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::LogFormat;
use crate::primitives::log::{self, ProcessLog};

/// Runs the command line and returns the exit code. All errors have been printed by then.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = help::command().try_get_matches_from(arguments);
    let command = match matches.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(command) => command,
        Err(error) => {
            // clap returns the texts of --help and --version as errors, too. They go to standard output.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            let _ = error.print();
            return exit.code().into();
        }
    };
    let exit = match command.subcommand {
        Subcommands::Run(arguments) => run::run(&arguments),
        Subcommands::Check(arguments) => check::run(&arguments),
        #[cfg(feature = "demo")]
        Subcommands::Demo(arguments) => demo::run(&arguments),
        #[cfg(feature = "demo")]
        Subcommands::Sim(arguments) => demo::sim::run(&arguments),
        Subcommands::Status(arguments) => status::run(&arguments),
        Subcommands::Kill(arguments) => kill::run(&arguments),
        Subcommands::Doctor(arguments) => doctor::run(&arguments),
        Subcommands::Clusters(arguments) => discover::clusters(&arguments),
        Subcommands::Nodes(arguments) => discover::nodes(&arguments),
        Subcommands::ConnectionString(arguments) => discover::connection_string(&arguments),
        Subcommands::Policy(arguments) => policy::run(&arguments),
        Subcommands::HashPassword(arguments) => hash_password::run(&arguments),
        Subcommands::Completions(arguments) => completions::run(&arguments),
        Subcommands::Man(arguments) => man::run(&arguments),
    };
    exit.code().into()
}

/// The exit codes of hopend, from sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Success.
    Ok,
    /// An error in the command line.
    Usage,
    /// A service or a resource that the command needs is unavailable.
    Unavailable,
    /// A fault in hopend.
    Software,
    /// AWS, kdb+ or this host does not permit the command.
    NoPermission,
    /// An error in the configuration.
    Configuration,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::NoPermission => 77,
            Self::Configuration => 78,
        }
    }
}

/// Plain hopen endpoints for kdb+ behind IAM, TLS and credentials that expire.
#[derive(Debug, Parser)]
#[command(name = "hopend", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    subcommand: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve the endpoints of a configuration. SIGHUP reloads it. SIGTERM and SIGINT drain; a second
    /// one ends the daemon at once
    Run(run::RunArguments),
    /// Read a configuration as `run` does, without binding or connecting, and print every error
    Check(check::CheckArguments),
    /// Try hopend without AWS and without kdb+: a simulated FinSpace and a daemon in one process
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
    /// Run a simulated FinSpace with test doubles of kdb+, and write a configuration for it
    #[cfg(feature = "demo")]
    Sim(demo::sim::SimArguments),
    /// Show the state of a running daemon: endpoints, sessions, credentials, the last errors
    Status(status::StatusArguments),
    /// End one session of a running daemon, or all sessions of a user or an endpoint
    Kill(kill::KillArguments),
    /// Check everything between a q process and kdb+, stage by stage, and say what to change
    Doctor(doctor::DoctorArguments),
    /// List the clusters of an environment
    Clusters(discover::ClustersArguments),
    /// List the nodes of a cluster
    Nodes(discover::NodesArguments),
    /// Print a user's signed connection string for a cluster, for debugging. It is a secret
    ConnectionString(discover::StringArguments),
    /// Print the least IAM policies that the configuration needs
    Policy(policy::PolicyArguments),
    /// Make a hash for `password` of a [[user]]
    HashPassword(hash_password::HashPasswordArguments),
    /// Print a script that completes hopend's command line in a shell
    Completions(completions::CompletionsArguments),
    /// Print the manual page, or write one for each subcommand
    Man(man::ManArguments),
}

/// The option of subcommands that read a configuration.
#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/hopend/hopend.toml")]
    config: PathBuf,
}

/// The option of subcommands that write a log.
#[derive(Debug, clap::Args)]
struct LogArgument {
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

/// Prints a line to standard output. Ignores errors, such as a pipe whose reader has exited.
fn print_line(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a line to standard error. Ignores errors.
fn print_error(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether the user permits colours on a terminal (see <https://no-color.org>).
fn colours_permitted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Starts the log of a subcommand that serves. Keep the value until the process ends, because its drop
/// writes the last lines.
fn start_log(format: LogFormat, arguments: &LogArgument) -> Result<ProcessLog, Exit> {
    log::start(format, arguments.log_level).map_err(|error| {
        print_error(format_args!(
            "hopend: no log: {error}. Fix: raise the limits of threads and file descriptors."
        ));
        Exit::Unavailable
    })
}

/// Starts the tokio runtime of a subcommand.
fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            print_error(format_args!("hopend: no runtime: {error}"));
            Exit::Software
        })
}

/// Parses a duration of the command line, such as `350s`. Refuses zero.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let help = || "write a time such as 350s or 15m".to_owned();
    let time: jiff::SignedDuration = text.parse().map_err(|_| help())?;
    Duration::try_from(time)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(help)
}
