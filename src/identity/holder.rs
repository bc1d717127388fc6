//! Finds the account that listens at an address of this host, and its program.
//!
//! Every function here blocks, because it asks the kernel and reads `/proc`. So no function may run on
//! a session's thread. The daemon calls them when it cannot bind an address. The commands
//! `hopend doctor` and `hopend status` call them too.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use netlink_packet_sock_diag::unix::nlas::UnixDiagName;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

use super::process;
use crate::config::ListenAddress;
use crate::primitives::kernel_sockets::{KernelSocket, proc_net, sock_diag};

/// The account that made a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketHolder {
    /// The account's number.
    pub uid: u32,
    /// The process, if the kernel shows it to this process. Mostly only root sees processes of other
    /// accounts.
    pub pid: Option<u32>,
    /// The process's program, as `ps` shows it.
    pub program: Option<String>,
}

/// The account that a connection to `address` reaches. `None` if no process listens there or the kernel
/// does not report the account. For `localhost`, which means 127.0.0.1 and ::1, the result is the
/// holder of the first socket found.
pub fn find(address: &ListenAddress) -> Option<SocketHolder> {
    match address {
        ListenAddress::Localhost(_) | ListenAddress::Tcp(_) => {
            let sockets = address.tcp_sockets().into_iter();
            sockets.filter_map(|socket| of_tcp(socket).ok()?).next()
        }
        ListenAddress::Abstract(port) => {
            let name = format!("/tmp/kx.{port}");
            let diag = UnixDiagName::Abstract(name.clone().into_bytes());
            of_unix(Path::new(&format!("\0{name}")))
                .ok()
                .or_else(|| by_name(&diag))
        }
        ListenAddress::Path(path) => {
            let diag = UnixDiagName::Pathname(path.clone().into_os_string());
            of_unix(path).ok().or_else(|| by_name(&diag))
        }
    }
}

/// The account behind the Unix socket at `path`. A NUL at the start marks an abstract name. Connects to
/// the socket, and does not wait until the connection is accepted.
///
/// # Errors
/// No process listens there, or this process may not connect.
pub fn of_unix(path: &Path) -> io::Result<SocketHolder> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    let peer = getsockopt(&socket, PeerCredentials)?;
    // The kernel shows a process of another PID namespace as 0.
    let pid = u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0);
    Ok(SocketHolder {
        uid: peer.uid(),
        pid,
        program: pid.and_then(process::program),
    })
}

/// The account of the socket that accepts connections to `address`.
fn of_tcp(address: SocketAddr) -> io::Result<Option<SocketHolder>> {
    let found = sock_diag::listener(address).or_else(|_| proc_net::listener(address))?;
    Ok(found.map(of_socket))
}

fn by_name(name: &UnixDiagName) -> Option<SocketHolder> {
    sock_diag::unix_listener(name).ok()?.map(of_socket)
}

fn of_socket(socket: KernelSocket) -> SocketHolder {
    let pid = process::of_inode(socket.inode);
    SocketHolder {
        uid: socket.uid,
        pid,
        program: pid.and_then(process::program),
    }
}

/// Writes text such as `uid 1001 (nc[4711])`.
impl fmt::Display for SocketHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        match (&self.program, self.pid) {
            (Some(program), Some(pid)) => write!(f, " ({program}[{pid}])"),
            (None, Some(pid)) => write!(f, " (process {pid})"),
            (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

    use super::*;

    fn own() -> SocketHolder {
        SocketHolder {
            uid: nix::unistd::geteuid().as_raw(),
            pid: Some(std::process::id()),
            program: process::program(std::process::id()),
        }
    }

    #[test]
    fn a_tcp_listener_is_found_in_either_family_and_behind_a_wildcard() {
        for bound in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port();
            let v6 = bound.starts_with("[::1]");
            let dialled: SocketAddr = match v6 {
                true => format!("[::1]:{port}").parse().unwrap(),
                false => format!("127.0.0.1:{port}").parse().unwrap(),
            };
            assert_eq!(of_tcp(dialled).unwrap(), Some(own()), "{bound}");
            assert_eq!(
                proc_net::listener(dialled).unwrap().map(of_socket),
                Some(own()),
                "{bound}"
            );
            assert_eq!(
                find(&ListenAddress::Localhost(port)),
                Some(own()),
                "{bound}"
            );
            drop(listener);
            assert_eq!(of_tcp(dialled).unwrap(), None, "{bound}");
            assert_eq!(proc_net::listener(dialled).unwrap(), None, "{bound}");
        }
    }

    #[test]
    fn a_unix_listener_is_found_by_a_connection_and_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        assert_eq!(find(&ListenAddress::Path(path.clone())), None);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(find(&ListenAddress::Path(path.clone())), Some(own()));
        let port = 1 + u16::try_from(std::process::id() % 60_000).unwrap();
        let name = format!("/tmp/kx.{port}");
        let address = UnixAddress::from_abstract_name(&name).unwrap();
        let at_name = UnixListener::bind_addr(&address).unwrap();
        assert_eq!(find(&ListenAddress::Abstract(port)), Some(own()));
        let by_abstract = by_name(&UnixDiagName::Abstract(name.clone().into_bytes()));
        assert_eq!(by_abstract, Some(own()));
        let diag = UnixDiagName::Pathname(path.into_os_string());
        assert_eq!(by_name(&diag), Some(own()));
        drop((listener, at_name));
        assert_eq!(by_name(&diag), None);
        assert_eq!(find(&ListenAddress::Abstract(port)), None);
    }
}
