//! One session, from the first byte of the client's connection to the last. hopend identifies the client,
//! applies its limits, connects to kdb+, relays, and records the session.

pub mod client;
mod console_daemon;
mod end;
pub(crate) mod explain;
mod opening;
mod refusal;
mod refused;
mod running;
mod services;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::config::ListenAddress;
use crate::identity::client_tls::Certificates;
use crate::limits::HandshakePermit;
pub use crate::primitives::numbers::SessionNumbers;
use crate::primitives::shutdown::ShutdownReceiver;
use crate::route::PreparedTarget;
use client::ClientStream;
use opening::Accepted;
pub use refusal::Refusal;
pub use services::Services;

/// How long a session may still deliver received bytes after a stop, `hopend kill` or a reload has ended it.
/// A stopping daemon waits for these sessions. It waits longer than this time and [`GOODBYE`] together.
const CUT_DELIVERY: Duration = Duration::from_secs(3);
/// How long hopend waits for kdb+ to close after the relay has ended.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a session that is cut lasts at most.
pub(crate) const MAX_CUT_DURATION: Duration = CUT_DELIVERY.saturating_add(GOODBYE);

/// The context of one connection: its endpoint, and the parts of the daemon that it uses.
#[derive(Debug)]
pub struct Session {
    /// The address at which the connection arrived.
    pub listen: ListenAddress,
    /// Whether processes of other hosts can connect to this address.
    pub exposed: bool,
    /// The endpoint's target, with everything that opening a connection to it needs.
    pub target: Arc<PreparedTarget>,
    /// The parts of the daemon that every session uses.
    pub services: Arc<Services>,
    /// Receives the shutdown signal.
    pub stopping: ShutdownReceiver,
    /// The endpoint's certificates. None without TLS.
    pub tls: Option<Arc<Certificates>>,
    /// The permit of a client that hopend has not identified yet. None if the number of such clients has no
    /// limit.
    pub handshake: Option<HandshakePermit>,
}

/// Serves one connection from its first byte to its last.
pub async fn serve(client: ClientStream, session: Session) {
    let accepted = match Accepted::begin(client, session).await {
        Ok(accepted) => accepted,
        Err(refused) => return refused.end().await,
    };
    // The box frees the memory of the opening's future before the session runs.
    match Box::pin(accepted.open()).await {
        Ok(opened) => running::run(opened).await,
        Err(refused) => refused.end().await,
    }
}

/// Writes the summary audit line of repeated events after `due`. Does nothing if `due` is None.
fn write_repeats_later(services: &Arc<Services>, due: Option<Duration>) {
    let Some(after) = due else { return };
    let services = Arc::clone(services);
    tokio::spawn(async move {
        sleep(after).await;
        services.repeats.write_due(&services.audit);
    });
}

/// Writes the audit lines of sessions that opened while many others did, and have stayed open. Their lines
/// were held back, because a short session gets no line of its own.
fn write_lasting_later(services: &Arc<Services>, mut due: Option<Duration>) {
    if due.is_none() {
        return;
    }
    let services = Arc::clone(services);
    tokio::spawn(async move {
        while let Some(after) = due {
            sleep(after).await;
            due = services.repeats.write_lasting(&services.audit);
        }
    });
}
