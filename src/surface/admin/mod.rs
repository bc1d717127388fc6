//! The admin address: health, metrics and the status page over HTTP, for people and programs that watch the
//! daemon. No request makes the daemon dial kdb+ or AWS.
//!
//! Access:
//! - Every account of this host may read `/livez`, `/readyz` and `/metrics`. The metrics name endpoints, users and
//!   roles, and contain no secret.
//! - Root, the daemon's own account and `viewers` may read `/status`, which shows sessions and errors. The kernel
//!   reports the account of a local client.
//! - Other hosts may read the pages that `expose` lists. They see user names only if `metrics_users` is set.

mod connections;
mod permits;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{AdminSettings, Exposure, LeftOutPart, ListenAddress, ServerTls, Viewers};
use crate::identity::client_tls::Certificates;
use crate::identity::holder;
use crate::listener::BIND_BACKOFF;
use crate::primitives::shutdown::ShutdownReceiver;
use crate::surface::StatusSource;
use crate::surface::metrics::MetricsSnapshot;
use crate::telemetry::live::{DaemonTotals, EndpointReadiness};
use base::error::with_fix;
pub use server::serve;

/// The part of the daemon that the admin address shows.
pub trait AdminView: StatusSource + Send + Sync {
    /// The readiness of each endpoint that is served now.
    fn readiness(&self) -> Vec<EndpointReadiness>;

    /// The configured endpoints that are not served because of an error in the configuration.
    fn endpoints_left_out(&self) -> Vec<LeftOutPart>;

    /// All counters, for the status page.
    fn totals(&self) -> DaemonTotals;

    /// Everything that `/metrics` reports, except for the process's own figures.
    fn metrics(&self) -> MetricsSnapshot;
}

/// The access rules and the certificate of the admin address. A reload replaces them.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    /// The accounts of this host that may see the status page, besides root and the daemon's own account.
    pub viewers: Viewers,
    /// The pages that other hosts may see.
    pub exposure: Exposure,
    /// The certificate, if the address speaks TLS.
    pub tls: Option<Arc<Certificates>>,
}

impl Audience {
    /// The audience of a configuration. Keeps the certificates that were served `before` if the configuration
    /// names the same files. Blocks: it reads certificates.
    fn new(
        settings: &AdminSettings,
        viewers: &Viewers,
        before: Option<&Arc<Certificates>>,
    ) -> Self {
        let served = |tls: &ServerTls| match before.filter(|before| before.are_of(tls)) {
            Some(before) => {
                before.look();
                Arc::clone(before)
            }
            None => Arc::new(Certificates::new("[daemon] admin", tls)),
        };
        Self {
            viewers: viewers.clone(),
            exposure: settings.exposure.clone(),
            tls: settings.tls.as_ref().map(served),
        }
    }
}

/// The admin address of a new configuration, prepared so that it can be applied without blocking.
#[derive(Debug)]
pub enum PreparedAdmin {
    /// The configuration names no admin address.
    None,
    /// The address is the same, and gets this audience.
    Stays(Audience),
    /// The address has changed.
    Fresh(BoundAdmin),
}

/// A new admin address. It is bound, unless binding failed.
#[derive(Debug)]
pub struct BoundAdmin {
    address: SocketAddr,
    audience: Audience,
    /// `None` if binding failed. The daemon then tries again.
    listener: Option<TcpListener>,
}

/// The admin address that is served now, for the preparation of a reload.
#[derive(Debug, Clone)]
pub struct RunningAdmin {
    address: SocketAddr,
    certificates: Option<Arc<Certificates>>,
}

impl PreparedAdmin {
    /// Prepares the admin address of a configuration. `running` is the address that is served now.
    /// Blocks, because it reads certificates and searches for the process that occupies the address.
    /// Must be called within a tokio runtime.
    pub fn new(
        settings: Option<&AdminSettings>,
        viewers: &Viewers,
        running: Option<&RunningAdmin>,
    ) -> Self {
        let Some(settings) = settings else {
            return Self::None;
        };
        let certificates = running.and_then(|running| running.certificates.as_ref());
        let audience = Audience::new(settings, viewers, certificates);
        match running {
            Some(running) if running.address == settings.address => Self::Stays(audience),
            _ => Self::Fresh(BoundAdmin::bind(settings.address, audience)),
        }
    }
}

impl BoundAdmin {
    fn bind(address: SocketAddr, audience: Audience) -> Self {
        let listener = match bind(address) {
            Ok(listener) => {
                // With the port that the system chose for port 0.
                log_listening(listener.local_addr().unwrap_or(address));
                Some(listener)
            }
            Err(error) => {
                let holder = holder::find(&ListenAddress::Tcp(address));
                let holder =
                    holder.map_or_else(String::new, |holder| format!(" ({holder} holds it)"));
                let what = format!(
                    "[daemon] admin {address} can't be bound: {error}{holder}; hopend goes on trying"
                );
                let fix = "end the process that has the address, or choose another address";
                tracing::error!("{}", with_fix(what, fix));
                None
            }
        };
        Self {
            address,
            audience,
            listener,
        }
    }
}

/// The admin address that the daemon serves. Dropping it ends the service.
#[derive(Debug)]
pub struct Admin {
    /// The address as configured.
    address: SocketAddr,
    audience: watch::Sender<Audience>,
    _serving: AbortOnDropHandle<()>,
}

impl Admin {
    /// Serves the address in a task of its own. If the address is not bound yet, the task tries until it
    /// is. The daemon serves clients meanwhile. Must be called within a tokio runtime.
    pub fn start(bound: BoundAdmin, stopping: ShutdownReceiver, view: Arc<dyn AdminView>) -> Self {
        let BoundAdmin {
            address,
            audience,
            listener,
        } = bound;
        let (sender, audience) = watch::channel(audience);
        let serving = async move {
            let listener = match listener {
                Some(listener) => listener,
                None => bind_when_free(address).await,
            };
            serve(listener, stopping, view, audience).await;
        };
        Self {
            address,
            audience: sender,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// The address and certificates, for the preparation of a reload.
    pub fn running(&self) -> RunningAdmin {
        RunningAdmin {
            address: self.address,
            certificates: self.audience.borrow().tls.clone(),
        }
    }

    /// Replaces the access rules and the certificate.
    pub fn set_audience(&self, audience: Audience) {
        self.audience.send_replace(audience);
    }
}

/// Binds the admin address. Must be called within a tokio runtime.
///
/// # Errors
/// The system's error.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn bind_when_free(address: SocketAddr) -> TcpListener {
    let mut backoff = BIND_BACKOFF;
    loop {
        sleep(backoff.next_pause()).await;
        if let Ok(listener) = bind(address) {
            log_listening(address);
            return listener;
        }
    }
}

fn log_listening(address: SocketAddr) {
    tracing::info!(%address, "admin");
}
