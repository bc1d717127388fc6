//! The error of an address that cannot be bound.

use std::io;

use nix::unistd::geteuid;

use crate::config::ListenAddress;
use crate::identity::holder::{self, SocketHolder};
use base::error::with_fix;

/// The reason why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.message())]
pub struct BindError {
    /// The address as configured.
    pub address: ListenAddress,
    /// The address of the socket that failed. For `localhost`, one of the two loopback addresses.
    pub socket: ListenAddress,
    /// The address at which hopend itself listens, if hopend's own socket prevents the bind.
    pub own: Option<ListenAddress>,
    /// The process that has the address, if the kernel shows it.
    pub holder: Option<Box<SocketHolder>>,
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
    pub(super) fn new(address: &ListenAddress, failed: SocketError) -> Self {
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

    /// Whether another account may have the address. This is so if the kernel does not show the holder,
    /// or the holder's account is neither root nor hopend's own.
    pub fn is_taken_by_another_account(&self) -> bool {
        let own = |holder: &SocketHolder| holder.uid == 0 || holder.uid == geteuid().as_raw();
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
pub(super) struct SocketError {
    pub(super) socket: ListenAddress,
    pub(super) error: io::Error,
}

impl SocketError {
    pub(super) fn at(socket: &ListenAddress) -> impl FnOnce(io::Error) -> Self {
        let socket = socket.clone();
        move |error| Self { socket, error }
    }
}
