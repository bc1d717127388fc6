//! The reasons for which a client gets no session, and the ways in which hopend closes its connection.

use std::time::Duration;

use base::error::ErrorKind;
use q_ipc::handshake::HelloError;
use tokio::io::AsyncWriteExt;

use super::client::{ClientStream, HandshakeError};
use crate::identity::{Denied, PeerError};
use crate::limits::Exceeded;
use crate::route::OpenError;
use crate::upstream::EndpointLoop;

/// The alert `fatal(2) protocol_version(70)`. A TLS client reports it at once, instead of waiting for a
/// handshake.
const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];
/// The response to an HTTP client, which shows its text to the user.
const HTTP_RESPONSE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 44\r\nConnection: close\r\n\r\nThis port speaks q IPC: dial it with hopen.\n";

/// The reason for which a client gets no session.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The first bytes are no q handshake.
    #[error(transparent)]
    NotQ(#[from] HelloError),
    /// The TLS handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The endpoint has no usable certificate.
    #[error(
        "the certificate of the endpoint can't be used. Fix: read the log, and run `hopend check`."
    )]
    NoCertificate,
    /// A limit of the endpoint, the user or the daemon is reached.
    #[error(transparent)]
    Limit(#[from] Exceeded),
    /// The client did not complete its handshake within `handshake_timeout`.
    #[error("the client sent no complete handshake within {} s", .0.as_secs_f32())]
    HelloTimeout(Duration),
    /// The client closed, or its connection broke, before its handshake was complete.
    #[error("the client went away before its handshake was complete")]
    Vanished,
    /// hopend could not get the peer's identity from the kernel.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// hopend could not check the client's password within `handshake_timeout`.
    #[error(
        "too many passwords are being checked at once: no turn within {} s. Fix: find out who guesses.",
        .0.as_secs_f32()
    )]
    Crowded(Duration),
    /// The client is no user of the endpoint.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The client is this hopend itself, and the session has already passed through this endpoint.
    #[error(transparent)]
    Loop(#[from] EndpointLoop),
    /// hopend could not open a connection to kdb+.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The daemon stopped before the session was open.
    #[error("hopend is stopping")]
    Stopped,
}

impl Refusal {
    /// Which party caused the refusal.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Peer(PeerError::Descriptors(_)) => ErrorKind::Internal,
            Self::NotQ(_) | Self::HelloTimeout(_) | Self::Vanished | Self::Peer(_) => {
                ErrorKind::Client
            }
            Self::Handshake(_) => ErrorKind::Client,
            Self::NoCertificate | Self::Loop(_) => ErrorKind::Configuration,
            Self::Limit(_) | Self::Crowded(_) => ErrorKind::Limit,
            Self::Denied(_) => ErrorKind::Denied,
            Self::Open(error) => error.kind(),
            Self::Stopped => ErrorKind::Internal,
        }
    }

    /// Whether the connection looks like a port scan or a health check, which has no audit line and is not
    /// listed as a failure.
    pub(super) fn is_noise(&self) -> bool {
        match self {
            Self::Peer(error) => !matches!(error, PeerError::Descriptors(_)),
            _ => matches!(self, Self::Vanished | Self::Handshake(HandshakeError::Gone)),
        }
    }
}

/// Ends the connection of a client that gets no session.
///
/// For an end of the stream q reports `'access`, for a reset a connection error. Only the log and the audit
/// line contain the reason.
pub(super) async fn turn_away(mut client: ClientStream, refusal: &Refusal) {
    let answer = match refusal {
        Refusal::NotQ(HelloError::Tls) => TLS_ALERT,
        Refusal::NotQ(HelloError::Http) => HTTP_RESPONSE,
        Refusal::Open(error) if !error.is_close_by_kdb() => return client.reset(),
        Refusal::Stopped
        | Refusal::Crowded(_)
        | Refusal::NoCertificate
        | Refusal::Limit(_)
        | Refusal::Peer(PeerError::Descriptors(_))
        | Refusal::Handshake(HandshakeError::NotTls) => return client.reset(),
        // The other clients get only the end of the stream. After a failed TLS handshake, rustls has already
        // sent its alert, and plain bytes would not be valid TLS.
        _ => &[],
    };
    // The response fits into any socket buffer, so the write does not wait. A client that has gone does not
    // need it, so an error does not matter.
    let _ = client.write_all(answer).await;
    client.close().await;
}
