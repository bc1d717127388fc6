//! Listening sockets and the loop that accepts connections from them.
//!
//! The loop survives every error. While the daemon has no free handshake permit, the loop accepts no
//! more clients.

mod bind_error;
mod kept;
mod loopback_pair;
mod passed;
mod socket;
mod socket_file;
mod state;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::sleep;

use crate::config::ListenAddress;
use crate::identity::client_tls::Certificates;
use crate::identity::is_exposed;
use crate::primitives::backoff::Backoff;
use crate::primitives::shutdown::ShutdownReceiver;
use crate::route::PreparedTarget;
use crate::session::client::{ClientStream, Detached};
use crate::session::{self, Services, Session};
use base::error::{ErrorKind, MORE_DESCRIPTORS, out_of_descriptors, with_fix, with_note};
pub(crate) use bind_error::BindError;
pub(crate) use kept::{ReusableSockets, SocketKeeper};
pub(crate) use passed::PassedSockets;
pub(crate) use socket::Listener;
pub(crate) use socket_file::FileId;
pub(crate) use state::{AddressState, UnboundAddress};

/// The pauses after failed accepts. An accept fails, for example, when no file descriptor is left.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
/// The first pause before the daemon tries again to bind an address.
pub(crate) const FIRST_BIND_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two attempts to bind an address.
pub(crate) const LONGEST_BIND_PAUSE: Duration = Duration::from_secs(5);
/// The pauses between attempts to bind an address.
pub(crate) const BIND_BACKOFF: Backoff = Backoff::new(FIRST_BIND_PAUSE, LONGEST_BIND_PAUSE);

/// The parts of an endpoint that its listeners share. A reload replaces these parts.
#[derive(Debug, Clone)]
pub(crate) struct EndpointService {
    /// The endpoint's target, prepared for sessions.
    pub target: Arc<PreparedTarget>,
    /// The certificates for clients that dial over TCP. `None` if the endpoint does not use TLS.
    pub tls: Option<Arc<Certificates>>,
}

/// Accepts connections until the drain begins, or until the sender of `served` is dropped.
pub(crate) async fn accept_connections(
    listener: Listener,
    mut served: watch::Receiver<EndpointService>,
    services: Arc<Services>,
    mut shutdown: ShutdownReceiver,
) {
    let mut backoff = ACCEPT_BACKOFF;
    loop {
        let accepted = tokio::select! {
            () = shutdown.draining() => return,
            // `Ok` means that a reload has replaced the service. An error means that the sender is
            // dropped, and this listener ends.
            changed = served.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                let pause = backoff.next_pause();
                report_failed_accept(listener.address(), &error, pause);
                sleep(pause).await;
                continue;
            }
        };
        backoff.reset();
        // The listener takes the handshake permit after the accept, so that an idle listener holds no
        // permit. While all permits are taken, further clients wait in the kernel.
        let handshake = tokio::select! {
            () = shutdown.draining() => return,
            handshake = services.limits.handshake_permit() => handshake,
        };
        let session = Session {
            exposed: is_exposed(listener.address()),
            listen: listener.address().clone(),
            target: Arc::clone(&served.borrow().target),
            tls: served.borrow().tls.clone(),
            services: Arc::clone(&services),
            stopping: shutdown.clone(),
            handshake: Some(handshake),
        };
        spawn_session(stream, session);
    }
}

fn report_failed_accept(address: &ListenAddress, error: &io::Error, pause: Duration) {
    let fix = if out_of_descriptors(error) {
        MORE_DESCRIPTORS
    } else {
        ""
    };
    tracing::warn!(
        %address,
        pause_ms = pause.as_millis(),
        kind = %ErrorKind::Internal,
        "{}", with_fix(format_args!("accept failed: {error}"), fix)
    );
}

/// Serves a session on the worker with the fewest sessions. If the daemon has no workers, serves it on
/// this runtime.
fn spawn_session(stream: ClientStream, session: Session) {
    let services = Arc::clone(&session.services);
    let Some(workers) = &services.workers else {
        services.tasks.spawn(session::serve(stream, session));
        return;
    };
    let slot = workers.slot();
    let runtime = slot.runtime().clone();
    if slot.is_on_this_thread() {
        let serve = async move {
            session::serve(stream, session).await;
            drop(slot);
        };
        services.tasks.spawn_on(serve, &runtime);
        return;
    }
    let moved = stream.detach();
    let serve = async move {
        match moved.and_then(Detached::attach) {
            Ok(stream) => session::serve(stream, session).await,
            Err(error) => tracing::warn!("a client could not be moved to its worker: {error}"),
        }
        drop(slot);
    };
    services.tasks.spawn_on(serve, &runtime);
}

/// Retries to bind an address that could not be bound.
#[derive(Debug)]
pub(crate) struct BindRetry {
    /// Sockets that the daemon may use instead of new ones.
    pub(crate) passed_sockets: Arc<PassedSockets>,
    /// Keeps duplicates of the sockets once they are bound.
    pub(crate) keeper: SocketKeeper,
    /// The runtime whose blocking threads bind the address and look up its holder. The threads of
    /// sessions never block.
    pub(crate) blocking: Handle,
}

impl BindRetry {
    /// Retries until the address in `state` is bound, and returns the listener. Each failure updates
    /// the obstacle in `state`. Waits for ever if the address is bound already.
    pub(crate) async fn bind_when_free(self, state: &watch::Sender<AddressState>) -> Listener {
        let unbound = state
            .borrow()
            .unbound()
            .map(|unbound| unbound.address.clone());
        let Some(address) = unbound else {
            return std::future::pending().await;
        };
        let mut backoff = BIND_BACKOFF;
        loop {
            sleep(backoff.next_pause()).await;
            match self.try_bind(&address).await {
                Ok(Ok(listener)) => {
                    tracing::info!(%address, "listening at last");
                    return listener;
                }
                Ok(Err(error)) => {
                    if state.send_if_modified(|state| state.set_obstacle((&error).into())) {
                        tracing::error!("{}", with_note(&error, "hopend goes on trying"));
                    }
                }
                Err(panicked) => tracing::error!(%address, "binding failed: {panicked}"),
            }
        }
    }

    async fn try_bind(
        &self,
        address: &ListenAddress,
    ) -> Result<Result<Listener, BindError>, JoinError> {
        let (passed_sockets, keeper) = (Arc::clone(&self.passed_sockets), self.keeper.clone());
        let address = address.clone();
        let bind = move || {
            let listener = Listener::bind_reusing(&passed_sockets.sockets().collect(), &address)?;
            keeper.keep(&listener, &passed_sockets);
            Ok(listener)
        };
        self.blocking.spawn_blocking(bind).await
    }
}
