//! Limits the connections to the admin address, so that no client keeps others from it or uses up the daemon's file
//! descriptors.
//!
//! - At most 32 connections are open at a time, and one account or host has at most half of them.
//! - If all 32 are open, a new connection replaces one of the account or host that has the most: the one whose last
//!   response is the oldest.
//! - A connection ends after 10 seconds of silence, and after 60 seconds in any case.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Audience;
use crate::identity::{Origin, Peer};
use base::mutex::locked;

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 32;
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

/// The open connections. The one whose last response, or whose beginning, is the oldest comes first.
#[derive(Debug, Default)]
struct ConnectionPermits(Mutex<Vec<PermitHolder>>);

/// An open connection.
#[derive(Debug)]
struct PermitHolder {
    origin: Origin,
    /// Ends the connection.
    end: CancellationToken,
}

/// The permit of one connection. Dropping it frees it for another one.
#[derive(Debug)]
struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    end: CancellationToken,
    /// Completes when the permit is given to another connection.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl ConnectionPermits {
    /// A permit for a connection of this origin. `None` if the origin has half of all permits.
    fn take(self: &Arc<Self>, origin: Origin) -> Option<ConnectionPermit> {
        let mut holders = self.holders();
        let count = |holders: &[PermitHolder], origin: Origin| {
            let same = holders.iter().filter(|holder| holder.origin == origin);
            same.count()
        };
        if count(&holders, origin) >= MAX_CONNECTIONS / 2 {
            return None;
        }
        // Of origins with equally many, `max_by_key` returns the last one in reverse: that of the oldest holder.
        if holders.len() >= MAX_CONNECTIONS
            && let Some(largest) = holders
                .iter()
                .map(|holder| holder.origin)
                .rev()
                .max_by_key(|origin| count(&holders, *origin))
            && let Some(oldest) = holders.iter().position(|holder| holder.origin == largest)
        {
            holders.remove(oldest).end.cancel();
        }
        let end = CancellationToken::new();
        holders.push(PermitHolder {
            origin,
            end: end.clone(),
        });
        Some(ConnectionPermit {
            permits: Arc::clone(self),
            ended: Box::pin(end.clone().cancelled_owned()),
            end,
        })
    }

    fn holders(&self) -> MutexGuard<'_, Vec<PermitHolder>> {
        locked(&self.0)
    }
}

impl ConnectionPermit {
    /// Records a response on this connection, which becomes the last one to be replaced.
    fn responded(&self) {
        let mut holders = self.permits.holders();
        if let Some(at) = holders.iter().position(|holder| holder.is(&self.end)) {
            holders[at..].rotate_left(1);
        }
    }

    /// Whether another connection has this permit now.
    fn poll_replaced(&mut self, context: &mut Context<'_>) -> bool {
        self.ended.as_mut().poll(context).is_ready()
    }
}

impl PermitHolder {
    fn is(&self, end: &CancellationToken) -> bool {
        self.end == *end
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.permits
            .holders()
            .retain(|holder| !holder.is(&self.end));
    }
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
    /// A TLS handshake. The connection's own task advances it, so that no connection waits for another one's.
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

    use super::*;

    #[tokio::test]
    async fn where_all_is_taken_a_newcomer_gets_a_seat_of_whoever_has_the_most() {
        let permits = Arc::new(ConnectionPermits::default());
        let take = |uid| permits.take(Origin::Account(uid));
        let over = |permit: &ConnectionPermit| permit.end.is_cancelled();
        let mut first: Vec<_> = (0..MAX_CONNECTIONS / 2).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let second: Vec<_> = (0..MAX_CONNECTIONS / 2 - 1)
            .map(|_| take(2).unwrap())
            .collect();
        let third = take(3).unwrap();
        first[0].responded();
        let fourth = take(4).unwrap();
        // The first connection has had a response meanwhile, so that the second one is the oldest.
        assert!(over(&first[1]) && !over(&first[0]));
        drop(first.remove(1));
        // Repeated connections of the two large accounts replace only their own.
        for _ in 0..MAX_CONNECTIONS {
            let another = take(2).or_else(|| take(1));
            assert!(another.is_some() && !over(&third) && !over(&fourth));
        }
        assert_eq!(
            first
                .iter()
                .chain(&second)
                .filter(|permit| over(permit))
                .count(),
            1
        );
        assert!(permits.holders().len() <= MAX_CONNECTIONS);
    }

    #[tokio::test]
    async fn of_those_who_have_equally_many_the_one_that_has_waited_for_longest_goes() {
        let permits = Arc::new(ConnectionPermits::default());
        let count = u32::try_from(MAX_CONNECTIONS).unwrap();
        let all: Vec<_> = (0..count)
            .map(|uid| permits.take(Origin::Account(uid)).unwrap())
            .collect();
        let newcomers = [100, 101].map(|uid| permits.take(Origin::Account(uid)).unwrap());
        let over: Vec<bool> = all
            .iter()
            .chain(&newcomers)
            .map(|permit| permit.end.is_cancelled())
            .collect();
        assert!(
            over[..2].iter().all(|over| *over) && !over[2..].contains(&true),
            "{over:?}"
        );
    }

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
