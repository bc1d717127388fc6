//! The local side: which account listens at the addresses of an endpoint.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::Path;

use nix::unistd::{AccessFlags, User, access, geteuid};
use tokio::net::TcpStream;

use super::stage::{Finding, Trouble};
use crate::config::ListenAddress;
use crate::daemon::listener::Listener;
use crate::identity::holder::{self, SocketHolder};
use base::error::ErrorKind;

/// The service's account, as the package makes it.
const SERVICE: &str = "hopend";

/// The account whose listeners are hopend's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DaemonAccount(u32);

impl DaemonAccount {
    /// Found by the control socket: its folder is hopend's own, so no other account answers there.
    /// Without one it is the account of the service, or the one that runs this.
    pub(super) fn find(control: Option<&Path>) -> Self {
        let own = geteuid().as_raw();
        let Some(control) = control else {
            let service = User::from_name(SERVICE).ok().flatten();
            let service = service.filter(|_| own == 0);
            return Self(service.map_or(own, |user| user.uid.as_raw()));
        };
        let folder = control.parent().and_then(|folder| folder.metadata().ok());
        let folder = folder.map(|metadata| metadata.uid());
        let answers = holder::of_unix(control).ok().map(|holder| holder.uid);
        let known = |uid: &u32| *uid == 0 || *uid == own || Some(*uid) == folder;
        Self(answers.filter(known).or(folder).unwrap_or(own))
    }

    /// Whether a socket of this account's is hopend's: its own, or one that systemd holds.
    fn owns(self, holder: &SocketHolder) -> bool {
        holder.uid == self.0 || holder.uid == 0
    }
}

/// What stands at one socket.
enum SocketFinding {
    /// A socket of hopend's account, or of root.
    Hopends(SocketHolder),
    /// Another account's.
    Foreign(SocketHolder),
    /// Somebody answers, and the kernel does not tell who.
    Unknown,
    /// Nobody answers.
    Free,
}

/// Whether hopend answers there, or else whether the address can be bound.
pub(super) async fn examine(
    address: &ListenAddress,
    daemon: DaemonAccount,
) -> Result<Finding<()>, Trouble> {
    if address.has_any_port() {
        let said = format!("{address}: the system chooses a port");
        return Ok(Finding::new((), said));
    }
    let mut hopends = None;
    let mut free = None;
    for socket in sockets(address) {
        match look(&socket, daemon).await {
            SocketFinding::Foreign(holder) => return Err(foreign(&socket, &holder, daemon)),
            SocketFinding::Unknown => {
                let said = format!("{socket} answers; the kernel does not tell whose socket it is");
                return Ok(Finding::new((), said).but("run this as root or as hopend's account"));
            }
            SocketFinding::Hopends(holder) => hopends = Some((socket, holder)),
            SocketFinding::Free => free = Some(socket),
        }
    }
    match (hopends, free) {
        (Some((socket, _)), Some(free)) => Err(Trouble::new(
            ErrorKind::Internal,
            format!("{free} is free, although hopend has {socket}: any account can bind it"),
            "restart hopend, which binds both",
        )),
        (Some((_, holder)), None) => {
            if let Some((other, holder)) = sibling(address, daemon).await {
                return Err(Trouble::new(
                    ErrorKind::Configuration,
                    format!("clients that dial localhost may reach {other}, which {holder} holds"),
                    format!(
                        "end that process, and listen at \"localhost:{}\"",
                        other.port()
                    ),
                ));
            }
            let said = format!(
                "{address} answers, as it does while a daemon runs; uid {} has it",
                holder.uid
            );
            Ok(Finding::new((), said))
        }
        (None, _) => unused(address),
    }
}

/// The sockets that an address needs on this host.
fn sockets(address: &ListenAddress) -> Vec<ListenAddress> {
    let ListenAddress::Localhost(_) = address else {
        return vec![address.clone()];
    };
    let here =
        |socket: &SocketAddr| socket.is_ipv4() || UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let both = address.tcp_sockets().into_iter();
    both.filter(here).map(ListenAddress::Tcp).collect()
}

async fn look(socket: &ListenAddress, daemon: DaemonAccount) -> SocketFinding {
    match holder::find(socket) {
        Some(holder) if daemon.owns(&holder) => SocketFinding::Hopends(holder),
        Some(holder) => SocketFinding::Foreign(holder),
        None if answers(socket).await => SocketFinding::Unknown,
        None => SocketFinding::Free,
    }
}

async fn answers(socket: &ListenAddress) -> bool {
    let answer = match socket {
        ListenAddress::Abstract(port) => UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))
            .and_then(|name| UnixStream::connect_addr(&name))
            .map(drop),
        ListenAddress::Path(path) => UnixStream::connect(path).map(drop),
        ListenAddress::Tcp(_) | ListenAddress::Localhost(_) => {
            TcpStream::connect(&*socket.tcp_sockets()).await.map(drop)
        }
    };
    // A file that this account may not dial is somebody's.
    answer.is_ok() || answer.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The loopback address of the other family, where another account has it.
async fn sibling(
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
    match look(&ListenAddress::Tcp(other), daemon).await {
        SocketFinding::Foreign(holder) => Some((other, holder)),
        _ => None,
    }
}

fn foreign(socket: &ListenAddress, holder: &SocketHolder, daemon: DaemonAccount) -> Trouble {
    let DaemonAccount(uid) = daemon;
    Trouble::new(
        ErrorKind::Internal,
        format!(
            "{holder} holds {socket}, and is neither hopend's account (uid {uid}) nor root: clients \
             there do not reach hopend"
        ),
        "end that process; hopend binds the address within 5 s",
    )
}

fn unused(address: &ListenAddress) -> Result<Finding<()>, Trouble> {
    if let ListenAddress::Path(path) = address {
        return socket_file(path);
    }
    match Listener::bind(address) {
        Ok(_) => Ok(Finding::new(
            (),
            format!("{address} is free: no daemon runs"),
        )),
        Err(error) => Err(Trouble::new(
            ErrorKind::Internal,
            format!("{address}: {}", error.cause()),
            error.remedy(),
        )),
    }
}

/// It is not bound on trial: that would take the file from a daemon that starts at this moment.
fn socket_file(path: &Path) -> Result<Finding<()>, Trouble> {
    let shown = path.display();
    let folder = path.parent().unwrap_or(Path::new("/"));
    match access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Ok(Finding::new(
            (),
            format!("unix:{shown} is free: no daemon runs"),
        )),
        Err(why) => Err(Trouble::new(
            ErrorKind::Configuration,
            format!("unix:{shown} can't be made: {}: {why}", folder.display()),
            "create that folder, and let the daemon's account write to it",
        )),
    }
}
