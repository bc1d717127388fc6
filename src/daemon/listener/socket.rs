//! The local addresses that q dials: TCP, kdb+'s abstract Unix sockets, socket files.

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

use super::held::{HeldSocket, Listening, SocketOwner};
use super::passed::Passed;
use crate::config::ListenAddress;
use crate::identity::holder::{self, SocketHolder};
use crate::primitives::socket::tune;
use crate::session::client::ClientStream;
use base::error::with_fix;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;
/// Ports of the system's choice that are tried until one is free in both families.
const PORT_TRIES: usize = 64;
/// Modes of a socket file: who may dial it.
const OWNER: u32 = 0o600;
const EVERYBODY: u32 = 0o666;

/// A bound local address.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: ListenAddress,
}

#[derive(Debug)]
enum Kind {
    Localhost(LoopbackPair),
    Tcp(TcpListener),
    Abstract(UnixListener),
    Path {
        listener: UnixListener,
        /// None where the service manager made it, whose file it is.
        file: Option<Arc<SocketFile>>,
    },
}

/// The loopback addresses of both families at one port.
#[derive(Debug)]
struct LoopbackPair {
    v4: TcpListener,
    /// None on a host without ::1.
    v6: Option<TcpListener>,
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.told())]
pub struct BindError {
    /// As configured.
    pub address: ListenAddress,
    /// The socket that failed: for `localhost`, the one of either family.
    pub socket: ListenAddress,
    /// Where hopend itself listens, if that is in the way.
    pub own: Option<ListenAddress>,
    /// Who has it, where another process does and the kernel tells.
    pub holder: Option<Box<SocketHolder>>,
    /// What the system said.
    pub error: io::Error,
}

impl BindError {
    /// Whether the directory of a socket file does not exist. Somebody may yet make it.
    pub fn lacks_directory(&self) -> bool {
        matches!(self.address, ListenAddress::Path(_))
            && self.error.kind() == io::ErrorKind::NotFound
    }

    /// Blocks for the look-up of the holder.
    fn new(address: &ListenAddress, failed: SocketError) -> Self {
        let SocketError { socket, error } = failed;
        let in_use = error.kind() == io::ErrorKind::AddrInUse;
        Self {
            address: address.clone(),
            own: None,
            holder: in_use
                .then(|| holder::find(&socket))
                .flatten()
                .map(Box::new),
            socket,
            error,
        }
    }

    /// Whether another socket has the address.
    pub fn is_taken(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }

    /// Whether a socket has the address that is not known to be of hopend's own account or root.
    pub fn is_taken_by_another_account(&self) -> bool {
        let own = |holder: &SocketHolder| holder.uid == 0 || holder.uid == geteuid().as_raw();
        self.is_taken() && !self.holder.as_deref().is_some_and(own)
    }

    fn told(&self) -> String {
        let what = format!("listen address {}: {}", self.address, self.cause());
        with_fix(what, self.remedy())
    }

    /// What keeps hopend from the address.
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

    /// What to do about it.
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

/// One socket could not be had.
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
    /// Binds for clients: every account that may enter the folder of a socket file may dial it, as
    /// any address of this host, because the kernel tells which account dials. Needs a tokio runtime.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        Self::with(&Listening::default(), address)
    }

    /// Binds a socket file that root and this account alone may dial. Needs a tokio runtime.
    pub fn bind_private(path: &Path) -> Result<Self, BindError> {
        let address = ListenAddress::Path(path.to_path_buf());
        let bound = bind_path(path, OWNER).map_err(SocketError::at(&address));
        match bound {
            Ok((listener, file)) => Ok(Self {
                kind: Kind::Path {
                    listener,
                    file: Some(Arc::new(file)),
                },
                address,
            }),
            Err(failed) => Err(BindError::new(&address, failed)),
        }
    }

    /// Uses the sockets that listen at this address already, and binds what is missing: all of its
    /// sockets or none. Needs a tokio runtime; blocks for the look-up of the holder on failure.
    pub fn with(listening: &Listening<'_>, address: &ListenAddress) -> Result<Self, BindError> {
        let kind = match address {
            ListenAddress::Localhost(port) => pair(listening, *port).map(Kind::Localhost),
            ListenAddress::Tcp(_) => single(listening, address).map(Kind::Tcp),
            ListenAddress::Abstract(port) => match listening.find(address) {
                Some(found) => found.kind.unix(),
                None => bind_abstract(*port),
            }
            .map(Kind::Abstract)
            .map_err(SocketError::at(address)),
            ListenAddress::Path(path) => {
                at_path(listening, address, path).map_err(SocketError::at(address))
            }
        };
        let failed = |failed| BindError::new(address, failed);
        let kind = kind.map_err(failed)?;
        let local = match &kind {
            // Port 0 became a port.
            Kind::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Kind::Localhost(LoopbackPair { v4, .. }) => {
                let local = v4.local_addr();
                local.map(|local| ListenAddress::Localhost(local.port()))
            }
            Kind::Abstract(_) | Kind::Path { .. } => Ok(address.clone()),
        };
        let address = local.map_err(SocketError::at(address)).map_err(failed)?;
        Ok(Self { kind, address })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Duplicates of its sockets: the address is listened at until they are closed as well.
    ///
    /// # Errors
    /// File descriptors are used up.
    pub fn duplicates(&self, passed: &Passed) -> io::Result<Vec<HeldSocket>> {
        let mut held = match &self.kind {
            Kind::Localhost(LoopbackPair { v4, v6 }) => {
                let both = std::iter::once(v4).chain(v6);
                both.map(HeldSocket::of_tcp).collect::<io::Result<_>>()?
            }
            Kind::Tcp(listener) => vec![HeldSocket::of_tcp(listener)?],
            Kind::Abstract(listener) => vec![HeldSocket::of_unix(listener, &self.address, None)?],
            Kind::Path { listener, file } => {
                vec![HeldSocket::of_unix(listener, &self.address, file.clone())?]
            }
        };
        for socket in &mut held {
            socket.owner = passed.owner_of(&socket.address);
        }
        Ok(held)
    }

    /// Moves it to the runtime that this is called from.
    ///
    /// # Errors
    /// A runtime refuses the socket.
    pub fn moved_here(self) -> io::Result<Self> {
        let tcp = |listener: TcpListener| TcpListener::from_std(listener.into_std()?);
        let unix = |listener: UnixListener| UnixListener::from_std(listener.into_std()?);
        let kind = match self.kind {
            Kind::Localhost(LoopbackPair { v4, v6 }) => Kind::Localhost(LoopbackPair {
                v4: tcp(v4)?,
                v6: v6.map(tcp).transpose()?,
            }),
            Kind::Tcp(listener) => Kind::Tcp(tcp(listener)?),
            Kind::Abstract(listener) => Kind::Abstract(unix(listener)?),
            Kind::Path { listener, file } => Kind::Path {
                listener: unix(listener)?,
                file,
            },
        };
        Ok(Self {
            kind,
            address: self.address,
        })
    }

    /// The next connection. Cancel-safe.
    pub async fn accept(&self) -> io::Result<ClientStream> {
        match &self.kind {
            Kind::Localhost(LoopbackPair { v4, v6: Some(v6) }) => {
                let (stream, _) = tokio::select! {
                    accepted = v4.accept() => accepted?,
                    accepted = v6.accept() => accepted?,
                };
                Ok(ClientStream::Tcp(stream))
            }
            Kind::Tcp(listener)
            | Kind::Localhost(LoopbackPair {
                v4: listener,
                v6: None,
            }) => Ok(ClientStream::Tcp(listener.accept().await?.0)),
            Kind::Abstract(listener) | Kind::Path { listener, .. } => {
                Ok(ClientStream::Unix(listener.accept().await?.0))
            }
        }
    }
}

/// Both loopback sockets, or neither. Where the system chooses the port, it is free in both families.
fn pair(listening: &Listening<'_>, port: u16) -> Result<LoopbackPair, SocketError> {
    let mut tries = if port == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let v4 = Half::of(listening, (Ipv4Addr::LOCALHOST, port).into())?;
        let v4_address = v4.local_addr()?;
        let v6 = match Half::of(listening, (Ipv6Addr::LOCALHOST, v4_address.port()).into()) {
            Ok(v6) => Some(v6),
            Err(SocketError { error, .. }) if is_absent(&error) => None,
            Err(SocketError { error, .. })
                if tries > 0 && error.kind() == io::ErrorKind::AddrInUse =>
            {
                continue;
            }
            Err(failed) => return Err(failed),
        };
        // Neither listens before both are bound.
        return Ok(LoopbackPair {
            v4: v4.listen()?,
            v6: v6.map(Half::listen).transpose()?,
        });
    }
}

/// Whether the host has no IPv6 loopback.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// One family of `localhost`, before it listens.
struct Half {
    address: ListenAddress,
    socket: HalfSocket,
}

enum HalfSocket {
    Bound(Socket),
    Listens(TcpListener),
}

impl Half {
    fn of(listening: &Listening<'_>, address: SocketAddr) -> Result<Self, SocketError> {
        let listen = ListenAddress::Tcp(address);
        let socket = match listening.find(&listen) {
            Some(found) => found.kind.tcp().map(HalfSocket::Listens),
            None => bind_tcp(address).map(HalfSocket::Bound),
        };
        let socket = socket.map_err(SocketError::at(&listen))?;
        Ok(Self {
            address: listen,
            socket,
        })
    }

    fn local_addr(&self) -> Result<SocketAddr, SocketError> {
        let address = match &self.socket {
            HalfSocket::Bound(socket) => socket.local_addr().map(|address| address.as_socket()),
            HalfSocket::Listens(listener) => listener.local_addr().map(Some),
        };
        let address = address.and_then(|address| address.ok_or(io::ErrorKind::InvalidData.into()));
        address.map_err(SocketError::at(&self.address))
    }

    fn listen(self) -> Result<TcpListener, SocketError> {
        match self.socket {
            HalfSocket::Bound(socket) => listen(socket).map_err(SocketError::at(&self.address)),
            HalfSocket::Listens(listener) => Ok(listener),
        }
    }
}

fn single(listening: &Listening<'_>, address: &ListenAddress) -> Result<TcpListener, SocketError> {
    let listener = match (listening.find(address), address.tcp_sockets().first()) {
        (Some(found), _) => found.kind.tcp(),
        (None, Some(socket)) => bind_tcp(*socket).and_then(listen),
        (None, None) => Err(io::ErrorKind::InvalidInput.into()),
    };
    listener.map_err(SocketError::at(address))
}

fn at_path(listening: &Listening<'_>, address: &ListenAddress, path: &Path) -> io::Result<Kind> {
    match listening.find(address) {
        Some(HeldSocket {
            owner: SocketOwner::Manager,
            kind,
            ..
        }) => Ok(Kind::Path {
            listener: kind.unix()?,
            file: None,
        }),
        Some(found) if leads_here(path) => Ok(Kind::Path {
            listener: found.kind.unix()?,
            file: Some(Arc::new(SocketFile::at(path))),
        }),
        _ => bind_path(path, EVERYBODY).map(|(listener, file)| Kind::Path {
            listener,
            file: Some(Arc::new(file)),
        }),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::]:5010 takes IPv4 clients as well, whatever the host's default is.
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

/// `@/tmp/kx.PORT` at its exact length: what q on Linux dials for `` `:unix://PORT `` since 3.5.
fn bind_abstract(port: u16) -> io::Result<UnixListener> {
    let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))?;
    let listener = StdUnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn bind_path(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode of the socket, so there is no moment at which others may connect.
    fchmod(&socket, Mode::from_bits_truncate(OWNER))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if mode != OWNER {
        // The umask, which a bind heeds, is for other files.
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, SocketFile::at(path)))
}

/// Whether a connection to this path reaches a socket of hopend's own account. It was made by the
/// process before this one, and its file may have been replaced since.
fn leads_here(path: &Path) -> bool {
    holder::of_unix(path).is_ok_and(|holder| holder.uid == geteuid().as_raw())
}

/// A socket file that nobody answers is left over from a process that was killed. Does not wait for
/// one that is there and accepts nothing: it lives.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let answer = socket.connect(&SockAddr::unix(path)?);
    if answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Tells a file from another that takes its name later: its device and number.
pub fn which(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes the file with the last listener, unless the service manager keeps the socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    which: Option<(u64, u64)>,
    outlives_hopend: AtomicBool,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            which: which(path),
            outlives_hopend: AtomicBool::new(false),
        }
    }

    pub(super) fn outlives(&self, outlives: bool) {
        self.outlives_hopend.store(outlives, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.outlives_hopend.load(Ordering::Relaxed) {
            return;
        }
        // Somebody may have removed it already, and another daemon taken its place.
        if self.which.is_some() && which(&self.path) == self.which {
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
        let Kind::Localhost(LoopbackPair { v4, v6 }) =
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
