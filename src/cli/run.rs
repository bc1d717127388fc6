//! `hopend run`.

use std::io;
use std::time::Duration;

use super::{ConfigArgument, Exit, LogArgument, complain, runtime, signals, start_log};
use crate::config;
use crate::config::AccountDatabase;
use crate::config::MachineMemory;
use crate::daemon::app;
use crate::daemon::app::ProcessContext;
use crate::daemon::confine::{self, Confinement};
use crate::listener::PassedSockets;

/// How long a start waits for the account database in all. Users whose account is not known by then are left
/// out until it is.
const ACCOUNTS_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `hopend run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    log: LogArgument,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    // Before any secret is read.
    let dumps = confine::forbid_dumps();
    let path = &arguments.config.config;
    // What the daemon confines itself to needs no accounts. The account database is asked by threads that are
    // confined.
    let not_asked = |_: &str| Err(io::ErrorKind::WouldBlock.into());
    let accounts = AccountDatabase::system();
    let files = match config::load_to_serve(path, &not_asked, &[]) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            // The daemon does not start: what is wrong with its accounts may be told as well.
            let told = config::load_to_serve(path, &accounts.within(ACCOUNTS_PATIENCE), &[]);
            complain(told.err().unwrap_or(problems));
            return Exit::Configuration;
        }
    };
    let passed_sockets = match PassedSockets::from_environment() {
        Ok(sockets) => sockets,
        Err(error) => {
            complain(format_args!("hopend: {error}"));
            return Exit::Configuration;
        }
    };
    // Asked before the confinement, which leaves no way to the control group's files.
    let machine = MachineMemory::look();
    // Before there is another thread: a thread's confinement is for those that it starts.
    let confinement = match Confinement::enter(&files, path) {
        Ok(confinement) => confinement,
        Err(error) => {
            complain(format_args!("hopend: {error}"));
            return Exit::Unavailable;
        }
    };
    let loaded = match config::load_to_serve(path, &accounts.within(ACCOUNTS_PATIENCE), &[]) {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(problems);
            return Exit::Configuration;
        }
    };
    // The file may have changed in between.
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
            "hopend's memory is not closed to other processes of its account and to core files: {error}. \
             Fix: allow prctl and setrlimit, or set LimitCORE=0 in the service."
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
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let served = runtime.block_on(async {
        let orders = signals::orders()?;
        Ok::<_, std::io::Error>(app::run(path, loaded, given, orders).await)
    });
    // Whatever still runs after the drain was told to end and did not.
    runtime.shutdown_background();
    match served {
        Ok(Ok(_)) => Exit::Ok,
        Ok(Err(error)) => {
            log.complain(format_args!("hopend: {error}"));
            Exit::Unavailable
        }
        Err(error) => {
            log.complain(format_args!("hopend: no signals: {error}"));
            Exit::Software
        }
    }
}
