//! The options of hopend's TCP connections, to clients and to kdb+.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The time without traffic before the kernel sends the first keepalive probe.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// The time between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// The number of unanswered probes after which the kernel ends the connection.
const PROBES: u32 = 4;

/// Sets TCP_NODELAY, so that small messages leave at once, and TCP keepalive.
///
/// With keepalive the kernel notices a peer that has vanished within two minutes. If unacknowledged
/// bytes are on their way to the peer, the kernel's retransmission limit of a quarter of an hour
/// applies instead. TCP_USER_TIMEOUT would be quicker, but Linux also applies it to a live peer that
/// has closed its window, even if that peer answers probes. A q process that computes for minutes while
/// bytes wait would lose its connection and these bytes.
///
/// A connection inherits the options of the listener that accepted it, so tuning the listener is
/// enough.
pub(crate) fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Makes the next close reset the connection, so that the peer sees a broken connection and not a regular
/// end.
pub(crate) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
