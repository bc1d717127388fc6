//! Accepting connections: never stops on an error, never takes more than there are permits.

mod socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;

use crate::auth::is_exposed;
use crate::config::ListenAddress;
use crate::route::Route;
use crate::session::{self, Services, Session};
use crate::stop::Stopping;
pub use socket::{BindError, Listener};

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
    served: watch::Receiver<Served>,
    services: Arc<Services>,
    mut stopping: Stopping,
) {
    let mut pause = FIRST_PAUSE;
    let mut changes = served.clone();
    loop {
        let accepted = tokio::select! {
            () = stopping.draining() => return,
            // Another route, perhaps with other permits, or none at all.
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = accept(&listener, &served) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                pause = FIRST_PAUSE;
                let session = Session {
                    exposed: is_exposed(listener.address()),
                    listen: listener.address().clone(),
                    route: Arc::clone(&served.borrow().route),
                    services: Arc::clone(&services),
                    stopping: stopping.clone(),
                    permit,
                };
                services.tasks.spawn(session::serve(stream, session));
            }
            Err(error) => {
                tracing::warn!(address = %listener.address(), pause_ms = pause.as_millis(), "accept failed: {error}");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
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

/// A permit first, then a connection: what is over the limit waits in the kernel.
async fn accept(
    listener: &Listener,
    served: &watch::Receiver<Served>,
) -> std::io::Result<(crate::client::ClientStream, OwnedSemaphorePermit)> {
    let permits = Arc::clone(&served.borrow().permits);
    if permits.available_permits() == 0 {
        tracing::warn!(
            address = %listener.address(),
            "max_sessions reached: further clients wait until a session ends"
        );
    }
    let permit = permits
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    Ok((listener.accept().await?, permit))
}
