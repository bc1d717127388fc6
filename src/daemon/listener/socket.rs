//! Binds the local addresses that q dials: TCP, kdb+'s abstract Unix sockets, socket files.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::held::{HeldSocket, ListeningSockets, SocketOwner};
use super::passed::PassedSockets;
use crate::config::ListenAddress;
use crate::identity::holder::{self, Holder};
use crate::primitives::socket::tune;
use crate::session::client::ClientStream;
use base::error::with_fix;

/// The most connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1_024;
/// How many ports of the system's choice are tried until one is free for IPv4 and IPv6.
const PORT_TRIES: usize = 64;
/// The mode of a socket file that root and the daemon's own account may dial.
const PRIVATE_MODE: u32 = 0o600;
/// The mode of a socket file that every account may dial.
const PUBLIC_MODE: u32 = 0o666;

/// A bound local address: one entry of `listen`.
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
        /// None if the service manager created the socket, and so owns the file.
        file: Option<Arc<SocketFile>>,
    },
}

/// The IPv4 and IPv6 loopback addresses at one port.
#[derive(Debug)]
struct LoopbackPair {
    v4: TcpListener,
    /// None on a host without `::1`.
    v6: Option<TcpListener>,
}

/// The reason why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.message())]
pub struct BindError {
    /// The address as configured.
    pub address: ListenAddress,
    /// The socket that failed. For `localhost` it is an IPv4 or IPv6 address.
    pub socket: ListenAddress,
    /// The address at which hopend itself listens, if that prevents the bind.
    pub own: Option<ListenAddress>,
    /// The process that has the address, if the kernel tells.
    pub holder: Option<Box<Holder>>,
    /// The error of the system.
    pub error: io::Error,
}

impl BindError {
    /// Whether the directory of a socket file does not exist. An administrator may create it later.
    pub fn lacks_directory(&self) -> bool {
        matches!(self.address, ListenAddress::Path(_))
            && self.error.kind() == io::ErrorKind::NotFound
    }

    /// Blocks while it looks for the process that has the address.
    fn new(address: &ListenAddress, failed: SocketError) -> Self {
        let SocketError { socket, error } = failed;
        let in_use = error.kind() == io::ErrorKind::AddrInUse;
        Self {
            address: address.clone(),
            own: None,
            holder: in_use.then(|| holder::of(&socket)).flatten().map(Box::new),
            socket,
            error,
        }
    }

    /// Whether another socket has the address.
    pub fn is_taken(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }

    /// Whether another account may have the address: its process is unknown, or is neither of hopend's
    /// own account nor of root.
    pub fn is_taken_by_another_account(&self) -> bool {
        let own = |holder: &Holder| holder.uid == 0 || holder.uid == geteuid().as_raw();
        self.is_taken() && !self.holder.as_deref().is_some_and(own)
    }

    fn message(&self) -> String {
        let what = format!("listen address {}: {}", self.address, self.cause());
        with_fix(what, self.remedy())
    }

    /// The cause, as the message words it.
    pub fn cause(&self) -> String {
        match (self.error.kind(), &self.own, &self.holder) {
            (io::ErrorKind::AddrInUse, Some(own), _) => {
                format!("hopend itself listens at {own}")
            }
            (io::ErrorKind::AddrInUse, None, Some(holder)) => {
                format!(
                    "another process listens there: {holder} holds {}",
                    self.socket
                )
            }
            (io::ErrorKind::AddrInUse, None, None) => {
                format!("another process listens there: it holds {}", self.socket)
            }
            (io::ErrorKind::AddrNotAvailable, ..) => "this host has no such address".into(),
            (io::ErrorKind::NotFound, ..) => "its directory does not exist".into(),
            _ => self.error.to_string(),
        }
    }

    /// The action that lets the next attempt succeed.
    pub fn remedy(&self) -> String {
        match (self.error.kind(), &self.own) {
            (io::ErrorKind::AddrInUse, Some(_)) => "restart hopend, or choose another port".into(),
            (io::ErrorKind::AddrInUse, None) => {
                let find = match self.socket.tcp_sockets().first() {
                    Some(socket) => format!("ss -ltnp 'sport = :{}'", socket.port()),
                    None => "ss -lxp".to_owned(),
                };
                format!("end that process (as root, {find} shows it), or choose another address")
            }
            (io::ErrorKind::NotFound, _) => {
                "make the directory, writable for the account that runs hopend".into()
            }
            (io::ErrorKind::PermissionDenied, _) => {
                "choose a port from 1024 up, or a folder that the daemon may write to".into()
            }
            (io::ErrorKind::AddrNotAvailable, _) => "choose an address that `ip addr` shows".into(),
            _ => "choose another address".into(),
        }
    }
}

/// A failure to bind one socket of an address.
struct SocketError {
    socket: ListenAddress,
    error: io::Error,
}

impl SocketError {
    fn at(socket: &ListenAddress) -> impl FnOnce(io::Error) -> Self {
        let socket = socket.clone();
        move |error| Self { socket, error }
    }
}

impl Listener {
    /// Binds an address for clients. Every account may dial it, also as a socket file in a folder that
    /// the account may enter, because the kernel tells hopend which account dials. Must be called within
    /// a tokio runtime.
    pub(crate) fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        Self::with(&ListeningSockets::default(), address)
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

    /// Binds an address for clients. It uses the sockets in `listening` that fit and creates the others.
    /// It binds all sockets of the address or none. On failure it blocks while it looks for the process
    /// that has the address. Must be called within a tokio runtime.
    pub(crate) fn with(
        listening: &ListeningSockets<'_>,
        address: &ListenAddress,
    ) -> Result<Self, BindError> {
        let kind = match address {
            ListenAddress::Localhost(port) => {
                bind_loopback_pair(listening, *port).map(ListenerKind::Localhost)
            }
            ListenAddress::Tcp(_) => bind_or_reuse_tcp(listening, address).map(ListenerKind::Tcp),
            ListenAddress::Abstract(port) => match listening.find(address) {
                Some(found) => found.kind.unix(),
                None => bind_abstract(*port),
            }
            .map(ListenerKind::Abstract)
            .map_err(SocketError::at(address)),
            ListenAddress::Path(path) => {
                bind_or_reuse_path(listening, address, path).map_err(SocketError::at(address))
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

    /// The bound address. For port 0 it has the port that the system chose.
    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Duplicates of its sockets. The kernel listens at the address until they are closed too.
    ///
    /// # Errors
    /// The file descriptors are used up.
    pub(crate) fn duplicates(&self, passed_sockets: &PassedSockets) -> io::Result<Vec<HeldSocket>> {
        let mut held = match &self.kind {
            ListenerKind::Localhost(LoopbackPair { v4, v6 }) => {
                let both = std::iter::once(v4).chain(v6);
                both.map(HeldSocket::of_tcp).collect::<io::Result<_>>()?
            }
            ListenerKind::Tcp(listener) => vec![HeldSocket::of_tcp(listener)?],
            ListenerKind::Abstract(listener) => {
                vec![HeldSocket::of_unix(listener, &self.address, None)?]
            }
            ListenerKind::Path { listener, file } => {
                vec![HeldSocket::of_unix(listener, &self.address, file.clone())?]
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
    pub(crate) fn moved_here(self) -> io::Result<Self> {
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

/// Binds both loopback sockets or neither. For port 0 it finds a port that is free for both.
fn bind_loopback_pair(
    listening: &ListeningSockets<'_>,
    port: u16,
) -> Result<LoopbackPair, SocketError> {
    let mut tries = if port == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let v4 = LoopbackSocket::bind(listening, (Ipv4Addr::LOCALHOST, port).into())?;
        let v4_address = v4.local_addr()?;
        let v6 = match LoopbackSocket::bind(
            listening,
            (Ipv6Addr::LOCALHOST, v4_address.port()).into(),
        ) {
            Ok(v6) => Some(v6),
            Err(SocketError { error, .. }) if is_ipv6_absent(&error) => None,
            Err(SocketError { error, .. })
                if tries > 0 && error.kind() == io::ErrorKind::AddrInUse =>
            {
                continue;
            }
            Err(failed) => return Err(failed),
        };
        // Neither socket listens before both are bound.
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

/// The IPv4 or IPv6 socket of `localhost`, before both listen.
struct LoopbackSocket {
    address: ListenAddress,
    state: LoopbackState,
}

enum LoopbackState {
    Bound(Socket),
    /// A passed socket, or one of an address that a reload drops.
    Listening(TcpListener),
}

impl LoopbackSocket {
    fn bind(listening: &ListeningSockets<'_>, address: SocketAddr) -> Result<Self, SocketError> {
        let listen = ListenAddress::Tcp(address);
        let state = match listening.find(&listen) {
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

fn bind_or_reuse_tcp(
    listening: &ListeningSockets<'_>,
    address: &ListenAddress,
) -> Result<TcpListener, SocketError> {
    let listener = match (listening.find(address), address.tcp_sockets().first()) {
        (Some(found), _) => found.kind.tcp(),
        (None, Some(socket)) => bind_tcp(*socket).and_then(listen),
        (None, None) => Err(io::ErrorKind::InvalidInput.into()),
    };
    listener.map_err(SocketError::at(address))
}

fn bind_or_reuse_path(
    listening: &ListeningSockets<'_>,
    address: &ListenAddress,
    path: &Path,
) -> io::Result<ListenerKind> {
    match listening.find(address) {
        Some(HeldSocket {
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

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
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

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds `@/tmp/kx.PORT`, at its exact length. q on Linux dials it for `` `:unix://PORT `` since 3.5.
fn bind_abstract(port: u16) -> io::Result<UnixListener> {
    let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))?;
    let listener = StdUnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn bind_path(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode of the socket. So there is no moment at which other accounts may connect.
    fchmod(&socket, Mode::from_bits_truncate(PRIVATE_MODE))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if mode != PRIVATE_MODE {
        // The bind applied the umask, which must not restrict this file.
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, SocketFile::at(path)))
}

/// Whether a connection to this path reaches a socket of hopend's own account. The previous process
/// created the file, and another process may have replaced it since.
fn is_own_socket(path: &Path) -> bool {
    holder::of_unix(path).is_ok_and(|holder| holder.uid == geteuid().as_raw())
}

/// Removes the socket file of a process that was killed. If a process listens there, the file stays,
/// even if that process accepts nothing. Does not wait for it.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Identifies a file, also when another file has taken its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file at this path, without following a link. None if there is none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// A socket file that hopend created. When it is dropped, the file is removed, unless the service manager
/// keeps the socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: Option<FileId>,
    outlives_hopend: AtomicBool,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            id: FileId::at(path),
            outlives_hopend: AtomicBool::new(false),
        }
    }

    pub(super) fn set_outlives_hopend(&self, outlives: bool) {
        self.outlives_hopend.store(outlives, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.outlives_hopend.load(Ordering::Relaxed) {
            return;
        }
        // Another process may have replaced the file by its own.
        if self.id.is_some() && FileId::at(&self.path) == self.id {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream as StdUnixStream;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::held::SocketKind;
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
    async fn a_file_that_is_another_s_by_now_stays() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Path(folder.path().join("socket"));
        let first = Listener::bind(&address).unwrap();
        std::fs::remove_file(folder.path().join("socket")).unwrap();
        let _second = Listener::bind(&address).unwrap();
        drop(first);
        StdUnixStream::connect(folder.path().join("socket")).unwrap();
    }

    #[tokio::test]
    async fn a_socket_file_is_for_everybody_or_its_owner_alone_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        let address = ListenAddress::Path(path.clone());
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let own = Listener::bind_private(&path).unwrap();
        assert_eq!(mode(), 0o600);
        drop(own);
        let listener = Listener::bind(&address).unwrap();
        assert_eq!(mode(), 0o666);
        let taken = Listener::bind(&address).unwrap_err();
        assert!(taken.to_string().contains("another process"), "{taken}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_file_left_by_a_killed_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&ListenAddress::Path(path)).unwrap();
    }

    #[test]
    fn a_process_that_accepts_nothing_is_there_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        let address = SockAddr::unix(&path).unwrap();
        let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stopped.bind(&address).unwrap();
        stopped.listen(1).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            match client.connect(&address) {
                Ok(()) => waiting.push(client),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let (done, looked) = mpsc::channel();
        let at = path.clone();
        // Not joined: without an answer it hangs.
        std::thread::spawn(move || done.send(remove_stale(&at).is_ok()));
        assert_eq!(looked.recv_timeout(Duration::from_secs(30)), Ok(true));
        assert!(path.exists());
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
