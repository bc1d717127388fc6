//! Accepting connections: never stops on an error, never takes more than there are permits.

mod socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;

use crate::auth::is_exposed;
use crate::client::{ClientStream, Detached};
use crate::config::ListenAddress;
use crate::error::{ErrorKind, MORE_DESCRIPTORS, out_of_descriptors};
use crate::route::Route;
use crate::session::{self, Services, Session};
use crate::stop::Stopping;
pub use socket::{BindError, Listener, which};

/// The pause after the first failed accept; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between failed accepts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Between attempts to bind an address that was taken at start.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// An endpoint's route, and its session permits: all of its listeners share them, and a reload
/// swaps them.
#[derive(Debug, Clone)]
pub struct Served {
    /// Where connections go.
    pub route: Arc<Route>,
    /// One for each session that the endpoint may have.
    pub permits: Arc<Semaphore>,
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
                let advice = if out_of_descriptors(&error) {
                    format!("; {MORE_DESCRIPTORS}")
                } else {
                    String::new()
                };
                tracing::warn!(
                    address = %listener.address(),
                    pause_ms = pause.as_millis(),
                    kind = %ErrorKind::Internal,
                    "accept failed: {error}{advice}"
                );
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let Some(permit) = permit(&listener, &mut served, &mut stopping).await else {
            return;
        };
        let session = Session {
            exposed: is_exposed(listener.address()),
            listen: listener.address().clone(),
            route: Arc::clone(&served.borrow().route),
            services: Arc::clone(&services),
            stopping: stopping.clone(),
            permit,
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

/// A place among the endpoint's sessions for the one client that was accepted; further ones wait in
/// the kernel. It is taken behind the accept, as the endpoint's other listeners need it while
/// nobody comes in here.
async fn permit(
    listener: &Listener,
    served: &mut watch::Receiver<Served>,
    stopping: &mut Stopping,
) -> Option<OwnedSemaphorePermit> {
    loop {
        let permits = Arc::clone(&served.borrow().permits);
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            return Some(permit);
        }
        tracing::warn!(
            address = %listener.address(),
            "max_sessions reached: further clients wait until a session ends"
        );
        tokio::select! {
            () = stopping.draining() => return None,
            changed = served.changed() => changed.ok()?,
            permit = permits.acquire_owned() => return permit.ok(),
        }
    }
}

/// Binds an address that could not be had before, as soon as it can.
pub async fn bind_when_free(address: &ListenAddress) -> Listener {
    loop {
        sleep(BIND_EVERY).await;
        match Listener::bind(address) {
            Ok(listener) => {
                tracing::info!(%address, "listening at last");
                return listener;
            }
            Err(error) => tracing::debug!("{}", crate::error::chain(&error)),
        }
    }
}
