//! From an address and a login to a kdb+ that has accepted it.

mod ask;
mod dial;
mod own;
mod resolver;
mod stream;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::primitives::opening::{Laps, OpenStage};
pub use ask::{AskError, ask};
use base::address::Address;
use base::error::{ErrorKind, MORE_DESCRIPTORS, NO_DESCRIPTORS};
pub use dial::connect;
use own::OwnConnection;
pub use own::{Loop, Trail};
use q_ipc::handshake::Hello;
use q_relay::tls_stream::TlsStream;
pub use resolver::resolve;
use resolver::{forget, resolve_lately};
pub use stream::UpstreamStream;

/// Why a kdb+ could not be had.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// DNS has no address.
    #[error("{address}: the name {host} does not resolve. Fix: check the name and this host's DNS.", host = .address.host)]
    Resolve {
        /// Where to.
        address: Address,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address took the connection.
    #[error(
        "{address}: no connection. Fix: check that kdb+ listens there and that security groups and routes allow it."
    )]
    Connect {
        /// Where to.
        address: Address,
        /// What the last attempt said.
        #[source]
        source: io::Error,
    },
    /// No socket could be made: no fault of the other side's.
    #[error("{address}: not dialled: {NO_DESCRIPTORS}. Fix: {MORE_DESCRIPTORS}.")]
    Descriptors {
        /// Where to.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("{address}: TLS failed. Fix: {remedy}.")]
    Tls {
        /// Where to.
        address: Address,
        /// What to do.
        remedy: &'static str,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
    /// The host is neither a DNS name nor an IP address.
    #[error("{address}: {host:?} is no host name that a certificate could carry", host = .address.host)]
    ServerName {
        /// Where to.
        address: Address,
    },
    /// Whoever dials has no TLS configuration.
    #[error("{address}: TLS is not set up")]
    NoTls {
        /// Where to.
        address: Address,
    },
    /// The connection broke during the login.
    #[error("{address}: the connection broke during the login")]
    Login {
        /// Where to.
        address: Address,
        /// What broke.
        #[source]
        source: io::Error,
    },
    /// kdb+ closed the connection instead of answering the login.
    #[error("{address}: kdb+ refused the login of user {user:?}. Fix: let this user log in there.")]
    Rejected {
        /// Where to.
        address: Address,
        /// The q user that was given.
        user: String,
    },
    /// It is one of hopend's own endpoints, and the session has come through that one.
    #[error(
        "{address}: the endpoint leads back to itself. Fix: in `connect` or the login, write the \
         address of kdb+ itself."
    )]
    Loop {
        /// Where to.
        address: Address,
    },
    /// kdb+ closed the connection instead of answering, and takes the same login with another capability.
    #[error(
        "{address}: kdb+ does not serve {}; it accepts the login of user {user:?}. Fix: use a client \
         that announces capability 3 or more.",
        announced(*.capability)
    )]
    Capability {
        /// Where to.
        address: Address,
        /// The q user that was given.
        user: String,
        /// What the client announced.
        capability: Option<u8>,
    },
    /// Too slow.
    #[error("{address}: nothing within {} s while {stage}", .limit.as_secs_f32())]
    Timeout {
        /// Where to.
        address: Address,
        /// The endpoint's `connect_timeout`.
        limit: Duration,
        /// What was under way.
        stage: Stage,
    },
}

fn announced(capability: Option<u8>) -> String {
    match capability {
        Some(capability) => format!("a client of capability {capability}"),
        None => "a client that announces no capability".into(),
    }
}

/// What a dial was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Asking DNS.
    Resolving,
    /// Opening a TCP connection.
    Connecting,
    /// Shaking hands over TLS.
    Tls,
    /// Waiting for the capability byte.
    LoggingIn,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving the name",
            Self::Connecting => "connecting",
            Self::Tls => "shaking hands over TLS",
            Self::LoggingIn => "logging in",
        })
    }
}

impl From<Stage> for OpenStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Resolving => Self::Resolve,
            Stage::Connecting => Self::Connect,
            Stage::Tls => Self::Tls,
            Stage::LoggingIn => Self::Login,
        }
    }
}

impl UpstreamError {
    /// Whose side.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected { .. } => ErrorKind::Denied,
            Self::Capability { .. } => ErrorKind::Client,
            Self::Descriptors { .. } => ErrorKind::Internal,
            Self::ServerName { .. } | Self::NoTls { .. } | Self::Loop { .. } => {
                ErrorKind::Configuration
            }
            _ => ErrorKind::Upstream,
        }
    }
}

/// A kdb+ that has accepted a login.
#[derive(Debug)]
pub struct Upstream {
    /// The connection; the next byte either way is a message's.
    pub stream: UpstreamStream,
    /// What kdb+ answered.
    pub capability: u8,
    /// The address that took the connection.
    pub peer: SocketAddr,
    /// Has hopend's own endpoints recognise the connection while it lasts.
    _own: Option<Box<OwnConnection>>,
}

impl Upstream {
    /// Moves it to the runtime that this is called from.
    ///
    /// # Errors
    /// One of the runtimes does not let go of it, or can't watch it.
    pub fn rehome(self) -> io::Result<Self> {
        let stream = self.stream.rehome()?;
        Ok(Self { stream, ..self })
    }
}

/// Dials `address`, with TLS where it says so, and logs in as `hello` says, all within `limit`. An
/// address with TLS needs `tls`.
pub async fn open(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    hello: &Hello,
    limit: Duration,
) -> Result<Upstream, UpstreamError> {
    open_in_laps(address, tls, hello, limit, &Laps::default(), None).await
}

/// The same; each stage is told to `laps`, however it ends. `trail` tells the endpoints that the session
/// has come through, if it is for one.
pub async fn open_in_laps(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    hello: &Hello,
    limit: Duration,
    laps: &Laps,
    trail: Option<&Arc<Trail>>,
) -> Result<Upstream, UpstreamError> {
    let mut dial = Dial::new(laps);
    let opened = timeout(limit, open_unbounded(address, tls, hello, &mut dial, trail)).await;
    dial.lap();
    let opened = opened.unwrap_or_else(|_| Err(dial.timeout(address, limit)));
    if opened.is_err() {
        // The name may have moved.
        forget(address);
    }
    opened
}

/// Dials `address`, with TLS where it says so, and goes no further, all within `limit`.
pub async fn reach(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    limit: Duration,
) -> Result<UpstreamStream, UpstreamError> {
    let laps = Laps::default();
    let mut dial = Dial::new(&laps);
    let reached = timeout(limit, reach_unbounded(address, tls, &mut dial, None)).await;
    let reached = reached.unwrap_or_else(|_| Err(dial.timeout(address, limit)));
    if reached.is_err() {
        forget(address);
    }
    reached.map(|reached| reached.stream)
}

/// What a dial is doing, and since when.
struct Dial<'l> {
    stage: Stage,
    since: Instant,
    laps: &'l Laps,
}

impl<'l> Dial<'l> {
    fn new(laps: &'l Laps) -> Self {
        Self {
            stage: Stage::Resolving,
            since: Instant::now(),
            laps,
        }
    }

    fn timeout(&self, address: &Address, limit: Duration) -> UpstreamError {
        UpstreamError::Timeout {
            address: address.clone(),
            limit,
            stage: self.stage,
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.lap();
        self.stage = stage;
        self.since = Instant::now();
    }

    fn lap(&self) {
        self.laps.add(self.stage.into(), self.since.elapsed());
    }
}

/// A connection, before the login.
struct Reached {
    stream: UpstreamStream,
    peer: SocketAddr,
    own: Option<Box<OwnConnection>>,
}

async fn open_unbounded(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    hello: &Hello,
    dial: &mut Dial<'_>,
    trail: Option<&Arc<Trail>>,
) -> Result<Upstream, UpstreamError> {
    let Reached {
        mut stream,
        peer,
        own,
    } = reach_unbounded(address, tls, dial, trail).await?;
    dial.enter(Stage::LoggingIn);
    let capability = log_in(address, &mut stream, hello).await;
    if own.as_ref().is_some_and(|own| own.leads_back()) {
        let address = address.clone();
        return Err(UpstreamError::Loop { address });
    }
    Ok(Upstream {
        stream,
        capability: capability?,
        peer,
        _own: own,
    })
}

async fn reach_unbounded(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    dial: &mut Dial<'_>,
    trail: Option<&Arc<Trail>>,
) -> Result<Reached, UpstreamError> {
    let addresses = resolve_lately(address).await?;
    dial.enter(Stage::Connecting);
    let tcp = connect(address, addresses).await?;
    let peer = tcp.peer_addr().map_err(|source| UpstreamError::Connect {
        address: address.clone(),
        source,
    })?;
    let own = trail.and_then(|trail| OwnConnection::of(&tcp, trail));
    let stream = if address.tls {
        dial.enter(Stage::Tls);
        let tls = tls.ok_or_else(|| UpstreamError::NoTls {
            address: address.clone(),
        })?;
        UpstreamStream::Tls(Box::new(shake_hands(address, tls, tcp).await?))
    } else {
        UpstreamStream::Plain(tcp)
    };
    Ok(Reached { stream, peer, own })
}

/// The TLS handshake, with the host's name verified.
pub async fn shake_hands(
    address: &Address,
    tls: &Arc<ClientConfig>,
    tcp: TcpStream,
) -> Result<TlsStream, UpstreamError> {
    let name =
        ServerName::try_from(address.host.clone()).map_err(|_| UpstreamError::ServerName {
            address: address.clone(),
        })?;
    let dialled = async {
        let mut stream = TlsStream::dial(Arc::clone(tls), name, tcp)?;
        // A kdb+ that sends a lot behind its answer to the login fills no large buffer with it.
        stream.stay_small();
        stream.handshake().await?;
        Ok(stream)
    };
    dialled.await.map_err(|source| UpstreamError::Tls {
        address: address.clone(),
        remedy: tls_remedy(&source),
        source,
    })
}

/// What an administrator can do about a failed TLS handshake.
fn tls_remedy(error: &io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer => {
                "set ca_file to the authority that signed this certificate"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "dial a name that the certificate carries"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the certificate there, or correct this host's clock"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "correct this host's clock"
            }
            CertificateError::Revoked => "renew the certificate there",
            _ => "have another certificate made",
        },
        Some(Error::InvalidMessage(_)) => "write :host:port, as that port speaks no TLS",
        _ => "check that the port speaks TLS",
    }
}

/// Says `hello` and waits for the capability byte.
pub async fn log_in(
    address: &Address,
    stream: &mut UpstreamStream,
    hello: &Hello,
) -> Result<u8, UpstreamError> {
    let capability = capability(stream, hello)
        .await
        .map_err(|source| UpstreamError::Login {
            address: address.clone(),
            source,
        })?;
    capability.ok_or_else(|| UpstreamError::Rejected {
        address: address.clone(),
        user: hello.user.clone(),
    })
}

/// `None` when kdb+ closed instead of answering.
async fn capability(stream: &mut UpstreamStream, hello: &Hello) -> io::Result<Option<u8>> {
    stream.write_all(hello.encode().expose()).await?;
    stream.flush().await?;
    let mut answer = [0];
    match stream.read(&mut answer).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(answer[0])),
        // A TLS peer that closes without saying so.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
