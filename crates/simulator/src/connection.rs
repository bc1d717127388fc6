//! One q connection: its counters, its end, and the socket under it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::faults::Cut;
use q_ipc::frame::MessageType;

/// The way in which a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The client closed the connection.
    ByClient,
    /// No byte passed for the idle limit, and the node reset the connection.
    Idle,
    /// A test cut the connection in this way.
    Cut(Cut),
    /// The client sent bytes that are not a q message, or the socket failed.
    Broken,
}

/// A snapshot of a connection that logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// The name of the cluster, or `plain`.
    pub cluster: String,
    /// The ID of the node, or `plain`.
    pub node: String,
    /// The user name of the login.
    pub user: String,
    /// The capability byte of the login.
    pub capability: Option<u8>,
    /// Number of keepalives: async messages with an empty char vector.
    pub pings: u64,
    /// Number of async messages, pings included.
    pub asyncs: u64,
    /// Number of sync messages.
    pub syncs: u64,
    /// Number of responses to the node's own sync messages.
    pub responses: u64,
    /// Bytes received from the client, TLS included.
    pub bytes_in: u64,
    /// Bytes sent to the client, TLS included.
    pub bytes_out: u64,
    /// The way in which it ended; `None` while it is open.
    pub ended: Option<ConnectionEnd>,
}

/// The login of a client, and the node that accepted it.
#[derive(Debug)]
pub(crate) struct ClientLogin {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) user: String,
    pub(crate) capability: Option<u8>,
}

/// A connection that logged in.
#[derive(Debug)]
pub(crate) struct Connection {
    login: ClientLogin,
    meter: Arc<SocketMeter>,
    pings: AtomicU64,
    asyncs: AtomicU64,
    syncs: AtomicU64,
    responses: AtomicU64,
    /// The way in which a test has asked to cut it.
    cut: watch::Sender<Option<Cut>>,
    /// Whether a message to the client is being written.
    inside_frame: watch::Sender<bool>,
    ended: Mutex<Option<ConnectionEnd>>,
}

impl Connection {
    pub(crate) fn new(login: ClientLogin, meter: Arc<SocketMeter>) -> Self {
        Self {
            login,
            meter,
            pings: AtomicU64::new(0),
            asyncs: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            cut: watch::Sender::new(None),
            inside_frame: watch::Sender::new(false),
            ended: Mutex::new(None),
        }
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.login.cluster
    }

    pub(crate) fn node(&self) -> &str {
        &self.login.node
    }

    pub(crate) fn user(&self) -> &str {
        &self.login.user
    }

    pub(crate) fn meter(&self) -> &SocketMeter {
        &self.meter
    }

    pub(crate) fn record(&self) -> ConnectionRecord {
        ConnectionRecord {
            cluster: self.login.cluster.clone(),
            node: self.login.node.clone(),
            user: self.login.user.clone(),
            capability: self.login.capability,
            pings: self.pings.load(Ordering::Relaxed),
            asyncs: self.asyncs.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            responses: self.responses.load(Ordering::Relaxed),
            bytes_in: self.meter.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.meter.bytes_out.load(Ordering::Relaxed),
            ended: self.ended(),
        }
    }

    pub(crate) fn ended(&self) -> Option<ConnectionEnd> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the end.
    pub(crate) fn end(&self, how: ConnectionEnd) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }

    /// Counts a message from the client.
    pub(crate) fn count(&self, message_type: MessageType, ping: bool) {
        let counter = match message_type {
            MessageType::Async => &self.asyncs,
            MessageType::Sync => &self.syncs,
            MessageType::Response => &self.responses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if ping {
            self.pings.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks the listener to cut the connection.
    pub(crate) fn cut(&self, how: Cut) {
        self.cut.send_replace(Some(how));
    }

    pub(crate) fn set_inside_frame(&self, inside: bool) {
        self.inside_frame.send_replace(inside);
    }

    pub(crate) fn is_inside_frame(&self) -> bool {
        *self.inside_frame.borrow()
    }

    /// Returns once a test has asked to cut the connection. For a FIN it first waits until the current
    /// message is written.
    pub(crate) async fn until_cut(&self) -> Cut {
        let mut cut = self.cut.subscribe();
        let how = match cut.wait_for(Option::is_some).await {
            Ok(how) => how.unwrap_or(Cut::Fin),
            Err(_) => Cut::Fin,
        };
        if how == Cut::Fin {
            let mut inside = self.inside_frame.subscribe();
            let _ = inside.wait_for(|inside| !inside).await;
        }
        how
    }
}

/// Counts the bytes that pass a socket, and remembers when the last one did.
#[derive(Debug)]
pub(crate) struct SocketMeter {
    last: Mutex<Instant>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    reset: AtomicBool,
}

impl SocketMeter {
    /// Makes the socket send RST instead of FIN when it is closed.
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// Returns once no byte has passed for `limit`.
    pub(crate) async fn until_idle(&self, limit: Duration) {
        loop {
            let due = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn passed(&self, counter: &AtomicU64, bytes: usize) {
        if bytes > 0 {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// A TCP connection whose bytes are counted.
#[derive(Debug)]
pub(crate) struct MeteredSocket {
    tcp: TcpStream,
    meter: Arc<SocketMeter>,
}

impl MeteredSocket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        let meter = SocketMeter {
            last: Mutex::new(Instant::now()),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            reset: AtomicBool::new(false),
        };
        Self {
            tcp,
            meter: Arc::new(meter),
        }
    }

    pub(crate) fn meter(&self) -> Arc<SocketMeter> {
        self.meter.clone()
    }
}

impl Drop for MeteredSocket {
    fn drop(&mut self) {
        if self.meter.reset.load(Ordering::Acquire) {
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for MeteredSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.meter
            .passed(&self.meter.bytes_in, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, bytes))?;
        self.meter.passed(&self.meter.bytes_out, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
