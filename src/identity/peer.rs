//! Who is on the other end, by the kernel's word.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;

use super::socket::{Ends, KernelSocket};
use super::{proc_net, sock_diag};
use crate::config::ListenAddress;
use base::error::{MORE_DESCRIPTORS, NO_DESCRIPTORS, out_of_descriptors};
use base::user_namespace::is_hidden;

/// The other end of an accepted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, whose account the kernel told.
    Local {
        /// The account that made the socket. A descriptor that was passed on, or kept over a
        /// change of account, still speaks for the account that made it.
        uid: u32,
        /// The process that connected, over a Unix socket. It may have ended since.
        pid: Option<i32>,
        /// Its address, over TCP.
        address: Option<SocketAddr>,
    },
    /// Whoever reaches an exposed listener, or comes from an address beyond loopback.
    Remote {
        /// Its address.
        address: SocketAddr,
        /// The account, where it is one of this host's and the kernel tells: its connections count
        /// together. Nobody is let in for it.
        account: Option<u32>,
    },
    /// A process of this host, whose account the kernel could not tell.
    Unidentified {
        /// Its address, over TCP.
        address: Option<SocketAddr>,
        /// What stood in the way.
        reason: String,
    },
}

/// Why a connection is not worth going on with.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No process holds the client's end any more, so nobody can say whose it was.
    #[error(
        "client: it closed its socket{} before hopend could see whose it is",
        .address.map(|address| format!(" {address}")).unwrap_or_default()
    )]
    Gone {
        /// The client's address, unless even that is gone.
        address: Option<SocketAddr>,
    },
    /// SO_PEERCRED failed.
    #[error("hopend: the system does not tell who connected to the Unix socket")]
    Unix(#[source] io::Error),
    /// The kernel could not be asked.
    #[error("{NO_DESCRIPTORS}. Fix: {MORE_DESCRIPTORS}.")]
    Descriptors(#[source] io::Error),
}

impl Peer {
    /// The peer of an accepted TCP connection; on an `exposed` listener the account only counts.
    ///
    /// Safe against reuse of the client's port: as long as our end of the connection is in the
    /// kernel's table no other socket can be *established* on the same four-tuple, and our end is
    /// asked after the lookup whether it is still there. Without that last look a client could
    /// send its login and a query, reset the connection, and have the next owner of its port taken
    /// for the sender: what it sent is still readable here.
    ///
    /// Takes some ten microseconds, or two readings of `/proc/net/tcp` where NETLINK_SOCK_DIAG is not
    /// to be had; those wait for each other: put a deadline around it.
    pub async fn of_tcp(stream: &TcpStream, exposed: bool) -> Result<Self, PeerError> {
        let address = connected(stream)?;
        let server = stream.local_addr().map_err(|_| gone(address))?;
        let ends = Ends::new(address, server);
        if exposed || !address.ip().to_canonical().is_loopback() {
            // Never from the tables, which other hosts would have read.
            let found = sock_diag::lookup(&ends).ok().flatten();
            return Ok(Self::Remote {
                address,
                account: found.and_then(|socket| socket.owner()),
            });
        }
        let found = lookup(stream, ends).await;
        tcp_account(stream, address, found)
    }

    /// The peer of an accepted Unix connection: the account and process that called `connect`.
    pub fn of_unix(stream: &UnixStream) -> Result<Self, PeerError> {
        let credentials = stream.peer_cred().map_err(PeerError::Unix)?;
        let uid = credentials.uid();
        if is_hidden(uid) {
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

    /// Whether the kernel shows the client's end of a TCP connection, which was dialled at `server`,
    /// and that no process holds it any more: not one that has only closed its sending side.
    ///
    /// False where it shows none: that says nothing, as with an address that was translated on the way.
    pub fn has_let_go(&self, server: SocketAddr) -> bool {
        let Self::Local {
            address: Some(address),
            ..
        } = *self
        else {
            return false;
        };
        let found = sock_diag::lookup(&Ends::new(address, server));
        found.is_ok_and(|found| found.is_some_and(|socket| socket.is_orphan()))
    }

    /// Its address, over TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Local { address, .. } | Self::Unidentified { address, .. } => *address,
            Self::Remote { address, .. } => Some(*address),
        }
    }

    /// The account, where the kernel told it.
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

/// Whether the other side's kernel has acknowledged all that was sent, and the end of the stream.
/// False where the kernel does not tell.
pub(crate) fn has_arrived(connection: &TcpStream) -> bool {
    let (Ok(own), Ok(other)) = (connection.local_addr(), connection.peer_addr()) else {
        return false;
    };
    let found = sock_diag::lookup(&Ends::new(own, other));
    found.is_ok_and(|found| found.is_some_and(|socket| socket.has_ended()))
}

/// Bytes that were sent and that the other side's kernel has not acknowledged; the end of the stream
/// counts as one. 0 where the kernel does not tell, and for a connection that is over.
///
/// Asks the kernel, which takes some ten microseconds.
pub(crate) fn unsent(connection: &TcpStream) -> u64 {
    let (Ok(own), Ok(other)) = (connection.local_addr(), connection.peer_addr()) else {
        return 0;
    };
    let found = sock_diag::lookup(&Ends::new(own, other)).ok().flatten();
    found.map_or(0, |socket| socket.unsent.into())
}

/// Whether a listener can be reached from beyond this host, so that only passwords count.
pub fn is_exposed(listen: &ListenAddress) -> bool {
    match listen {
        ListenAddress::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        ListenAddress::Localhost(_) | ListenAddress::Abstract(_) | ListenAddress::Path(_) => false,
    }
}

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
            if is_hidden(uid) {
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

async fn lookup(stream: &TcpStream, ends: Ends) -> io::Result<Option<KernelSocket>> {
    match sock_diag::lookup(&ends) {
        Ok(Some(socket)) => Ok(Some(socket)),
        // Whoever is not found must not cost a walk over all sockets.
        Ok(None) if sock_diag::works() || connected(stream).is_err() => Ok(None),
        Ok(None) | Err(_) => from_table(ends).await,
    }
}

/// One at a time: a reading takes a tenth of a second where there are tens of thousands of sockets.
async fn from_table(ends: Ends) -> io::Result<Option<KernelSocket>> {
    static TURN: Semaphore = Semaphore::const_new(1);
    let turn = TURN.acquire().await;
    let reading = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        proc_net::lookup(&ends)
    });
    reading.await.map_err(io::Error::other)?
}

/// The client's address while the connection stands; getpeername fails once it has been reset.
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
