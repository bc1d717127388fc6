//! The client of an accepted connection, as the kernel identifies it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;

use crate::config::ListenAddress;
use crate::primitives::kernel_sockets::{FourTuple, KernelSocket, proc_net, sock_diag};
use base::error::{MORE_DESCRIPTORS, NO_DESCRIPTORS, out_of_descriptors};
use base::user_namespace::is_overflow_uid;

/// The client of an accepted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host whose account the kernel reported.
    Local {
        /// The account that made the socket. If a process passes the descriptor on, or changes its own
        /// account, the socket still belongs to the account that made it.
        uid: u32,
        /// The process that connected, over a Unix socket. The process may have ended since.
        pid: Option<i32>,
        /// The client's address, over TCP.
        address: Option<SocketAddr>,
    },
    /// A client of an exposed listener, or a client whose address is not a loopback address.
    Remote {
        /// The client's address.
        address: SocketAddr,
        /// The account, if the client runs on this host and the kernel reports it. Limits and penalties
        /// count by this account. hopend never accepts a client because of it.
        account: Option<u32>,
    },
    /// A process of this host whose account the kernel did not report.
    Unidentified {
        /// The client's address, over TCP.
        address: Option<SocketAddr>,
        /// Why the kernel did not report the account, with the remedy.
        reason: String,
    },
}

/// Why the daemon closes a connection instead of identifying its client.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No process holds the client's end any more, so the kernel cannot say which account made it.
    #[error(
        "client: it closed its socket{} before hopend could look up its account",
        .address.map(|address| format!(" {address}")).unwrap_or_default()
    )]
    Gone {
        /// The client's address. `None` if the connection was reset, because the kernel then has no
        /// address.
        address: Option<SocketAddr>,
    },
    /// The system call for the peer's credentials (SO_PEERCRED) failed.
    #[error("hopend: the kernel does not tell which account connected to the Unix socket")]
    Unix(#[source] io::Error),
    /// hopend had no file descriptor left to ask the kernel.
    #[error("{NO_DESCRIPTORS}. Fix: {MORE_DESCRIPTORS}.")]
    Descriptors(#[source] io::Error),
}

impl Peer {
    /// Identifies the client of an accepted TCP connection. On an `exposed` listener every client is
    /// [`Peer::Remote`].
    ///
    /// Safe against reuse of the client's port. While the daemon's end of the connection is in the
    /// kernel's table, no other socket can be *established* on the same four-tuple. So the daemon
    /// checks after the lookup that its end is still connected. Without that check, a client could send
    /// its login and a query and then reset the connection. These bytes stay readable here, and the
    /// daemon would take the next owner of the port for their sender.
    ///
    /// Takes some ten microseconds. If the kernel does not answer NETLINK_SOCK_DIAG, the daemon reads
    /// `/proc/net/tcp` twice, for one client at a time. So put a deadline around this call.
    pub async fn of_tcp(stream: &TcpStream, exposed: bool) -> Result<Self, PeerError> {
        let address = connected(stream)?;
        let server = stream.local_addr().map_err(|_| gone(address))?;
        let four_tuple = FourTuple::new(address, server);
        if exposed || !address.ip().to_canonical().is_loopback() {
            // This lookup never reads the tables in /proc, because clients of other hosts could then
            // make the daemon read them.
            let found = sock_diag::lookup(&four_tuple).ok().flatten();
            return Ok(Self::Remote {
                address,
                account: found.and_then(|socket| socket.owner()),
            });
        }
        let found = lookup(stream, four_tuple).await;
        tcp_account(stream, address, found)
    }

    /// Identifies the client of an accepted Unix connection by the account and the process that called
    /// `connect`.
    pub fn of_unix(stream: &UnixStream) -> Result<Self, PeerError> {
        let credentials = stream.peer_cred().map_err(PeerError::Unix)?;
        let uid = credentials.uid();
        if is_overflow_uid(uid) {
            return Ok(Self::Unidentified {
                address: None,
                reason: hidden(uid),
            });
        }
        Ok(Self::Local {
            uid,
            pid: credentials.pid(),
            address: None,
        })
    }

    /// Whether every process has closed the client's end of a TCP connection. `server` is the address
    /// that the client dialled. A client that has only shut down its sending direction still holds its
    /// end.
    ///
    /// `false` if the kernel does not know the socket, for example because of address translation.
    pub fn has_let_go(&self, server: SocketAddr) -> bool {
        let Self::Local {
            address: Some(address),
            ..
        } = *self
        else {
            return false;
        };
        let found = sock_diag::lookup(&FourTuple::new(address, server));
        found.is_ok_and(|found| found.is_some_and(|socket| socket.is_orphan()))
    }

    /// The client's address. `None` over a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Local { address, .. } | Self::Unidentified { address, .. } => *address,
            Self::Remote { address, .. } => Some(*address),
        }
    }

    /// The account that the kernel reported. `None` for every client of an exposed listener.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Self::Local { uid, .. } => Some(*uid),
            Self::Remote { .. } | Self::Unidentified { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid, address } => {
                write!(f, "uid {uid}")?;
                if let Some(pid) = pid {
                    write!(f, " pid {pid}")?;
                }
                if let Some(address) = address {
                    write!(f, " at {address}")?;
                }
                Ok(())
            }
            Self::Remote { address, .. } => address.fmt(f),
            Self::Unidentified { address, .. } => {
                f.write_str("an unknown account")?;
                if let Some(address) = address {
                    write!(f, " at {address}")?;
                }
                Ok(())
            }
        }
    }
}

/// Whether clients of other hosts can reach a listener. The listener's endpoint then ignores local
/// accounts.
pub fn is_exposed(listen: &ListenAddress) -> bool {
    match listen {
        ListenAddress::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        ListenAddress::Localhost(_) | ListenAddress::Abstract(_) | ListenAddress::Path(_) => false,
    }
}

/// Makes a [`Peer`] of the socket that the lookup found, if the connection still stands.
fn tcp_account(
    stream: &TcpStream,
    address: SocketAddr,
    found: io::Result<Option<KernelSocket>>,
) -> Result<Peer, PeerError> {
    if connected(stream)? != address {
        return Err(gone(address));
    }
    let unidentified = |reason| Peer::Unidentified {
        address: Some(address),
        reason,
    };
    match found {
        Ok(socket) => {
            let uid = socket
                .and_then(|socket| socket.owner())
                .ok_or_else(|| gone(address))?;
            if is_overflow_uid(uid) {
                return Ok(unidentified(hidden(uid)));
            }
            Ok(Peer::Local {
                uid,
                pid: None,
                address: Some(address),
            })
        }
        Err(error) if out_of_descriptors(&error) => Err(PeerError::Descriptors(error)),
        Err(error) => Ok(unidentified(format!(
            "neither NETLINK_SOCK_DIAG nor /proc/net/tcp can be asked ({error}). Fix: allow AF_NETLINK \
             in the service's RestrictAddressFamilies."
        ))),
    }
}

async fn lookup(stream: &TcpStream, four_tuple: FourTuple) -> io::Result<Option<KernelSocket>> {
    match sock_diag::lookup(&four_tuple) {
        Ok(Some(socket)) => Ok(Some(socket)),
        // A client whose socket the kernel does not find must not make the daemon read all sockets.
        Ok(None) if sock_diag::is_reliable() || connected(stream).is_err() => Ok(None),
        Ok(None) | Err(_) => from_table(four_tuple).await,
    }
}

/// Looks the socket up in `/proc/net/tcp`, for one client at a time. A reading takes a tenth of a second
/// on a host with tens of thousands of sockets.
async fn from_table(four_tuple: FourTuple) -> io::Result<Option<KernelSocket>> {
    static TURN: Semaphore = Semaphore::const_new(1);
    let turn = TURN.acquire().await;
    let reading = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        proc_net::lookup(&four_tuple)
    });
    reading.await.map_err(io::Error::other)?
}

/// The client's address while the connection stands. `getpeername` fails after a reset.
fn connected(stream: &TcpStream) -> Result<SocketAddr, PeerError> {
    stream
        .peer_addr()
        .map_err(|_| PeerError::Gone { address: None })
}

fn gone(address: SocketAddr) -> PeerError {
    PeerError::Gone {
        address: Some(address),
    }
}

fn hidden(uid: u32) -> String {
    format!(
        "uid {uid} stands for every account that hopend's user namespace does not map. Fix: run hopend \
         without PrivateUsers."
    )
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
