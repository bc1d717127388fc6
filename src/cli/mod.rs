//! The command line: one file a subcommand, each with its exit code.

mod check;
mod completions;
mod daemon;
#[cfg(feature = "demo")]
mod demo;
mod discover;
mod doctor;
mod hash_password;
mod help;
mod kill;
mod man;
mod overview;
mod policy;
mod run;
mod screen;
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

/// Exit codes of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It went well.
    Ok,
    /// The command line is not right.
    Usage,
    /// Something that is needed can't be had.
    Unavailable,
    /// A fault of hopend's own.
    Software,
    /// Not allowed.
    NoPermission,
    /// The configuration is not right.
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
struct Command {
    #[command(subcommand)]
    subcommand: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve the endpoints of a configuration. SIGHUP reloads it; SIGTERM and SIGINT drain, a second
    /// one ends at once
    Run(run::Arguments),
    /// Read a configuration as `run` would, without binding or calling out, and print every error
    Check(check::Arguments),
    /// Try it without AWS and without kdb+: a simulated FinSpace and a daemon in one process
    #[cfg(feature = "demo")]
    Demo(demo::Arguments),
    /// Run a simulated FinSpace with kdb+ test doubles, and write a configuration for it
    #[cfg(feature = "demo")]
    Sim(demo::sim::Arguments),
    /// Show what a running daemon does: endpoints, sessions, credentials, the last errors
    Status(status::Arguments),
    /// End one session of a running daemon
    Kill(kill::Arguments),
    /// Find out what stands between a q process here and kdb+ there, stage by stage, with what to do
    Doctor(doctor::Arguments),
    /// List the clusters of an environment
    Clusters(discover::ClustersArguments),
    /// List the nodes of a cluster
    Nodes(discover::NodesArguments),
    /// Print a user's signed connection string for a cluster, for debugging. It is a secret
    ConnectionString(discover::StringArguments),
    /// Print the least IAM policies that the configuration needs
    Policy(policy::Arguments),
    /// Make a hash for `password` of a [[user]]
    HashPassword(hash_password::Arguments),
    /// Print a script that completes hopend's command line in a shell
    Completions(completions::Arguments),
    /// Print the manual page, or write one for each subcommand
    Man(man::Arguments),
}

/// `--config`, wherever one is read.
#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/hopend/hopend.toml")]
    config: PathBuf,
}

/// `--log-level`, wherever something is logged.
#[derive(Debug, clap::Args)]
struct LogArgument {
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

/// Runs the command line and says how it went. Errors have been printed.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = help::command().try_get_matches_from(arguments);
    let command = match matches.and_then(|matches| Command::from_arg_matches(&matches)) {
        Ok(command) => command,
        Err(error) => {
            // Help and version are asked for; everything else is a mistake.
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

/// Prints a line of output. A reader that has gone away is no error.
fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a line for people to see beside the output.
fn complain(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The log of a subcommand that serves. Keep it until the end of the process: it writes the last lines
/// when it is dropped.
fn start_log(format: LogFormat, arguments: &LogArgument) -> Result<ProcessLog, Exit> {
    log::start(format, arguments.log_level).map_err(|error| {
        complain(format_args!(
            "hopend: no log: {error}. Fix: raise the limits of threads and file descriptors."
        ));
        Exit::Unavailable
    })
}

/// The runtime of a subcommand that serves.
fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            complain(format_args!("hopend: no runtime: {error}"));
            Exit::Software
        })
}

/// Reads a time of the command line, such as `350s`. Zero is refused.
fn time(text: &str) -> Result<Duration, String> {
    let help = || "write a time such as 350s or 15m".to_owned();
    let time: jiff::SignedDuration = text.parse().map_err(|_| help())?;
    Duration::try_from(time)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(help)
}
