//! Dials one address of an endpoint and logs in there.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::OpenError;
use super::capability::{AcceptedLogins, COMMON_CAPABILITY, is_old};
use super::connection::{LoginSource, PresentedLogin};
use super::context::DialContext;
use crate::config::Endpoint;
use crate::upstream::tls::{TlsConfigs, TlsError};
use crate::upstream::{self, Upstream, UpstreamError, UpstreamStream};
use base::kdb_address::KdbAddress;
use q_ipc::handshake::Hello;

/// How long kdb+ may take to acknowledge the end of a TLS stream.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Dials the addresses of one endpoint.
#[derive(Debug)]
pub(super) struct Dialer {
    /// An error fails the sessions that need TLS, and only those.
    tls: Result<Arc<ClientConfig>, TlsError>,
    /// From the dial to kdb+'s answer to the login.
    connect_timeout: Duration,
    accepted: AcceptedLogins,
}

impl Dialer {
    /// Reads the endpoint's `ca_file`. Blocks.
    pub(super) fn new(endpoint: &Endpoint, tls: &TlsConfigs) -> Self {
        Self {
            tls: tls.config(endpoint.ca_file()),
            connect_timeout: endpoint.connect_timeout,
            accepted: AcceptedLogins::default(),
        }
    }

    /// Dials `address` and logs in.
    pub(super) async fn log_in(
        &self,
        address: &KdbAddress,
        login: &PresentedLogin,
        context: &DialContext,
    ) -> Result<Upstream, OpenError> {
        let dialed = self.dial(address, &login.hello, context).await;
        self.explain_refusal(address, login, context, dialed).await
    }

    /// The same, without an answer to why kdb+ refused a login: see [`Self::explain_refusal`].
    pub(super) async fn dial(
        &self,
        address: &KdbAddress,
        hello: &Hello,
        context: &DialContext,
    ) -> Result<Upstream, OpenError> {
        let tls = self.tls_for(address)?;
        let (laps, trail) = (&context.laps, Some(&context.trail));
        let limit = self.connect_timeout;
        Ok(upstream::open_in_laps(address, tls, hello, limit, laps, trail).await?)
    }

    /// Dials `address`, with TLS if it has any, and does not log in.
    pub(super) async fn reach(&self, address: &KdbAddress) -> Result<UpstreamStream, OpenError> {
        let tls = self.tls_for(address)?;
        Ok(upstream::reach(address, tls, self.connect_timeout).await?)
    }

    /// A kdb+ that closes instead of answering may refuse the user, or the capability that an old client
    /// announces. It refuses the capability if it has accepted the same login with another one, or
    /// accepts it now. hopend does not try a client's own login a second time, because that would look
    /// like guessing.
    pub(super) async fn explain_refusal(
        &self,
        address: &KdbAddress,
        login: &PresentedLogin,
        context: &DialContext,
        dialed: Result<Upstream, OpenError>,
    ) -> Result<Upstream, OpenError> {
        let hello = &login.hello;
        match dialed {
            Ok(upstream) => {
                self.accepted.add(address, hello);
                Ok(upstream)
            }
            Err(OpenError::Upstream(UpstreamError::Rejected { .. }))
                if is_old(hello) && self.accepts_common(address, login, context).await =>
            {
                Err(OpenError::Upstream(UpstreamError::Capability {
                    address: address.clone(),
                    user: hello.user.clone(),
                    capability: hello.capability,
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether kdb+ accepts this login with the capability of common clients.
    async fn accepts_common(
        &self,
        address: &KdbAddress,
        login: &PresentedLogin,
        context: &DialContext,
    ) -> bool {
        let hello = &login.hello;
        if matches!(login.source, LoginSource::Client) {
            return self.accepted.has_at_any(hello);
        }
        if self.accepted.has(address, hello) {
            return true;
        }
        let common = Hello {
            capability: Some(COMMON_CAPABILITY),
            ..hello.clone()
        };
        match self.dial(address, &common, context).await {
            Ok(upstream) => {
                self.accepted.add(address, &common);
                close_in_order(upstream.stream).await;
                true
            }
            Err(_) => false,
        }
    }

    /// The TLS configuration for `address`. None if the address needs none.
    fn tls_for(&self, address: &KdbAddress) -> Result<Option<&Arc<ClientConfig>>, OpenError> {
        match &self.tls {
            Ok(tls) => Ok(Some(tls)),
            Err(error) if address.tls => Err(error.clone().into()),
            Err(_) => Ok(None),
        }
    }
}

/// Ends a connection as the protocol demands, within 1 s. A kdb+ that does not answer by then sees the
/// end of the connection anyway.
pub(super) async fn close_in_order(mut stream: UpstreamStream) {
    let _ = timeout(CLOSE_LIMIT, stream.shutdown()).await;
}
