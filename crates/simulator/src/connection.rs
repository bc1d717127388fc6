//! What is known of one q connection, and the socket under it.

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

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it.
    ByClient,
    /// Nothing was said for the idle limit; reset.
    Idle,
    /// A test cut it.
    Cut(Cut),
    /// The client sent what is no q message, or the socket failed.
    Broken,
}

/// What a connection that logged in has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// The cluster's name.
    pub cluster: String,
    /// The node's ID.
    pub node: String,
    /// Who logged in.
    pub user: String,
    /// What the client said it can do.
    pub capability: Option<u8>,
    /// Async empty char vectors.
    pub pings: u64,
    /// Async messages, pings included.
    pub asyncs: u64,
    /// Sync messages.
    pub syncs: u64,
    /// Responses to the node's own sync messages.
    pub responses: u64,
    /// Bytes from the client, TLS included.
    pub bytes_in: u64,
    /// Bytes towards the client, TLS included.
    pub bytes_out: u64,
    /// How it ended; `None` while it lives.
    pub ended: Option<Ended>,
}

#[derive(Debug)]
pub(super) struct Connection {
    cluster: String,
    node: String,
    user: String,
    capability: Option<u8>,
    meter: Arc<Meter>,
    pings: AtomicU64,
    asyncs: AtomicU64,
    syncs: AtomicU64,
    responses: AtomicU64,
    cut: watch::Sender<Option<Cut>>,
    inside_frame: watch::Sender<bool>,
    ended: Mutex<Option<Ended>>,
}

impl Connection {
    pub(super) fn new(
        (cluster, node): (&str, &str),
        user: &str,
        capability: Option<u8>,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            user: user.to_owned(),
            capability,
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

    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn record(&self) -> ConnectionRecord {
        ConnectionRecord {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            user: self.user.clone(),
            capability: self.capability,
            pings: self.pings.load(Ordering::Relaxed),
            asyncs: self.asyncs.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            responses: self.responses.load(Ordering::Relaxed),
            bytes_in: self.meter.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.meter.bytes_out.load(Ordering::Relaxed),
            ended: self.ended(),
        }
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self, how: Ended) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }

    pub(super) fn count(&self, message_type: MessageType, ping: bool) {
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

    pub(super) fn cut(&self, how: Cut) {
        self.cut.send_replace(Some(how));
    }

    pub(super) fn set_inside_frame(&self, inside: bool) {
        self.inside_frame.send_replace(inside);
    }

    pub(super) fn is_inside_frame(&self) -> bool {
        *self.inside_frame.borrow()
    }

    /// Comes back when the connection is to be cut, a FIN not before the message under way is out.
    pub(super) async fn until_cut(&self) -> Cut {
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

/// Counts what passes a socket.
#[derive(Debug)]
pub(super) struct Meter {
    last: Mutex<Instant>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    reset: AtomicBool,
}

impl Meter {
    /// Makes the close of the socket an RST.
    pub(super) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// Comes back when no byte has passed for so long.
    pub(super) async fn until_idle(&self, limit: Duration) {
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

/// A TCP connection with its meter.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    meter: Arc<Meter>,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        let meter = Meter {
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

    pub(super) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.meter.reset.load(Ordering::Acquire) {
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
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

impl AsyncWrite for Socket {
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
