//! The reasons for which a client gets no session, and how the client's connection ends then.

use std::time::Duration;

use base::error::ErrorKind;
use q_ipc::handshake::HelloError;
use tokio::io::AsyncWriteExt;

use super::client::{ClientStream, HandshakeError};
use crate::identity::{Denied, PeerError};
use crate::limits::Exceeded;
use crate::route::OpenError;
use crate::upstream::EndpointLoop;

/// `fatal(2) protocol_version(70)`: a TLS client reports this alert at once, instead of waiting.
const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];
/// The response that an HTTP client shows.
const HTTP_RESPONSE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 44\r\nConnection: close\r\n\r\nThis port speaks q IPC: dial it with hopen.\n";

/// The reason for which a client gets no session.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The first bytes are no q handshake.
    #[error(transparent)]
    NotQ(#[from] HelloError),
    /// TLS did not come about.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// There is no certificate to show it.
    #[error(
        "the certificate of the endpoint can't be used. Fix: read the log, and run `hopend check`."
    )]
    NoCertificate,
    /// There is too much already.
    #[error(transparent)]
    Limit(#[from] Exceeded),
    /// It took too long over it.
    #[error("the client sent no complete handshake within {} s", .0.as_secs_f32())]
    HelloTimeout(Duration),
    /// It went away before it was through.
    #[error("the client went away before its handshake was complete")]
    Vanished,
    /// The kernel does not say whose connection it is.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Its password could not be checked in time.
    #[error(
        "too many passwords are being checked at once: no turn within {} s. Fix: find out who guesses.",
        .0.as_secs_f32()
    )]
    Crowded(Duration),
    /// It is nobody who may use the endpoint.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// hopend itself is the client, and the session has come through this endpoint before.
    #[error(transparent)]
    Loop(#[from] EndpointLoop),
    /// kdb+ can't be had.
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

    /// Whether it is a port scan or a health check, which nobody wants to read about.
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
        // For the others the end of the stream says enough. After a failed TLS handshake rustls has sent its
        // alert, and plain bytes would be no TLS.
        _ => &[],
    };
    // The response fits into any socket buffer, and a client that is gone does not need it.
    let _ = client.write_all(answer).await;
    client.close().await;
}
