//! Accepts connections to the admin address and limits their time and number, so that no client blocks
//! others or uses up the daemon's file descriptors.
//!
//! A connection ends after 10 seconds of silence, and after 60 seconds in any case. `permits.rs` limits their number.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Audience;
use super::permits::{ConnectionPermit, ConnectionPermits};
use crate::identity::{Origin, Peer};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest life of a connection.
const LIFE: Duration = Duration::from_secs(60);
/// How long the look-up of the client's account may take.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts connections to the admin address.
#[derive(Debug)]
pub(super) struct AdminListener {
    listener: TcpListener,
    /// Contains the certificate, if the address speaks TLS.
    audience: watch::Receiver<Audience>,
    permits: Arc<ConnectionPermits>,
}

/// A connection to the admin address. Reads and writes fail once its time is over.
#[derive(Debug)]
pub(super) struct AdminConnection {
    stream: AdminStream,
    accepted: Instant,
    deadline: Pin<Box<Sleep>>,
    peer: Peer,
    permit: ConnectionPermit,
}

/// The byte stream of a connection.
enum AdminStream {
    Plain(TcpStream),
    /// A TLS handshake. The connection's own task advances it, so that no connection waits for the
    /// handshake of another.
    Handshake(Box<tokio_rustls::Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for AdminStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminStream")
    }
}

impl AdminStream {
    /// Completes the TLS handshake, if there is one, and returns the stream.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut dyn ByteStream>> {
        if let Self::Handshake(handshake) = self {
            let stream = ready!(Pin::new(&mut **handshake).poll(context))?;
            *self = Self::Tls(Box::new(stream));
        }
        Poll::Ready(match self {
            Self::Plain(stream) => Ok(stream),
            Self::Tls(stream) => Ok(&mut **stream),
            Self::Handshake(_) => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// A stream of bytes in both directions, plain or encrypted.
trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for T {}

impl AdminListener {
    /// Accepts connections from `listener`, with the certificate of the current audience.
    pub(super) fn new(listener: TcpListener, audience: watch::Receiver<Audience>) -> Self {
        Self {
            listener,
            audience,
            permits: Arc::default(),
        }
    }
}

impl Listener for AdminListener {
    type Io = AdminConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (AdminConnection, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let Ok(Ok(peer)) = timeout(PEER_TIMEOUT, Peer::of_tcp(&stream, false)).await else {
                continue;
            };
            let Some(permit) = self.permits.take(Origin::of(&peer)) else {
                tracing::debug!(%address, "the admin address: {peer} has half of all connections");
                continue;
            };
            let tls = self.audience.borrow().tls.clone();
            let stream = match tls {
                None => AdminStream::Plain(stream),
                Some(certificates) => match certificates.current().await {
                    Some(config) => {
                        let handshake = TlsAcceptor::from(config).accept(stream);
                        AdminStream::Handshake(Box::new(handshake))
                    }
                    // The certificate cannot be used. The log has said so when it was loaded.
                    None => continue,
                },
            };
            let accepted = Instant::now();
            let connection = AdminConnection {
                stream,
                accepted,
                deadline: Box::pin(sleep_until(accepted + SILENCE)),
                peer,
                permit,
            };
            return (connection, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AdminConnection {
    /// The client's local account, if the kernel reports it.
    pub(super) fn uid(&self) -> Option<u32> {
        self.peer.uid()
    }

    /// Whether the client is another host, or dialled an address that other hosts can use as well.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.peer, Peer::Remote { .. })
    }

    /// Extends the deadline after the client has sent something.
    fn extend_deadline(&mut self) {
        let deadline = (Instant::now() + SILENCE).min(self.accepted + LIFE);
        self.deadline.as_mut().reset(deadline);
    }

    /// Fails if the connection was replaced or its deadline is over.
    fn check_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.permit.poll_replaced(context) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for AdminConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_alive(context)?;
        let stream = ready!(self.stream.poll_ready(context))?;
        let read = Pin::new(stream).poll_read(context, buffer);
        if read.is_ready() {
            self.extend_deadline();
        }
        read
    }
}

impl AsyncWrite for AdminConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_alive(context)?;
        self.permit.responded();
        let stream = ready!(self.stream.poll_ready(context))?;
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_alive(context)?;
        self.permit.responded();
        let stream = ready!(self.stream.poll_ready(context))?;
        Pin::new(stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.stream, AdminStream::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_alive(context)?;
        let stream = ready!(self.stream.poll_ready(context))?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_alive(context)?;
        let stream = ready!(self.stream.poll_ready(context))?;
        Pin::new(stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::permits::MAX_CONNECTIONS;
    use super::*;

    #[tokio::test]
    async fn one_account_has_half_of_the_connections_and_keeps_them_no_longer_than_it_talks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = AdminListener::new(listener, watch::channel(Audience::default()).1);
        let mut clients = Vec::new();
        let mut inside = Vec::new();
        for _ in 0..MAX_CONNECTIONS / 2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            inside.push(listener.accept().await.0);
        }
        // Another connection of this account is refused.
        let mut refused = TcpStream::connect(address).await.unwrap();
        let next = tokio::spawn(async move { listener.accept().await.0 });
        assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);

        tokio::time::pause();
        let mut talks = inside.pop().unwrap();
        let mut client = clients.pop().unwrap();
        for _ in 0..20 {
            client.write_all(b"?").await.unwrap();
            match talks.read_u8().await {
                Ok(_) => tokio::time::advance(SILENCE / 2).await,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    break;
                }
            }
        }
        assert!(talks.accepted.elapsed() >= LIFE && talks.accepted.elapsed() < LIFE + SILENCE);
        for mut silent in inside {
            let error = silent.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        drop(talks);
        let _again = TcpStream::connect(address).await.unwrap();
        next.await.unwrap();
    }
}
