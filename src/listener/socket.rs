//! Binds the local addresses that q clients dial: TCP addresses, kdb+'s abstract Unix sockets and
//! socket files.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::bind_error::{BindError, SocketError};
use super::kept::{ListeningSocket, ReusableSockets, SocketOwner};
use super::loopback_pair::{LoopbackPair, bind_loopback_pair};
use super::passed::PassedSockets;
use super::socket_file::{PRIVATE_MODE, PUBLIC_MODE, SocketFile, bind_path, is_own_socket};
use crate::config::ListenAddress;
use crate::primitives::socket::tune;
use crate::session::client::ClientStream;

/// The most connections that wait in the kernel to be accepted.
pub(super) const BACKLOG: i32 = 1_024;

/// A bound local address, which is one entry of `listen`.
#[derive(Debug)]
pub(crate) struct Listener {
    kind: ListenerKind,
    address: ListenAddress,
}

#[derive(Debug)]
enum ListenerKind {
    Localhost(LoopbackPair),
    Tcp(TcpListener),
    Abstract(UnixListener),
    Path {
        listener: UnixListener,
        /// `None` if the service manager created the socket, and so owns the file.
        file: Option<Arc<SocketFile>>,
    },
}

impl Listener {
    /// Binds an address for clients. Every account may dial the address, because the kernel tells
    /// hopend which account dials. For a socket file, the account needs access to the directory. Must
    /// be called within a tokio runtime.
    pub(crate) fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        Self::bind_reusing(&ReusableSockets::default(), address)
    }

    /// Binds a socket file that only root and the daemon's own account may dial. Must be called within a
    /// tokio runtime.
    pub(crate) fn bind_private(path: &Path) -> Result<Self, BindError> {
        let address = ListenAddress::Path(path.to_path_buf());
        let bound = bind_path(path, PRIVATE_MODE).map_err(SocketError::at(&address));
        match bound {
            Ok((listener, file)) => Ok(Self {
                kind: ListenerKind::Path {
                    listener,
                    file: Some(Arc::new(file)),
                },
                address,
            }),
            Err(failed) => Err(BindError::new(&address, failed)),
        }
    }

    /// Binds an address for clients. Uses the sockets in `reusable` that fit, and creates the others.
    /// Binds all sockets of the address or none. On failure, blocks while it looks for the process that
    /// has the address. Must be called within a tokio runtime.
    pub(crate) fn bind_reusing(
        reusable: &ReusableSockets<'_>,
        address: &ListenAddress,
    ) -> Result<Self, BindError> {
        let kind = match address {
            ListenAddress::Localhost(port) => {
                bind_loopback_pair(reusable, *port).map(ListenerKind::Localhost)
            }
            ListenAddress::Tcp(_) => bind_or_reuse_tcp(reusable, address).map(ListenerKind::Tcp),
            ListenAddress::Abstract(port) => match reusable.find(address) {
                Some(found) => found.kind.unix(),
                None => bind_abstract(*port),
            }
            .map(ListenerKind::Abstract)
            .map_err(SocketError::at(address)),
            ListenAddress::Path(path) => {
                bind_or_reuse_path(reusable, address, path).map_err(SocketError::at(address))
            }
        };
        let failed = |failed| BindError::new(address, failed);
        let kind = kind.map_err(failed)?;
        let local = match &kind {
            // The system has chosen a port for port 0.
            ListenerKind::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            ListenerKind::Localhost(LoopbackPair { v4, .. }) => {
                let local = v4.local_addr();
                local.map(|local| ListenAddress::Localhost(local.port()))
            }
            ListenerKind::Abstract(_) | ListenerKind::Path { .. } => Ok(address.clone()),
        };
        let address = local.map_err(SocketError::at(address)).map_err(failed)?;
        Ok(Self { kind, address })
    }

    /// The bound address. If the configured port is 0, this address has the port that the system chose.
    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Duplicates of the listener's sockets. The kernel listens at the address until the duplicates are
    /// closed too.
    ///
    /// # Errors
    /// The file descriptors are used up.
    pub(crate) fn duplicates(
        &self,
        passed_sockets: &PassedSockets,
    ) -> io::Result<Vec<ListeningSocket>> {
        let mut held = match &self.kind {
            ListenerKind::Localhost(LoopbackPair { v4, v6 }) => {
                let both = std::iter::once(v4).chain(v6);
                both.map(ListeningSocket::of_tcp)
                    .collect::<io::Result<_>>()?
            }
            ListenerKind::Tcp(listener) => vec![ListeningSocket::of_tcp(listener)?],
            ListenerKind::Abstract(listener) => {
                vec![ListeningSocket::of_unix(listener, &self.address, None)?]
            }
            ListenerKind::Path { listener, file } => {
                vec![ListeningSocket::of_unix(
                    listener,
                    &self.address,
                    file.clone(),
                )?]
            }
        };
        for socket in &mut held {
            socket.owner = passed_sockets.owner_of(&socket.address);
        }
        Ok(held)
    }

    /// Moves the listener to the current runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub(crate) fn into_current_runtime(self) -> io::Result<Self> {
        let tcp = |listener: TcpListener| TcpListener::from_std(listener.into_std()?);
        let unix = |listener: UnixListener| UnixListener::from_std(listener.into_std()?);
        let kind = match self.kind {
            ListenerKind::Localhost(LoopbackPair { v4, v6 }) => {
                ListenerKind::Localhost(LoopbackPair {
                    v4: tcp(v4)?,
                    v6: v6.map(tcp).transpose()?,
                })
            }
            ListenerKind::Tcp(listener) => ListenerKind::Tcp(tcp(listener)?),
            ListenerKind::Abstract(listener) => ListenerKind::Abstract(unix(listener)?),
            ListenerKind::Path { listener, file } => ListenerKind::Path {
                listener: unix(listener)?,
                file,
            },
        };
        Ok(Self {
            kind,
            address: self.address,
        })
    }

    /// Accepts the next connection. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<ClientStream> {
        match &self.kind {
            ListenerKind::Localhost(LoopbackPair { v4, v6: Some(v6) }) => {
                let (stream, _) = tokio::select! {
                    accepted = v4.accept() => accepted?,
                    accepted = v6.accept() => accepted?,
                };
                Ok(ClientStream::Tcp(stream))
            }
            ListenerKind::Tcp(listener)
            | ListenerKind::Localhost(LoopbackPair {
                v4: listener,
                v6: None,
            }) => Ok(ClientStream::Tcp(listener.accept().await?.0)),
            ListenerKind::Abstract(listener) | ListenerKind::Path { listener, .. } => {
                Ok(ClientStream::Unix(listener.accept().await?.0))
            }
        }
    }
}

fn bind_or_reuse_tcp(
    reusable: &ReusableSockets<'_>,
    address: &ListenAddress,
) -> Result<TcpListener, SocketError> {
    let listener = match (reusable.find(address), address.tcp_sockets().first()) {
        (Some(found), _) => found.kind.tcp(),
        (None, Some(socket)) => bind_tcp(*socket).and_then(listen),
        (None, None) => Err(io::ErrorKind::InvalidInput.into()),
    };
    listener.map_err(SocketError::at(address))
}

fn bind_or_reuse_path(
    reusable: &ReusableSockets<'_>,
    address: &ListenAddress,
    path: &Path,
) -> io::Result<ListenerKind> {
    match reusable.find(address) {
        Some(ListeningSocket {
            owner: SocketOwner::Manager,
            kind,
            ..
        }) => Ok(ListenerKind::Path {
            listener: kind.unix()?,
            file: None,
        }),
        Some(found) if is_own_socket(path) => Ok(ListenerKind::Path {
            listener: found.kind.unix()?,
            file: Some(Arc::new(SocketFile::at(path))),
        }),
        _ => bind_path(path, PUBLIC_MODE).map(|(listener, file)| ListenerKind::Path {
            listener,
            file: Some(Arc::new(file)),
        }),
    }
}

pub(super) fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::]:5010 accepts IPv4 clients too, whatever the default of the host is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

pub(super) fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds the abstract name `@/tmp/kx.PORT` without padding. Since 3.5, q on Linux dials this name for
/// the handle `` `:unix://PORT ``.
fn bind_abstract(port: u16) -> io::Result<UnixListener> {
    let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))?;
    let listener = StdUnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::super::kept::SocketKind;
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_sends_at_once_and_notices_a_peer_that_vanished() {
        let passed = SocketKind::Tcp(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let ListenerKind::Localhost(LoopbackPair { v4, v6 }) =
            Listener::bind(&ListenAddress::Localhost(0)).unwrap().kind
        else {
            panic!("no pair");
        };
        for listener in [v4, v6.unwrap(), passed.tcp().unwrap()] {
            let address = listener.local_addr().unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let socket = socket2::SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 60);
            assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 15);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_way_to_find_who_has_it() {
        let listener = Listener::bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let again = Listener::bind(listener.address()).unwrap_err().to_string();
        assert!(
            again.contains("another process") && again.contains("ss -ltnp"),
            "{again}"
        );
    }

    #[tokio::test]
    async fn the_abstract_name_has_its_exact_length() {
        // A port of this process's own: abstract names are shared by the whole host.
        let port = 1 + u16::try_from(std::process::id() % 60_000).unwrap();
        let _listener = Listener::bind(&ListenAddress::Abstract(port)).unwrap();
        let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{port}")).unwrap();
        StdUnixStream::connect_addr(&name).unwrap();
    }
}
