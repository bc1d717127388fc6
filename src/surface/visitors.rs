//! Connections to the admin address: so many at a time, half of them for any one account or host, and
//! none for longer than it has something to say. Where all seats are taken, a newcomer gets the seat of
//! the account or host that has the most, at the expense of its connection that has waited for longest.
//! So nobody keeps others from looking at the daemon's health, or takes its file descriptors.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

use crate::identity::{Origin, Peer};
use crate::surface::admin::Audience;

/// Connections at a time.
const AT_A_TIME: usize = 32;
/// How long one may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one lasts at most.
const LIFE: Duration = Duration::from_secs(60);
/// How long it may take to find out whose it is.
const LOOK: Duration = Duration::from_secs(1);

/// Accepts them.
#[derive(Debug)]
pub struct Visitors {
    listener: TcpListener,
    /// Says whether they speak TLS, and with what certificate.
    audience: watch::Receiver<Audience>,
    seats: Arc<Seats>,
}

/// Who has the seats, in the order in which they were taken, or last got an answer.
#[derive(Debug, Default)]
struct Seats(Mutex<Vec<TakenSeat>>);

/// A seat that is taken.
#[derive(Debug)]
struct TakenSeat {
    origin: Origin,
    /// Ends the visitor's connection.
    end: CancellationToken,
}

/// A visitor's seat, free again when dropped.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
    end: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Seats {
    /// A seat for one more of this origin. None where the origin has half of all seats.
    fn take(self: &Arc<Self>, origin: Origin) -> Option<Seat> {
        let mut taken = self.taken();
        let count = |taken: &[TakenSeat], of: Origin| {
            taken.iter().filter(|other| other.origin == of).count()
        };
        if count(&taken, origin) >= AT_A_TIME / 2 {
            return None;
        }
        if taken.len() >= AT_A_TIME
            && let Some(most) = taken
                .iter()
                .map(|other| other.origin)
                .rev()
                .max_by_key(|of| count(&taken, *of))
            && let Some(oldest) = taken.iter().position(|other| other.origin == most)
        {
            taken.remove(oldest).end.cancel();
        }
        let end = CancellationToken::new();
        taken.push(TakenSeat {
            origin,
            end: end.clone(),
        });
        Some(Seat {
            seats: Arc::clone(self),
            ended: Box::pin(end.clone().cancelled_owned()),
            end,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Vec<TakenSeat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Its visitor gets an answer: others have waited for longer.
    fn answered(&self) {
        let mut taken = self.seats.taken();
        if let Some(at) = taken.iter().position(|other| other.is(&self.end)) {
            taken[at..].rotate_left(1);
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.ended.as_mut().poll(context).is_ready()
    }
}

impl TakenSeat {
    fn is(&self, end: &CancellationToken) -> bool {
        self.end == *end
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().retain(|other| !other.is(&self.end));
    }
}

/// One of them.
#[derive(Debug)]
pub struct Visitor {
    wire: Wire,
    born: Instant,
    ends: Pin<Box<Sleep>>,
    peer: Peer,
    seat: Seat,
}

/// What a visitor's bytes pass through.
enum Wire {
    Plain(TcpStream),
    /// In its own task: nobody waits for another one's handshake.
    Handshake(Box<tokio_rustls::Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// The stream, once its handshake is through.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut dyn Stream>> {
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

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Visitors {
    /// Those who come in at `listener`.
    pub fn new(listener: TcpListener, audience: watch::Receiver<Audience>) -> Self {
        Self {
            listener,
            audience,
            seats: Arc::default(),
        }
    }
}

impl Listener for Visitors {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let Ok(Ok(peer)) = timeout(LOOK, Peer::of_tcp(&stream, false)).await else {
                continue;
            };
            let Some(seat) = self.seats.take(Origin::of(&peer)) else {
                tracing::debug!(%address, "the admin address: {peer} has half of all connections");
                continue;
            };
            let tls = self.audience.borrow().tls.clone();
            let wire = match tls {
                None => Wire::Plain(stream),
                Some(certificates) => match certificates.current().await {
                    Some(config) => {
                        let handshake = TlsAcceptor::from(config).accept(stream);
                        Wire::Handshake(Box::new(handshake))
                    }
                    // The log has said that the files can't be used.
                    None => continue,
                },
            };
            let born = Instant::now();
            let visitor = Visitor {
                wire,
                born,
                ends: Box::pin(sleep_until(born + SILENCE)),
                peer,
                seat,
            };
            return (visitor, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Visitor {
    /// The local account that it comes from, where the kernel tells.
    pub fn uid(&self) -> Option<u32> {
        self.peer.uid()
    }

    /// Whether it comes from another host, or by an address that another host could use.
    pub fn is_remote(&self) -> bool {
        matches!(self.peer, Peer::Remote { .. })
    }

    /// Goes on for a while.
    fn heard(&mut self) {
        let ends = (Instant::now() + SILENCE).min(self.born + LIFE);
        self.ends.as_mut().reset(ends);
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.seat.is_over(context) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.ends.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_over(context)?;
        let stream = ready!(self.wire.poll_ready(context))?;
        let read = Pin::new(stream).poll_read(context, buffer);
        if read.is_ready() {
            self.heard();
        }
        read
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_over(context)?;
        self.seat.answered();
        let stream = ready!(self.wire.poll_ready(context))?;
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_over(context)?;
        self.seat.answered();
        let stream = ready!(self.wire.poll_ready(context))?;
        Pin::new(stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.wire, Wire::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_over(context)?;
        let stream = ready!(self.wire.poll_ready(context))?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_over(context)?;
        let stream = ready!(self.wire.poll_ready(context))?;
        Pin::new(stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn where_all_is_taken_a_newcomer_gets_a_seat_of_whoever_has_the_most() {
        let seats = Arc::new(Seats::default());
        let take = |uid| seats.take(Origin::Account(uid));
        let over = |seat: &Seat| seat.end.is_cancelled();
        let mut first: Vec<_> = (0..AT_A_TIME / 2).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let second: Vec<_> = (0..AT_A_TIME / 2 - 1).map(|_| take(2).unwrap()).collect();
        let third = take(3).unwrap();
        first[0].answered();
        let fourth = take(4).unwrap();
        // The one that was answered has waited for less.
        assert!(over(&first[1]) && !over(&first[0]));
        drop(first.remove(1));
        // Who comes again and again takes seats of the two, and never those of the others.
        for _ in 0..AT_A_TIME {
            let another = take(2).or_else(|| take(1));
            assert!(another.is_some() && !over(&third) && !over(&fourth));
        }
        assert_eq!(
            first
                .iter()
                .chain(&second)
                .filter(|seat| over(seat))
                .count(),
            1
        );
        assert!(seats.taken().len() <= AT_A_TIME);
    }

    #[tokio::test]
    async fn of_those_who_have_equally_many_the_one_that_has_waited_for_longest_goes() {
        let seats = Arc::new(Seats::default());
        let count = u32::try_from(AT_A_TIME).unwrap();
        let all: Vec<_> = (0..count)
            .map(|uid| seats.take(Origin::Account(uid)).unwrap())
            .collect();
        let newcomers = [100, 101].map(|uid| seats.take(Origin::Account(uid)).unwrap());
        let over: Vec<bool> = all
            .iter()
            .chain(&newcomers)
            .map(|seat| seat.end.is_cancelled())
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
        let mut visitors = Visitors::new(listener, watch::channel(Audience::default()).1);
        let mut clients = Vec::new();
        let mut inside = Vec::new();
        for _ in 0..AT_A_TIME / 2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            inside.push(visitors.accept().await.0);
        }
        // One more of this account's is turned away; another account's seat is not taken.
        let mut refused = TcpStream::connect(address).await.unwrap();
        let next = tokio::spawn(async move { visitors.accept().await.0 });
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
        assert!(talks.born.elapsed() >= LIFE && talks.born.elapsed() < LIFE + SILENCE);
        for mut silent in inside {
            let error = silent.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        drop(talks);
        let _again = TcpStream::connect(address).await.unwrap();
        next.await.unwrap();
    }
}
