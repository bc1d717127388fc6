//! The local addresses that q dials: TCP, kdb+'s abstract Unix sockets, socket files.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::passed::{Passed, PassedKind};
use crate::client::ClientStream;
use crate::config::ListenAddress;
use crate::error::with_fix;
use crate::socket::tune;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;
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
    Tcp(TcpListener),
    Abstract(UnixListener),
    Path {
        listener: UnixListener,
        /// None where the service manager made it, whose file it is.
        _file: Option<SocketFile>,
    },
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.told())]
pub struct BindError {
    /// As configured.
    pub address: ListenAddress,
    /// Where hopend itself listens, if that is in the way.
    pub own: Option<ListenAddress>,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// Whether the directory of a socket file does not exist. Somebody may yet make it.
    pub fn lacks_directory(&self) -> bool {
        matches!(self.address, ListenAddress::Path(_))
            && self.source.kind() == io::ErrorKind::NotFound
    }

    fn told(&self) -> String {
        let address = &self.address;
        let (what, fix) = match (self.source.kind(), &self.own) {
            (io::ErrorKind::AddrInUse, Some(own)) => (
                format!("hopend itself listens at {own}, which a reload gives up last"),
                "restart hopend, or choose another port".into(),
            ),
            (io::ErrorKind::AddrInUse, None) => {
                let find = match address {
                    ListenAddress::Tcp(address) => {
                        format!("ss -ltnp 'sport = :{}'", address.port())
                    }
                    _ => "ss -lxp".to_owned(),
                };
                (
                    "another process listens there".into(),
                    format!("find it with {find}, or choose another address"),
                )
            }
            (io::ErrorKind::NotFound, _) => (
                "its directory does not exist".into(),
                "make the directory, writable for the account that runs hopend".into(),
            ),
            (io::ErrorKind::PermissionDenied, _) => (
                "not allowed".into(),
                "choose a port from 1024 up, or a folder that the daemon may write to".into(),
            ),
            (io::ErrorKind::AddrNotAvailable, _) => (
                "this host has no such address".into(),
                "choose an address that `ip addr` shows".into(),
            ),
            _ => ("can't be bound".into(), String::new()),
        };
        with_fix(format_args!("listen address {address}: {what}"), fix)
    }
}

impl Listener {
    /// Binds for clients: whoever may enter the folder of a socket file may dial it, as any address
    /// of this host, for the kernel tells who it is. Needs a tokio runtime.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        Self::bind_for(address, EVERYBODY)
    }

    /// Binds a socket file that root and this account alone may dial. Needs a tokio runtime.
    pub fn bind_private(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(&ListenAddress::Path(path.to_path_buf()), OWNER)
    }

    fn bind_for(address: &ListenAddress, mode: u32) -> Result<Self, BindError> {
        let bound = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Kind::Tcp),
            ListenAddress::Abstract(port) => bind_abstract(*port).map(Kind::Abstract),
            ListenAddress::Path(path) => bind_path(path, mode).map(|(listener, file)| Kind::Path {
                listener,
                _file: Some(file),
            }),
        };
        let failed = |source| BindError {
            address: address.clone(),
            own: None,
            source,
        };
        let kind = bound.map_err(failed)?;
        let address = match &kind {
            // Port 0 became a port.
            Kind::Tcp(listener) => ListenAddress::Tcp(listener.local_addr().map_err(failed)?),
            Kind::Abstract(_) | Kind::Path { .. } => address.clone(),
        };
        Ok(Self { kind, address })
    }

    /// What was passed for this address, else as [`Self::bind`].
    pub fn passed_or_bound(passed: &Passed, address: &ListenAddress) -> Result<Self, BindError> {
        let Some(kind) = passed.find(address) else {
            return Self::bind(address);
        };
        let kind = take_over(kind, address).map_err(|source| BindError {
            address: address.clone(),
            own: None,
            source,
        })?;
        Ok(Self {
            kind,
            address: address.clone(),
        })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Moves it to the runtime that this is called from.
    ///
    /// # Errors
    /// One of the runtimes does not play along.
    pub fn moved_here(self) -> io::Result<Self> {
        let kind = match self.kind {
            Kind::Tcp(listener) => Kind::Tcp(TcpListener::from_std(listener.into_std()?)?),
            Kind::Abstract(listener) => {
                Kind::Abstract(UnixListener::from_std(listener.into_std()?)?)
            }
            Kind::Path { listener, _file } => Kind::Path {
                listener: UnixListener::from_std(listener.into_std()?)?,
                _file,
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
            Kind::Tcp(listener) => Ok(ClientStream::Tcp(listener.accept().await?.0)),
            Kind::Abstract(listener) | Kind::Path { listener, .. } => {
                Ok(ClientStream::Unix(listener.accept().await?.0))
            }
        }
    }
}

fn take_over(passed: &PassedKind, address: &ListenAddress) -> io::Result<Kind> {
    match passed {
        PassedKind::Tcp(listener) => {
            let listener = listener.try_clone()?;
            listener.set_nonblocking(true)?;
            tune(&listener)?;
            TcpListener::from_std(listener).map(Kind::Tcp)
        }
        PassedKind::Unix(listener) => {
            let listener = listener.try_clone()?;
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            Ok(match address {
                ListenAddress::Path(_) => Kind::Path {
                    listener,
                    _file: None,
                },
                _ => Kind::Abstract(listener),
            })
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::]:5010 takes IPv4 clients as well, whatever the host's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    socket.bind(&SockAddr::from(address))?;
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
    let file = SocketFile {
        path: path.to_path_buf(),
        which: which(path),
    };
    Ok((UnixListener::from_std(socket.into())?, file))
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

/// Removes the file with the listener.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    which: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
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

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_sends_at_once_and_notices_a_peer_that_vanished() {
        let passed = PassedKind::Tcp(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = Listener::bind(&any).unwrap().kind;
        for kind in [bound, take_over(&passed, &any).unwrap()] {
            let Kind::Tcp(listener) = kind else {
                panic!("no TCP listener");
            };
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
