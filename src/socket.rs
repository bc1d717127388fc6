//! Options that every TCP connection of hopend's gets, on both sides.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A peer that answers nothing for this long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence before the first probe.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Between probes.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// Probes without an answer before the connection is given up.
const PROBES: u32 = 4;

/// Small messages leave at once, and a peer that vanished without a word is noticed within two
/// minutes.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    Patience::Usual.apply(stream)
}

/// How long a peer that takes no bytes is waited for.
///
/// TCP_USER_TIMEOUT finds a peer that vanished with bytes under way, but Linux applies it to one
/// that is alive and has closed its window as well: a q that computes for minutes would lose its
/// connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A minute without an acknowledgement, and it is gone.
    Usual,
    /// As long as it acknowledges: only the system's own retransmission limit counts.
    Endless,
}

impl Patience {
    /// Sets it on a connection.
    pub fn apply(self, stream: &TcpStream) -> io::Result<()> {
        let timeout = match self {
            Self::Usual => Some(USER_TIMEOUT),
            Self::Endless => None,
        };
        SockRef::from(stream).set_tcp_user_timeout(timeout)
    }
}

/// Makes the close that follows a reset, so that the peer sees a broken connection and not the
/// orderly end of one.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
