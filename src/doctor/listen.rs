//! The stage `listen`: which account listens at the local addresses of an endpoint.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::Path;

use nix::unistd::{AccessFlags, User, access, geteuid};
use tokio::net::TcpStream;

use super::runner::{StageFailure, StageFinding};
use crate::config::ListenAddress;
use crate::identity::holder::{self, SocketHolder};
use crate::listener::Listener;
use base::error::ErrorKind;

/// The account that the package creates for the service.
const SERVICE_ACCOUNT: &str = "hopend";

/// The uid of the account that runs the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DaemonAccount(u32);

impl DaemonAccount {
    /// Finds the account by the control socket, whose folder belongs to the daemon. Without a control
    /// socket, root assumes the service's account, and any other account assumes itself.
    pub(super) fn find(control: Option<&Path>) -> Self {
        let own = geteuid().as_raw();
        let Some(control) = control else {
            let service = User::from_name(SERVICE_ACCOUNT).ok().flatten();
            let service = service.filter(|_| own == 0);
            return Self(service.map_or(own, |user| user.uid.as_raw()));
        };
        let folder = control.parent().and_then(|folder| folder.metadata().ok());
        let folder = folder.map(|metadata| metadata.uid());
        let listener = holder::of_unix(control).ok().map(|holder| holder.uid);
        let trusted = |uid: &u32| *uid == 0 || *uid == own || Some(*uid) == folder;
        Self(listener.filter(trusted).or(folder).unwrap_or(own))
    }

    /// Whether the socket belongs to the daemon. systemd makes sockets for it as root.
    fn owns(self, holder: &SocketHolder) -> bool {
        holder.uid == self.0 || holder.uid == 0
    }
}

/// The owner of a listening socket.
enum SocketFinding {
    /// The daemon's account, or root.
    Daemon(SocketHolder),
    /// Another account.
    Foreign(SocketHolder),
    /// A process listens, and the kernel does not name its account.
    Unknown,
    /// No process listens.
    Free,
}

/// Checks that the daemon listens at the address, or that the address can be bound.
pub(super) async fn examine(
    address: &ListenAddress,
    daemon: DaemonAccount,
) -> Result<StageFinding<()>, StageFailure> {
    if address.has_system_chosen_port() {
        let text = format!("{address}: the system chooses a port");
        return Ok(StageFinding::new((), text));
    }
    let mut daemons = None;
    let mut free = None;
    for socket in sockets(address) {
        match find_socket(&socket, daemon).await {
            SocketFinding::Foreign(holder) => return Err(occupied(&socket, &holder, daemon)),
            SocketFinding::Unknown => {
                let text =
                    format!("{socket} answers; the kernel does not name the account that listens");
                return Ok(
                    StageFinding::new((), text).warn("run this as root or as hopend's account")
                );
            }
            SocketFinding::Daemon(holder) => daemons = Some((socket, holder)),
            SocketFinding::Free => free = Some(socket),
        }
    }
    match (daemons, free) {
        (Some((socket, _)), Some(free)) => Err(StageFailure::new(
            ErrorKind::Internal,
            format!("{free} is free, although hopend has {socket}: any account can bind it"),
            "restart hopend, which binds both",
        )),
        (Some((_, holder)), None) => {
            if let Some((other, holder)) = foreign_sibling(address, daemon).await {
                return Err(StageFailure::new(
                    ErrorKind::Configuration,
                    format!("clients that dial localhost may reach {other}, which {holder} holds"),
                    format!(
                        "end that process, and listen at \"localhost:{}\"",
                        other.port()
                    ),
                ));
            }
            let text = format!(
                "{address} answers: a daemon runs; uid {} listens there",
                holder.uid
            );
            Ok(StageFinding::new((), text))
        }
        (None, _) => examine_free(address),
    }
}

/// The sockets of an address. `localhost` has one for IPv4, and one for IPv6 if this host has IPv6.
fn sockets(address: &ListenAddress) -> Vec<ListenAddress> {
    let ListenAddress::Localhost(_) = address else {
        return vec![address.clone()];
    };
    let supported =
        |socket: &SocketAddr| socket.is_ipv4() || UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let both = address.tcp_sockets().into_iter();
    both.filter(supported).map(ListenAddress::Tcp).collect()
}

async fn find_socket(socket: &ListenAddress, daemon: DaemonAccount) -> SocketFinding {
    match holder::find(socket) {
        Some(holder) if daemon.owns(&holder) => SocketFinding::Daemon(holder),
        Some(holder) => SocketFinding::Foreign(holder),
        None if is_answered(socket).await => SocketFinding::Unknown,
        None => SocketFinding::Free,
    }
}

/// Whether a process accepts connections at the socket.
async fn is_answered(socket: &ListenAddress) -> bool {
    let connected = match socket {
        ListenAddress::Abstract(port) => UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))
            .and_then(|name| UnixStream::connect_addr(&name))
            .map(drop),
        ListenAddress::Path(path) => UnixStream::connect(path).map(drop),
        ListenAddress::Tcp(_) | ListenAddress::Localhost(_) => {
            TcpStream::connect(&*socket.tcp_sockets()).await.map(drop)
        }
    };
    // A socket file that this account may not dial belongs to another one.
    connected.is_ok()
        || connected.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The loopback address of the other IP family, if another account listens there.
async fn foreign_sibling(
    address: &ListenAddress,
    daemon: DaemonAccount,
) -> Option<(SocketAddr, SocketHolder)> {
    let ListenAddress::Tcp(address) = address else {
        return None;
    };
    let other: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    let other = SocketAddr::new(other, address.port());
    match find_socket(&ListenAddress::Tcp(other), daemon).await {
        SocketFinding::Foreign(holder) => Some((other, holder)),
        _ => None,
    }
}

fn occupied(socket: &ListenAddress, holder: &SocketHolder, daemon: DaemonAccount) -> StageFailure {
    let DaemonAccount(uid) = daemon;
    StageFailure::new(
        ErrorKind::Internal,
        format!(
            "{holder} holds {socket}, and is neither hopend's account (uid {uid}) nor root: clients \
             that dial it do not reach hopend"
        ),
        "end that process; hopend binds the address within 5 s",
    )
}

/// Checks that the daemon could bind the address.
fn examine_free(address: &ListenAddress) -> Result<StageFinding<()>, StageFailure> {
    if let ListenAddress::Path(path) = address {
        return examine_socket_file(path);
    }
    match Listener::bind(address) {
        Ok(_) => Ok(StageFinding::new(
            (),
            format!("{address} is free: no daemon runs"),
        )),
        Err(error) => Err(StageFailure::new(
            ErrorKind::Internal,
            format!("{address}: {}", error.cause()),
            error.remedy(),
        )),
    }
}

/// Checks that the folder is writable. Binding the socket would take the file from a daemon that starts
/// at this moment.
fn examine_socket_file(path: &Path) -> Result<StageFinding<()>, StageFailure> {
    let file = path.display();
    let folder = path.parent().unwrap_or(Path::new("/"));
    match access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Ok(StageFinding::new(
            (),
            format!("unix:{file} is free: no daemon runs"),
        )),
        Err(error) => Err(StageFailure::new(
            ErrorKind::Configuration,
            format!("unix:{file} can't be made: {}: {error}", folder.display()),
            "create that folder, and let the daemon's account write to it",
        )),
    }
}
