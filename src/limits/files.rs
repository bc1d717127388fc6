//! File descriptors: what a session costs, and how many there are.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Kept for everything but connections of clients: listeners, logs, AWS, lists of nodes, `/proc`.
const RESERVE: usize = 128;
/// Where the system tells nothing.
const USUAL: usize = 1_024;

/// Raises the soft limit to the hard one: the soft one is low for the sake of programs that use
/// select(2), which nothing here does.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        tracing::warn!("the limit of file descriptors stays as it is: {error}");
    }
}

/// How many there are for connections.
pub(super) fn allowed() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| {
        usize::try_from(soft).unwrap_or(usize::MAX)
    });
    soft.saturating_sub(RESERVE)
}

/// What the limit has to be for so many sessions.
pub(super) fn needed(sessions: usize) -> usize {
    let (sockets, doors) = (sessions.saturating_mul(2), super::MOST_DOORS);
    sockets.saturating_add(doors).saturating_add(RESERVE)
}
