//! Binds `localhost`, which means one port at both loopback addresses, IPv4 and IPv6.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;
use tokio::net::TcpListener;

use super::bind_error::SocketError;
use super::kept::ReusableSockets;
use super::socket::{bind_tcp, listen};
use crate::config::ListenAddress;

/// The most ports of the system's choice that hopend tries until a port is free for IPv4 and IPv6.
const PORT_TRIES: usize = 64;

/// The listening sockets at both loopback addresses, with the same port.
#[derive(Debug)]
pub(super) struct LoopbackPair {
    pub(super) v4: TcpListener,
    /// `None` on a host without `::1`.
    pub(super) v6: Option<TcpListener>,
}

/// Binds both loopback sockets or neither. For port 0, finds a port that is free at both addresses.
pub(super) fn bind_loopback_pair(
    reusable: &ReusableSockets<'_>,
    port: u16,
) -> Result<LoopbackPair, SocketError> {
    let mut tries = if port == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let v4 = LoopbackSocket::bind(reusable, (Ipv4Addr::LOCALHOST, port).into())?;
        let v4_address = v4.local_addr()?;
        let v6 =
            match LoopbackSocket::bind(reusable, (Ipv6Addr::LOCALHOST, v4_address.port()).into()) {
                Ok(v6) => Some(v6),
                Err(SocketError { error, .. }) if is_ipv6_absent(&error) => None,
                Err(SocketError { error, .. })
                    if tries > 0 && error.kind() == io::ErrorKind::AddrInUse =>
                {
                    continue;
                }
                Err(failed) => return Err(failed),
            };
        // A new socket listens only now, when both are bound.
        return Ok(LoopbackPair {
            v4: v4.listen()?,
            v6: v6.map(LoopbackSocket::listen).transpose()?,
        });
    }
}

/// Whether the error means that the host has no IPv6 loopback.
fn is_ipv6_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// The IPv4 or IPv6 socket of `localhost`, while the pair is being bound.
struct LoopbackSocket {
    address: ListenAddress,
    state: LoopbackState,
}

enum LoopbackState {
    Bound(Socket),
    /// A socket that the service manager passed, or a socket of an address that a reload drops.
    Listening(TcpListener),
}

impl LoopbackSocket {
    fn bind(reusable: &ReusableSockets<'_>, address: SocketAddr) -> Result<Self, SocketError> {
        let listen = ListenAddress::Tcp(address);
        let state = match reusable.find(&listen) {
            Some(found) => found.kind.tcp().map(LoopbackState::Listening),
            None => bind_tcp(address).map(LoopbackState::Bound),
        };
        let state = state.map_err(SocketError::at(&listen))?;
        Ok(Self {
            address: listen,
            state,
        })
    }

    fn local_addr(&self) -> Result<SocketAddr, SocketError> {
        let address = match &self.state {
            LoopbackState::Bound(socket) => socket.local_addr().map(|address| address.as_socket()),
            LoopbackState::Listening(listener) => listener.local_addr().map(Some),
        };
        let address = address.and_then(|address| address.ok_or(io::ErrorKind::InvalidData.into()));
        address.map_err(SocketError::at(&self.address))
    }

    fn listen(self) -> Result<TcpListener, SocketError> {
        match self.state {
            LoopbackState::Bound(socket) => listen(socket).map_err(SocketError::at(&self.address)),
            LoopbackState::Listening(listener) => Ok(listener),
        }
    }
}
