//! Options that every TCP connection of hopend's gets, on both sides.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence before the first probe.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Between probes.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// Probes without an answer before the connection is given up.
const PROBES: u32 = 4;

/// Small messages leave at once, and a peer that vanished without a word is noticed within two
/// minutes, or by the system's retransmission limit (a quarter of an hour) where bytes are under way
/// to it.
///
/// TCP_USER_TIMEOUT would be quicker there, but Linux applies it to a peer that is alive and has
/// closed its window as well, probes answered or not: a q that computes for minutes while bytes wait
/// for it would lose its connection, and the bytes.
///
/// What a listener is set to, each connection that it accepts begins with (Linux copies the socket):
/// none has to be set by itself.
pub(crate) fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Makes the close that follows a reset, so that the peer sees a broken connection and not the
/// orderly end of one.
pub(crate) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
