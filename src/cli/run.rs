//! `hopend run`.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{ConfigArgument, Exit, LogArgument, print_error, runtime, signals, start_log};
use crate::config::{self, AccountDatabase, Config, MachineMemory, PartialConfig};
use crate::daemon::app::{self, ProcessContext};
use crate::daemon::confine::{self, Confinement};
use crate::listener::PassedSockets;

/// How long the start waits for the account database in all. After that, hopend leaves out the users whose
/// accounts are unknown, and adds them once it knows the accounts.
const ACCOUNTS_LIMIT: Duration = Duration::from_secs(5);

/// Arguments of `hopend run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    log: LogArgument,
}

pub(super) fn run(arguments: &RunArguments) -> Exit {
    match serve(arguments) {
        Ok(()) => Exit::Ok,
        Err(exit) => exit,
    }
}

/// Serves until a signal stops the daemon. Prints every error.
fn serve(arguments: &RunArguments) -> Result<(), Exit> {
    // hopend forbids core dumps before it reads any secret.
    let dumps = confine::forbid_dumps();
    let path = &arguments.config.config;
    let accounts = AccountDatabase::system();
    let files = load_without_accounts(path, &accounts)?;
    let passed_sockets =
        PassedSockets::from_environment().map_err(|error| fail(Exit::Configuration, error))?;
    // The confinement forbids the files of the control group, so hopend reads them first.
    let machine = MachineMemory::read();
    // hopend confines itself before any other thread starts, because threads inherit the confinement of
    // their parent.
    let confinement =
        Confinement::enter(&files, path).map_err(|error| fail(Exit::Unavailable, error))?;
    let loaded = load(path, &accounts)?;
    // The file may have changed since the first load.
    confinement
        .covers(&loaded.config)
        .map_err(|error| fail(Exit::Unavailable, error))?;
    let log = start_log(loaded.config.daemon.log, &arguments.log)?;
    if let Err(error) = dumps {
        tracing::warn!(
            "other processes of this account and core files can read hopend's memory: {error}. Fix: allow \
             prctl and setrlimit, or set LimitCORE=0 in the service."
        );
    }
    tracing::info!("{confinement}");
    let given = ProcessContext {
        passed_sockets,
        confinement,
        accounts,
        lost_log_lines: log.lost(),
        machine,
    };
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let orders = signals::orders()?;
        Ok::<_, io::Error>(app::run(path, loaded, given, orders).await)
    });
    // Tasks that still run have ignored the order to end, so hopend does not wait for them.
    runtime.shutdown_background();
    match served {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            log.complain(format_args!("hopend: {error}"));
            Err(Exit::Unavailable)
        }
        Err(error) => {
            log.complain(format_args!("hopend: cannot receive signals: {error}"));
            Err(Exit::Software)
        }
    }
}

/// Loads the configuration for the confinement, which depends on the files that it names, and not on
/// accounts. Confined threads query the account database later.
fn load_without_accounts(path: &Path, accounts: &AccountDatabase) -> Result<Config, Exit> {
    let no_lookup = |_: &str| Err(io::ErrorKind::WouldBlock.into());
    match config::load_to_serve(path, &no_lookup, &[]) {
        Ok(loaded) => Ok(loaded.config),
        Err(problems) => {
            // The daemon does not start, so the second load may ask for accounts. It reports their errors, too.
            let all = config::load_to_serve(path, &accounts.within(ACCOUNTS_LIMIT), &[]).err();
            print_error(all.unwrap_or(problems));
            Err(Exit::Configuration)
        }
    }
}

fn load(path: &Path, accounts: &AccountDatabase) -> Result<PartialConfig, Exit> {
    config::load_to_serve(path, &accounts.within(ACCOUNTS_LIMIT), &[]).map_err(|problems| {
        print_error(problems);
        Exit::Configuration
    })
}

/// Prints an error and returns the exit code.
fn fail(exit: Exit, error: impl fmt::Display) -> Exit {
    print_error(format_args!("hopend: {error}"));
    exit
}
