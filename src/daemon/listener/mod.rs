//! Accepts connections. An error never stops it, and it accepts no connection without a handshake permit.

mod held;
mod passed;
mod socket;
mod state;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::identity::client_tls::Certificates;
use crate::identity::is_exposed;
use crate::primitives::stop::Stopping;
use crate::route::Route;
use crate::session::client::{ClientStream, Detached};
use crate::session::{self, Services, Session};
use base::error::{ErrorKind, MORE_DESCRIPTORS, out_of_descriptors, with_fix, with_note};
pub use held::{HeldSocket, HeldSockets, Listening, SocketOwner};
pub use passed::{Passed, PassedError};
pub use socket::{BindError, Listener, which};
pub use state::{AddressState, UnboundAddress};

/// The pause after the first failed accept; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between failed accepts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause before an address that could not be bound is tried again; it doubles.
pub const FIRST_BIND_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between attempts to bind an address.
pub const BIND_EVERY: Duration = Duration::from_secs(5);

/// What an endpoint's listeners share, and a reload swaps.
#[derive(Debug, Clone)]
pub struct Served {
    /// Where connections go.
    pub route: Arc<Route>,
    /// What TLS is spoken with, to those that come over TCP.
    pub tls: Option<Arc<Certificates>>,
}

/// Accepts until told to stop, or until the sender of `served` is gone.
pub async fn run(
    listener: Listener,
    mut served: watch::Receiver<Served>,
    services: Arc<Services>,
    mut stopping: Stopping,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            () = stopping.draining() => return,
            // Another route, or none at all.
            changed = served.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                let fix = match out_of_descriptors(&error) {
                    true => MORE_DESCRIPTORS,
                    false => "",
                };
                tracing::warn!(
                    address = %listener.address(),
                    pause_ms = pause.as_millis(),
                    kind = %ErrorKind::Internal,
                    "{}", with_fix(format_args!("accept failed: {error}"), fix)
                );
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        // Behind the accept, as others need it while nobody comes in here; clients of whom there are
        // too many at a time wait in the kernel.
        let door = tokio::select! {
            () = stopping.draining() => return,
            door = services.limits.handshake_permit() => door,
        };
        let session = Session {
            exposed: is_exposed(listener.address()),
            listen: listener.address().clone(),
            route: Arc::clone(&served.borrow().route),
            tls: served.borrow().tls.clone(),
            services: Arc::clone(&services),
            stopping: stopping.clone(),
            door: Some(door),
        };
        begin(stream, session);
    }
}

/// Has the session served: by a worker, where there are any, else here.
fn begin(stream: ClientStream, session: Session) {
    let services = Arc::clone(&session.services);
    let Some(workers) = &services.workers else {
        services.tasks.spawn(session::serve(stream, session));
        return;
    };
    let place = workers.place();
    let handle = place.handle().clone();
    if place.is_here() {
        let serve = async move {
            session::serve(stream, session).await;
            drop(place);
        };
        services.tasks.spawn_on(serve, &handle);
        return;
    }
    let moved = stream.detach();
    let serve = async move {
        match moved.and_then(Detached::attach) {
            Ok(stream) => session::serve(stream, session).await,
            Err(error) => tracing::warn!("a client was lost on its way to its worker: {error}"),
        }
        drop(place);
    };
    services.tasks.spawn_on(serve, &handle);
}

/// What a late attempt to bind needs.
#[derive(Debug)]
pub struct Binding {
    /// Sockets that may be used instead of new ones.
    pub passed: Arc<Passed>,
    /// Where the sockets are kept once they are bound.
    pub held: HeldSockets,
    /// The runtime whose blocking threads bind and look: sessions' threads do neither.
    pub blocking: Handle,
}

impl Binding {
    /// Binds an address as soon as nothing keeps it from being bound, and shows in `state` meanwhile
    /// what does. Never returns if the address is bound.
    pub async fn bind_when_free(self, state: &watch::Sender<AddressState>) -> Listener {
        let unbound = state
            .borrow()
            .unbound()
            .map(|unbound| unbound.address.clone());
        let Some(address) = unbound else {
            return std::future::pending().await;
        };
        let mut pause = FIRST_BIND_PAUSE;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(BIND_EVERY);
            let (passed, held) = (Arc::clone(&self.passed), self.held.clone());
            let wanted = address.clone();
            let bind = move || {
                let listener = Listener::with(&passed.sockets().collect(), &wanted)?;
                held.hold(&listener, &passed);
                Ok::<_, BindError>(listener)
            };
            match self.blocking.spawn_blocking(bind).await {
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
}
