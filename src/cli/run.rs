//! `hopend run`.

use std::io;
use std::time::Duration;

use super::{ConfigArgument, Exit, LogArgument, complain, runtime, signals, start_log};
use crate::config::{self, AccountDatabase, MachineMemory};
use crate::daemon::app::{self, Given};
use crate::daemon::confine::{self, Confinement};
use crate::daemon::listener::Passed;

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
    // This comes before hopend reads any secret.
    let dumps = confine::forbid_dumps();
    let path = &arguments.config.config;
    // The confinement depends on the files in the configuration, and not on accounts. hopend asks the account
    // database later, from confined threads.
    let no_lookup = |_: &str| Err(io::ErrorKind::WouldBlock.into());
    let accounts = AccountDatabase::system();
    let files = match config::load_to_serve(path, &no_lookup, &[]) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            // The daemon does not start, so the second load may ask for accounts. It reports their errors, too.
            let all = config::load_to_serve(path, &accounts.within(ACCOUNTS_LIMIT), &[]).err();
            complain(all.unwrap_or(problems));
            return Exit::Configuration;
        }
    };
    let passed = match Passed::from_environment() {
        Ok(passed) => passed,
        Err(error) => {
            complain(format_args!("hopend: {error}"));
            return Exit::Configuration;
        }
    };
    // The confinement forbids the files of the control group, so hopend reads them first.
    let machine = MachineMemory::look();
    // This comes before any other thread starts, as threads inherit the confinement of their parent.
    let confinement = match Confinement::enter(&files, path) {
        Ok(confinement) => confinement,
        Err(error) => {
            complain(format_args!("hopend: {error}"));
            return Exit::Unavailable;
        }
    };
    let loaded = match config::load_to_serve(path, &accounts.within(ACCOUNTS_LIMIT), &[]) {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(problems);
            return Exit::Configuration;
        }
    };
    // The file may have changed since the first load.
    if let Err(not_covered) = confinement.covers(&loaded.config) {
        complain(format_args!("hopend: {not_covered}"));
        return Exit::Unavailable;
    }
    let log = match start_log(loaded.config.daemon.log, &arguments.log) {
        Ok(log) => log,
        Err(exit) => return exit,
    };
    if let Err(error) = dumps {
        tracing::warn!(
            "other processes of this account and core files can read hopend's memory: {error}. Fix: allow prctl \
             and setrlimit, or set LimitCORE=0 in the service."
        );
    }
    tracing::info!("{confinement}");
    let given = Given {
        passed,
        confinement,
        accounts,
        lost_log_lines: log.lost(),
        machine,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let served = runtime.block_on(async {
        let orders = signals::orders()?;
        Ok::<_, std::io::Error>(app::run(path, loaded, given, orders).await)
    });
    // Tasks that still run have ignored the order to end, so hopend does not wait for them.
    runtime.shutdown_background();
    match served {
        Ok(Ok(_)) => Exit::Ok,
        Ok(Err(error)) => {
            log.complain(format_args!("hopend: {error}"));
            Exit::Unavailable
        }
        Err(error) => {
            log.complain(format_args!("hopend: cannot receive signals: {error}"));
            Exit::Software
        }
    }
}
