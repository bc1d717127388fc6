//! Turns the signals of the process into orders for the daemon.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use crate::daemon::app::DaemonCommand;

/// The exit code if a second signal ends the process at once: 128 plus the number of SIGTERM.
const SECOND_SIGNAL_CODE: i32 = 143;

/// Receives SIGHUP as [`DaemonCommand::Reload`], and SIGTERM and SIGINT as [`DaemonCommand::Stop`]. The second SIGTERM or
/// SIGINT ends the process at once.
pub(super) fn orders() -> io::Result<mpsc::Receiver<DaemonCommand>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The exit is registered before the flag, so that the first signal only sets `stopping`. A later
        // signal finds `stopping` set and ends the process.
        flag::register_conditional_shutdown(signal, SECOND_SIGNAL_CODE, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT])?;
    let (sender, receiver) = mpsc::channel(4);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let order = if signal == SIGHUP {
                    DaemonCommand::Reload
                } else {
                    DaemonCommand::Stop
                };
                if sender.blocking_send(order).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}
