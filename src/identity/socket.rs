//! A TCP socket as the kernel's tables show it.

use std::net::{IpAddr, SocketAddr};

const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// Both ends of a connection, seen from the client.
///
/// Addresses are canonical: `::ffff:127.0.0.1` and `127.0.0.1` are the same one. The kernel keeps
/// an AF_INET6 socket that talks IPv4 in one hash with the AF_INET ones, so either form finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) client: (IpAddr, u16),
    pub(super) server: (IpAddr, u16),
}

impl Ends {
    pub(super) fn new(client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            client: canonical(client.ip(), client.port()),
            server: canonical(server.ip(), server.port()),
        }
    }
}

pub(super) fn canonical(ip: IpAddr, port: u16) -> (IpAddr, u16) {
    (ip.to_canonical(), port)
}

/// What the kernel knows about the client's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelSocket {
    pub(super) uid: u32,
    pub(super) inode: u64,
    pub(super) state: u8,
    /// Bytes in its send queue: those that the peer's kernel has not acknowledged.
    pub(super) unsent: u32,
}

impl KernelSocket {
    /// The account that made the socket, as long as a process still holds it.
    ///
    /// A socket without a process (its owner has closed it or exited, the kernel still finishes
    /// the conversation) has inode 0 and, in most kernels, uid 0, **which is not root**. SYN_SENT
    /// is left out on purpose: it may be another process that tries to reuse the port.
    pub(super) fn owner(&self) -> Option<u32> {
        let live = matches!(self.state, ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT);
        (live && self.inode != 0).then_some(self.uid)
    }

    /// Whether it accepts connections.
    pub(super) fn listens(&self) -> bool {
        self.state == LISTEN
    }

    /// Whether it was closed by the last process that held it, which can't be undone.
    pub(super) fn is_orphan(&self) -> bool {
        self.inode == 0 && matches!(self.state, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT)
    }

    /// Whether it has sent the end of the stream, all before it has been acknowledged, and the other
    /// side's end has not come.
    pub(super) fn has_ended(&self) -> bool {
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
