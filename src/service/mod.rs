//! What the service manager is told: readiness, reloads, a line of status, the watchdog.

pub mod watchdog;

use sd_notify::NotifyState;

/// Serving; also at the end of a reload.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload has begun. [`ready`] ends it.
pub fn reloading() {
    let mut states = vec![
        NotifyState::Reloading,
        NotifyState::Status("reading the configuration"),
    ];
    // Type=notify-reload wants it.
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// The drain has begun.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told: {error}");
    }
}
