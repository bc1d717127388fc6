//! Connects to kdb+: resolves the name, dials over TCP, makes the TLS handshake and logs in.

mod ask;
mod error;
mod loop_guard;
mod resolver;
mod stream;
mod tcp;
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

use crate::primitives::opening::Laps;
pub(crate) use ask::{QueryError, ask};
use base::kdb_address::KdbAddress;
pub use error::{DialStage, UpstreamError};
use loop_guard::LoopGuard;
pub use loop_guard::{DialledEndpoints, EndpointLoop};
use q_ipc::handshake::Hello;
use q_relay::tls_stream::TlsStream;
pub(crate) use resolver::resolve;
use resolver::{forget, resolve_cached};
pub use stream::UpstreamStream;
pub(crate) use tcp::connect;

/// A connection to a kdb+ that has accepted a login.
#[derive(Debug)]
pub struct Upstream {
    /// The connection. The next byte in either direction is the first of a message.
    pub stream: UpstreamStream,
    /// The capability that kdb+ answered.
    pub capability: u8,
    /// The IP address and port of kdb+.
    pub peer: SocketAddr,
    /// Lets hopend's own endpoints recognise the connection while it lasts.
    _guard: Option<Box<LoopGuard>>,
}

impl Upstream {
    /// Moves the connection to the runtime of the caller.
    ///
    /// # Errors
    /// The old runtime does not release the connection, or the new one cannot watch it.
    pub fn rehome(self) -> io::Result<Self> {
        let stream = self.stream.rehome()?;
        Ok(Self { stream, ..self })
    }
}

/// Dials `address` and logs in with `hello`, both within `limit`. `tls` is required if the address has
/// TLS.
///
/// # Errors
/// A stage failed, or the time is over.
pub async fn open(
    address: &KdbAddress,
    tls: Option<&Arc<ClientConfig>>,
    hello: &Hello,
    limit: Duration,
) -> Result<Upstream, UpstreamError> {
    open_in_laps(address, tls, hello, limit, &Laps::default(), None).await
}

/// Does the same as [`open`], and adds the duration of each stage to `laps`, also of a stage that
/// fails. `trail` names the endpoints that the session came through, if the dial is for a session.
///
/// # Errors
/// As [`open`], and [`UpstreamError::Loop`] if the connection leads back to an endpoint of the trail.
pub(crate) async fn open_in_laps(
    address: &KdbAddress,
    tls: Option<&Arc<ClientConfig>>,
    hello: &Hello,
    limit: Duration,
    laps: &Laps,
    trail: Option<&Arc<DialledEndpoints>>,
) -> Result<Upstream, UpstreamError> {
    let mut dial = Dial::new(address, tls, laps, trail);
    let opened = timeout(limit, dial.open(hello)).await;
    dial.end_lap();
    let opened = opened.unwrap_or_else(|_| Err(dial.timeout(limit)));
    if opened.is_err() {
        // The name may have another IP address by now.
        forget(address);
    }
    opened
}

/// Connects to `address` within `limit`, including the TLS handshake, and does not log in.
///
/// # Errors
/// A stage failed, or the time is over.
pub(crate) async fn reach(
    address: &KdbAddress,
    tls: Option<&Arc<ClientConfig>>,
    limit: Duration,
) -> Result<UpstreamStream, UpstreamError> {
    let laps = Laps::default();
    let mut dial = Dial::new(address, tls, &laps, None);
    let connected = timeout(limit, dial.connect()).await;
    let connected = connected.unwrap_or_else(|_| Err(dial.timeout(limit)));
    if connected.is_err() {
        forget(address);
    }
    connected.map(|connected| connected.stream)
}

/// One dial: its settings, its current stage, and the start of that stage (`since`).
struct Dial<'d> {
    address: &'d KdbAddress,
    tls: Option<&'d Arc<ClientConfig>>,
    laps: &'d Laps,
    trail: Option<&'d Arc<DialledEndpoints>>,
    stage: DialStage,
    since: Instant,
}

/// A connection before the login.
struct Connected {
    stream: UpstreamStream,
    peer: SocketAddr,
    guard: Option<Box<LoopGuard>>,
}

impl<'d> Dial<'d> {
    fn new(
        address: &'d KdbAddress,
        tls: Option<&'d Arc<ClientConfig>>,
        laps: &'d Laps,
        trail: Option<&'d Arc<DialledEndpoints>>,
    ) -> Self {
        Self {
            address,
            tls,
            laps,
            trail,
            stage: DialStage::Resolving,
            since: Instant::now(),
        }
    }

    async fn open(&mut self, hello: &Hello) -> Result<Upstream, UpstreamError> {
        let Connected {
            mut stream,
            peer,
            guard,
        } = self.connect().await?;
        self.enter(DialStage::LoggingIn);
        let capability = log_in(self.address, &mut stream, hello).await;
        if guard.as_ref().is_some_and(|guard| guard.leads_back()) {
            let address = self.address.clone();
            return Err(UpstreamError::Loop { address });
        }
        Ok(Upstream {
            stream,
            capability: capability?,
            peer,
            _guard: guard,
        })
    }

    async fn connect(&mut self) -> Result<Connected, UpstreamError> {
        let address = self.address;
        let sockets = resolve_cached(address).await?;
        self.enter(DialStage::Connecting);
        let tcp = connect(address, sockets).await?;
        let peer = tcp.peer_addr().map_err(|source| UpstreamError::Connect {
            address: address.clone(),
            source,
        })?;
        let guard = self.trail.and_then(|trail| LoopGuard::new(&tcp, trail));
        let stream = if address.tls {
            self.enter(DialStage::Tls);
            let tls = self.tls.ok_or_else(|| UpstreamError::NoTls {
                address: address.clone(),
            })?;
            UpstreamStream::Tls(Box::new(shake_hands(address, tls, tcp).await?))
        } else {
            UpstreamStream::Plain(tcp)
        };
        Ok(Connected {
            stream,
            peer,
            guard,
        })
    }

    fn enter(&mut self, stage: DialStage) {
        self.end_lap();
        self.stage = stage;
        self.since = Instant::now();
    }

    fn end_lap(&self) {
        self.laps.add(self.stage.into(), self.since.elapsed());
    }

    fn timeout(&self, limit: Duration) -> UpstreamError {
        UpstreamError::Timeout {
            address: self.address.clone(),
            limit,
            stage: self.stage,
        }
    }
}

/// Makes the TLS handshake and verifies that the certificate is for the host of `address`.
///
/// # Errors
/// The handshake failed, or no certificate can be for that host.
pub(crate) async fn shake_hands(
    address: &KdbAddress,
    tls: &Arc<ClientConfig>,
    tcp: TcpStream,
) -> Result<TlsStream, UpstreamError> {
    let name =
        ServerName::try_from(address.host.clone()).map_err(|_| UpstreamError::ServerName {
            address: address.clone(),
        })?;
    let handshake = async {
        let mut stream = TlsStream::new_client(Arc::clone(tls), name, tcp)?;
        // kdb+ may send much right after its answer to the login. No memory account counts these bytes
        // yet, so the buffers stay small until [`UpstreamStream::charge`].
        stream.stay_small();
        stream.handshake().await?;
        Ok(stream)
    };
    handshake.await.map_err(|source| UpstreamError::Tls {
        address: address.clone(),
        remedy: tls_remedy(&source),
        source,
    })
}

/// The remedy for a failed TLS handshake, for an administrator.
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

/// Sends the login and waits for the capability byte that answers it.
///
/// # Errors
/// kdb+ closed the connection instead of answering, or the connection broke.
async fn log_in(
    address: &KdbAddress,
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

/// Sends the login and reads the capability byte. Returns `None` if kdb+ closed the connection instead.
async fn capability(stream: &mut UpstreamStream, hello: &Hello) -> io::Result<Option<u8>> {
    stream.write_all(hello.encode().expose()).await?;
    stream.flush().await?;
    let mut answer = [0];
    match stream.read(&mut answer).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(answer[0])),
        // A TLS peer has closed the connection without a close_notify alert.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
