//! One session, from the first byte of its connection to the last: who the client is, what it may use,
//! which kdb+ it reaches, the relay between both, and the record.

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

/// How long a session that is cut or killed may go on delivering what hopend has received. With
/// [`GOODBYE`] it stays within the grace that a stop gives to sessions that it cuts.
const CUT_DELIVERY: Duration = Duration::from_secs(3);
/// How long kdb+ may take to close once its kernel has everything and the end of the stream.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a session that is cut lasts at most.
pub(crate) const MAX_CUT_DURATION: Duration = CUT_DELIVERY.saturating_add(GOODBYE);

/// A connection's way into hopend.
#[derive(Debug)]
pub struct Session {
    /// The address at which the connection arrived.
    pub listen: ListenAddress,
    /// Whether processes of other hosts can connect to this address.
    pub exposed: bool,
    /// The endpoint's target, made ready.
    pub target: Arc<PreparedTarget>,
    /// The parts of the daemon that every session uses.
    pub services: Arc<Services>,
    /// Receives the shutdown signal.
    pub stopping: ShutdownReceiver,
    /// The endpoint's certificates. None without TLS.
    pub tls: Option<Arc<Certificates>>,
    /// The permit of a client that has not said who it is. None where nobody limits such clients.
    pub handshake: Option<HandshakePermit>,
}

/// Serves one connection from its first byte to its last.
pub async fn serve(client: ClientStream, session: Session) {
    let accepted = match Accepted::begin(client, session).await {
        Ok(accepted) => accepted,
        Err(refused) => return refused.end().await,
    };
    // In a box: the session does not keep the memory that its opening takes.
    match Box::pin(accepted.open()).await {
        Ok(opened) => running::run(opened).await,
        Err(refused) => refused.end().await,
    }
}

/// Writes the audit line of repeated events when it is due.
fn write_repeats_later(services: &Arc<Services>, due: Option<Duration>) {
    let Some(after) = due else { return };
    let services = Arc::clone(services);
    tokio::spawn(async move {
        sleep(after).await;
        services.repeats.write_due(&services.audit);
    });
}

/// Writes the audit lines of sessions that last, as long as any are due.
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
