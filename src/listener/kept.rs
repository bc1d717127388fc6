//! Keeps duplicates of the listening sockets, so that an address stays bound across a reload or a
//! restart.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::{TcpListener, UnixListener};

use super::passed::PassedSockets;
use super::socket::Listener;
use super::socket_file::SocketFile;
use crate::config::ListenAddress;
use crate::primitives::service;
use crate::primitives::socket::tune;
use base::mutex::locked;

/// The longest name of a descriptor that systemd accepts, in bytes (`FDNAME_MAX`).
const LONGEST_NAME: usize = 255;
/// The prefix of each socket's name in the service manager's store. An endpoint's name has no slash, so
/// no socket of a socket unit that is named after an endpoint has this prefix.
pub(super) const STORED_PREFIX: &str = "listen/";

/// A listening socket and its address. The kernel stops listening when the last duplicate is closed.
#[derive(Debug)]
pub struct ListeningSocket {
    pub(super) address: ListenAddress,
    pub(super) kind: SocketKind,
    pub(super) owner: SocketOwner,
    /// The file, if this is a Unix socket with a file that hopend created.
    pub(super) file: Option<Arc<SocketFile>>,
}

/// The process that created a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketOwner {
    /// The service manager created it for a socket unit.
    Manager,
    /// hopend created it, in this process or in an earlier process.
    Hopend,
}

/// A listening socket that no runtime watches.
#[derive(Debug)]
pub(super) enum SocketKind {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Listening sockets that a bind uses instead of new sockets if their addresses fit.
#[derive(Debug, Default)]
pub(crate) struct ReusableSockets<'a>(Vec<&'a ListeningSocket>);

/// Keeps duplicates of the sockets of one listen address. Clones share the duplicates.
#[derive(Debug, Clone, Default)]
pub(crate) struct SocketKeeper(Arc<Mutex<KeptSockets>>);

/// The duplicates of one listen address, or the decision to keep none.
#[derive(Debug)]
enum KeptSockets {
    /// Empty until the address is bound.
    Sockets(Vec<ListeningSocket>),
    /// No socket is kept any more, because a reload dropped the address or hopend stops.
    Closed,
}

impl Default for KeptSockets {
    fn default() -> Self {
        Self::Sockets(Vec::new())
    }
}

impl KeptSockets {
    fn sockets(&self) -> &[ListeningSocket] {
        match self {
            Self::Sockets(sockets) => sockets,
            Self::Closed => &[],
        }
    }
}

impl SocketKeeper {
    /// Keeps duplicates of a listener's sockets, here and in the service manager's store. The store
    /// keeps its duplicates open while hopend restarts. Sockets of a socket unit are not stored,
    /// because the service manager keeps them anyway.
    pub(crate) fn keep(&self, listener: &Listener, passed_sockets: &PassedSockets) {
        let sockets = match listener.duplicates(passed_sockets) {
            Ok(sockets) => sockets,
            Err(error) => {
                let address = listener.address();
                tracing::warn!(%address, "this address will not stay bound while hopend restarts: {error}");
                return;
            }
        };
        let mut kept = self.lock();
        if matches!(*kept, KeptSockets::Closed) {
            // A reload dropped the address during the bind.
            return;
        }
        let own = sockets
            .iter()
            .filter(|socket| socket.owner == SocketOwner::Hopend);
        for (socket, name) in own.filter_map(|socket| Some((socket, socket.store_name()?))) {
            if socket.file.is_some() {
                // The store may hold an old socket of this name whose file no longer exists.
                service::remove_stored(&name);
            }
            socket.set_outlives_hopend(service::store(&name, socket.as_fd()));
        }
        *kept = KeptSockets::Sockets(sockets);
    }

    /// Closes the sockets here and in the service manager's store, because a reload dropped the
    /// address.
    pub(crate) fn give_up(&self) {
        let kept = std::mem::replace(&mut *self.lock(), KeptSockets::Closed);
        for socket in kept.sockets() {
            socket.set_outlives_hopend(false);
            if let (SocketOwner::Hopend, Some(name)) = (socket.owner, socket.store_name()) {
                service::remove_stored(&name);
            }
        }
    }

    /// Closes the sockets here. The service manager's store keeps them for the next start.
    pub(crate) fn close(&self) {
        *self.lock() = KeptSockets::Closed;
    }

    /// Duplicates of the sockets. A socket that cannot be duplicated is left out.
    pub(crate) fn duplicates(&self) -> Vec<ListeningSocket> {
        let kept = self.lock();
        let sockets = kept.sockets().iter();
        sockets
            .filter_map(|socket| socket.duplicate().ok())
            .collect()
    }

    /// The shutdown needs this lock too, so do not hold it longer than a message to the service manager
    /// takes.
    fn lock(&self) -> MutexGuard<'_, KeptSockets> {
        locked(&self.0)
    }
}

impl<'a> FromIterator<&'a ListeningSocket> for ReusableSockets<'a> {
    fn from_iter<I: IntoIterator<Item = &'a ListeningSocket>>(sockets: I) -> Self {
        Self(sockets.into_iter().collect())
    }
}

impl ReusableSockets<'_> {
    pub(super) fn find(&self, address: &ListenAddress) -> Option<&ListeningSocket> {
        let mut sockets = self.0.iter();
        sockets.find(|socket| socket.address == *address).copied()
    }
}

impl ListeningSocket {
    pub(super) fn of_tcp(listener: &TcpListener) -> io::Result<Self> {
        Ok(Self {
            address: ListenAddress::Tcp(listener.local_addr()?),
            kind: SocketKind::Tcp(listener.as_fd().try_clone_to_owned()?.into()),
            owner: SocketOwner::Hopend,
            file: None,
        })
    }

    pub(super) fn of_unix(
        listener: &UnixListener,
        address: &ListenAddress,
        file: Option<Arc<SocketFile>>,
    ) -> io::Result<Self> {
        Ok(Self {
            address: address.clone(),
            kind: SocketKind::Unix(listener.as_fd().try_clone_to_owned()?.into()),
            owner: SocketOwner::Hopend,
            file,
        })
    }

    fn duplicate(&self) -> io::Result<Self> {
        let kind = match &self.kind {
            SocketKind::Tcp(listener) => SocketKind::Tcp(listener.try_clone()?),
            SocketKind::Unix(listener) => SocketKind::Unix(listener.try_clone()?),
        };
        Ok(Self {
            address: self.address.clone(),
            kind,
            owner: self.owner,
            file: self.file.clone(),
        })
    }

    /// The socket's name in the service manager's store. `None` if the name would be too long, which
    /// only the path of a socket file can cause.
    fn store_name(&self) -> Option<String> {
        let mut name = STORED_PREFIX.to_owned();
        for byte in self.address.to_string().bytes() {
            // A name must not contain a colon. `%` begins an escape.
            match byte {
                b':' => name.push('_'),
                b'%' | b'_' | ..=b' ' | 127.. => name.push_str(&format!("%{byte:02x}")),
                other => name.push(char::from(other)),
            }
        }
        (name.len() <= LONGEST_NAME).then_some(name)
    }

    /// Sets whether the socket file stays when hopend ends. The file must stay if the service manager's
    /// store holds the socket.
    fn set_outlives_hopend(&self, outlives: bool) {
        if let Some(file) = &self.file {
            file.set_outlives_hopend(outlives);
        }
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            SocketKind::Tcp(listener) => listener.as_fd(),
            SocketKind::Unix(listener) => listener.as_fd(),
        }
    }
}

impl SocketKind {
    /// A duplicate of a TCP socket, for the current runtime.
    pub(super) fn tcp(&self) -> io::Result<TcpListener> {
        let Self::Tcp(listener) = self else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tune(&listener)?;
        TcpListener::from_std(listener)
    }

    /// A duplicate of a Unix socket, for the current runtime.
    pub(super) fn unix(&self) -> io::Result<UnixListener> {
        let Self::Unix(listener) = self else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bind_that_comes_through_behind_the_end_holds_nothing() {
        let address = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
        let (listener, passed) = (Listener::bind(&address).unwrap(), PassedSockets::default());
        let keeper = SocketKeeper::default();
        keeper.keep(&listener, &passed);
        let duplicates = keeper.duplicates();
        assert_eq!(duplicates.len(), 1);
        // Duplicates elsewhere do not prevent the end.
        keeper.give_up();
        assert!(keeper.duplicates().is_empty());
        keeper.keep(&listener, &passed);
        assert!(keeper.duplicates().is_empty());
    }
}
