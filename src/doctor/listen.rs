//! The local side: what is behind an address that an endpoint listens on.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use tokio::net::TcpStream;

use super::stage::{Finding, Trouble};
use crate::config::ListenAddress;
use crate::error::{ErrorKind, chain};
use crate::listener::Listener;

/// Whether something answers there, or else whether it can be bound.
pub(super) async fn examine(address: &ListenAddress) -> Result<Finding<()>, Trouble> {
    let answers = match address {
        ListenAddress::Tcp(tcp) if tcp.port() == 0 => {
            return Ok(Finding::new(
                (),
                format!("{address}: the system chooses a port"),
            ));
        }
        ListenAddress::Tcp(tcp) => TcpStream::connect(tcp).await.map(drop),
        ListenAddress::Abstract(port) => UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))
            .and_then(|name| UnixStream::connect_addr(&name))
            .map(drop),
        ListenAddress::Path(path) => UnixStream::connect(path).map(drop),
    };
    match (answers, address) {
        (Ok(()), _) => Ok(Finding::new(
            (),
            format!("{address} answers, as it does while a daemon runs"),
        )),
        (Err(error), ListenAddress::Path(path)) => socket_file(path, &error),
        (Err(_), _) => match Listener::bind(address) {
            Ok(_) => Ok(Finding::new(
                (),
                format!("{address} is free: no daemon runs"),
            )),
            Err(error) => Err(Trouble::new(ErrorKind::Internal, chain(&error), "")),
        },
    }
}

/// It is not bound on trial: that would take the file from a daemon that starts at this moment.
fn socket_file(path: &Path, error: &io::Error) -> Result<Finding<()>, Trouble> {
    let shown = path.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Ok(Finding::new(
            (),
            format!("unix:{shown} is another account's: a daemon may run"),
        ));
    }
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
