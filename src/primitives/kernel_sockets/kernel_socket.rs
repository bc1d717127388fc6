//! The addresses of a TCP connection, and a socket as the kernel's tables show it.

use std::net::SocketAddr;

// The states of `enum` in the kernel's `include/net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// The two addresses of a TCP connection. Lookups by a four-tuple find the socket at `client`.
///
/// Addresses are canonical: `::ffff:127.0.0.1` becomes `127.0.0.1`, and IPv6 scopes are left out. The
/// kernel keeps an AF_INET6 socket that carries IPv4 in one hash table with the AF_INET sockets, so
/// either form finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FourTuple {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
}

impl FourTuple {
    pub(crate) fn new(client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            client: canonical(client),
            server: canonical(server),
        }
    }
}

pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket, as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelSocket {
    pub(crate) uid: u32,
    /// 0 for a socket that no process holds.
    pub(crate) inode: u64,
    /// A TCP state, such as [`ESTABLISHED`].
    pub(crate) state: u8,
    /// The bytes in the send queue, which the peer's kernel has not acknowledged.
    pub(crate) unsent: u32,
}

impl KernelSocket {
    /// The account that made the socket, as long as a process still holds it.
    ///
    /// If the owner has closed the socket or exited, the kernel still finishes the conversation. Such a
    /// socket has inode 0 and, in most kernels, uid 0. **That uid is not root's**. SYN_SENT is left out
    /// on purpose, because such a socket may belong to another process that tries to reuse the port.
    pub(crate) fn owner(&self) -> Option<u32> {
        let live = matches!(self.state, ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT);
        (live && self.inode != 0).then_some(self.uid)
    }

    /// Whether the socket accepts connections.
    pub(crate) fn listens(&self) -> bool {
        self.state == LISTEN
    }

    /// Whether the last process that held the socket has closed it. No process can get such a socket
    /// again.
    pub(crate) fn is_orphan(&self) -> bool {
        self.inode == 0 && matches!(self.state, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT)
    }

    /// Whether this end has ended its stream, the peer's kernel has acknowledged all of it, and the peer
    /// has not ended its own stream yet.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == FIN_WAIT2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_a_process_holds_has_an_owner() {
        let socket = |state, inode| KernelSocket {
            uid: 0,
            inode,
            state,
            unsent: 0,
        };
        for state in [1, 4, 5, 8] {
            assert_eq!(socket(state, 7).owner(), Some(0), "{state}");
            assert_eq!(socket(state, 0).owner(), None, "{state}");
        }
        // SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV
        for state in [2, 3, 6, 7, 9, 10, 11, 12] {
            assert_eq!(socket(state, 7).owner(), None, "{state}");
        }
    }

    #[test]
    fn only_a_closed_socket_without_a_process_is_an_orphan() {
        for state in 0..=12 {
            let orphan = |inode| {
                let (uid, unsent) = (0, 0);
                let socket = KernelSocket {
                    uid,
                    inode,
                    state,
                    unsent,
                };
                socket.is_orphan()
            };
            assert_eq!(orphan(0), [4, 5, 6].contains(&state), "{state}");
            assert!(!orphan(7), "{state}");
        }
    }
}
