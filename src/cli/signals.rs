//! Signals become orders.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use crate::daemon::app::DaemonCommand;

/// What a process ends with when a second signal ends it at once: 128 and SIGTERM.
const ENDED_AT_ONCE: i32 = 143;

/// Orders from SIGHUP, SIGTERM and SIGINT. The second SIGTERM or SIGINT ends the process at once.
pub(super) fn orders() -> io::Result<mpsc::Receiver<DaemonCommand>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal only arms what the second one finds armed.
        flag::register_conditional_shutdown(signal, ENDED_AT_ONCE, Arc::clone(&stopping))?;
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
