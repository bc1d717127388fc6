//! Asks the kernel about a socket of this host: its account, its inode, its TCP state and its
//! unacknowledged bytes.
//!
//! [`sock_diag`] asks the kernel about one socket, within microseconds. [`proc_net`] reads the tables
//! of all sockets and is the fallback.

mod kernel_socket;
pub(crate) mod proc_net;
pub(crate) mod sock_diag;

use tokio::net::TcpStream;

pub(crate) use kernel_socket::{FourTuple, KernelSocket};

/// Whether the peer's kernel has acknowledged every byte that this process sent over `connection`, and
/// the end of the stream. `false` if the kernel cannot be asked or does not know the socket.
///
/// Takes some ten microseconds.
pub(crate) fn has_delivered_everything(connection: &TcpStream) -> bool {
    own_socket(connection).is_some_and(|socket| socket.has_ended())
}

/// The bytes that this process sent over `connection` and that the peer's kernel has not acknowledged.
/// The end of the stream counts as one byte. 0 if the connection is over, if the kernel cannot be asked
/// or if it does not know the socket.
///
/// Takes some ten microseconds.
pub(crate) fn unsent(connection: &TcpStream) -> u64 {
    own_socket(connection).map_or(0, |socket| socket.unsent.into())
}

/// The end of `connection` that this process holds.
fn own_socket(connection: &TcpStream) -> Option<KernelSocket> {
    // A lookup finds the socket at the first address of the four-tuple.
    let four_tuple = FourTuple::new(connection.local_addr().ok()?, connection.peer_addr().ok()?);
    sock_diag::lookup(&four_tuple).ok().flatten()
}
