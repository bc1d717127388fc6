//! Sockets that listen already: the service manager passed them, or hopend has bound them.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, UnixListener};

use super::passed::Passed;
use super::socket::{Listener, SocketFile};
use crate::config::ListenAddress;
use crate::daemon::service;
use crate::primitives::socket::tune;

/// Longest name of a descriptor that systemd takes (`FDNAME_MAX`).
const LONGEST_NAME: usize = 255;
/// Begins the name of each socket in the service manager's store. No endpoint's name has a slash.
pub(super) const STORED: &str = "listen/";

/// A listening socket with its own address. It listens until its last duplicate is closed.
#[derive(Debug)]
pub struct HeldSocket {
    pub(super) address: ListenAddress,
    pub(super) kind: SocketKind,
    pub(super) owner: SocketOwner,
    /// Of a socket file that hopend made.
    pub(super) file: Option<Arc<SocketFile>>,
}

/// Who made a socket, and so whose account it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOwner {
    /// The service manager, by a socket unit.
    Manager,
    /// hopend, in this process or the one before.
    Hopend,
}

/// A listening socket without a runtime.
#[derive(Debug)]
pub(super) enum SocketKind {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// The listening sockets that an address may use, by their own addresses.
#[derive(Debug, Default)]
pub struct Listening<'a>(Vec<&'a HeldSocket>);

/// The sockets of one address, while it is bound. A clone shares them.
#[derive(Debug, Clone, Default)]
pub struct HeldSockets(Arc<Mutex<SocketHold>>);

/// Whether hopend still wants the sockets of an address.
#[derive(Debug)]
enum SocketHold {
    /// None, until the address is bound.
    Sockets(Vec<HeldSocket>),
    /// Nothing is held any more: hopend is to listen there no longer, or ends.
    Closed,
}

impl Default for SocketHold {
    fn default() -> Self {
        Self::Sockets(Vec::new())
    }
}

impl SocketHold {
    fn sockets(&self) -> &[HeldSocket] {
        match self {
            Self::Sockets(sockets) => sockets,
            Self::Closed => &[],
        }
    }
}

impl HeldSockets {
    /// Keeps duplicates of a listener's sockets, in the service manager's store as well, which holds
    /// them while hopend restarts. Those that the manager itself made need no store.
    pub fn hold(&self, listener: &Listener, passed: &Passed) {
        let sockets = match listener.duplicates(passed) {
            Ok(sockets) => sockets,
            Err(error) => {
                let address = listener.address();
                tracing::warn!(%address, "a restart of hopend will leave this address: {error}");
                return;
            }
        };
        let mut held = self.lock();
        if matches!(*held, SocketHold::Closed) {
            // A reload took the address away while it was bound.
            return;
        }
        let own = sockets
            .iter()
            .filter(|held| held.owner == SocketOwner::Hopend);
        for (socket, name) in own.filter_map(|own| Some((own, own.store_name()?))) {
            if socket.file.is_some() {
                // One of the same name may be there that nobody accepts from: its file was removed.
                service::remove_stored(&name);
            }
            socket.outlives_hopend(service::store(&name, socket.as_fd()));
        }
        *held = SocketHold::Sockets(sockets);
    }

    /// Closes them, here and in the service manager's store: hopend listens there no more.
    pub fn give_up(&self) {
        let held = std::mem::replace(&mut *self.lock(), SocketHold::Closed);
        for held in held.sockets() {
            held.outlives_hopend(false);
            if let (SocketOwner::Hopend, Some(name)) = (held.owner, held.store_name()) {
                service::remove_stored(&name);
            }
        }
    }

    /// Closes them here; the service manager's store keeps them for the next start.
    pub fn close(&self) {
        *self.lock() = SocketHold::Closed;
    }

    /// Duplicates of the sockets. One that can't be had is left out.
    pub fn duplicates(&self) -> Vec<HeldSocket> {
        let held = self.lock();
        let sockets = held.sockets().iter();
        sockets.filter_map(|held| held.duplicate().ok()).collect()
    }

    /// The stop of the daemon takes it as well: hold it for no longer than a message to the service manager takes.
    fn lock(&self) -> MutexGuard<'_, SocketHold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> FromIterator<&'a HeldSocket> for Listening<'a> {
    fn from_iter<I: IntoIterator<Item = &'a HeldSocket>>(sockets: I) -> Self {
        Self(sockets.into_iter().collect())
    }
}

impl Listening<'_> {
    pub(super) fn find(&self, address: &ListenAddress) -> Option<&HeldSocket> {
        let mut sockets = self.0.iter();
        sockets.find(|socket| socket.address == *address).copied()
    }
}

impl HeldSocket {
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

    /// What the service manager's store calls it; `None` where the path of a socket file is too long.
    fn store_name(&self) -> Option<String> {
        let mut name = STORED.to_owned();
        for byte in self.address.to_string().bytes() {
            // A name has no colon; `%` begins an escape.
            match byte {
                b':' => name.push('_'),
                b'%' | b'_' | ..=b' ' | 127.. => name.push_str(&format!("%{byte:02x}")),
                other => name.push(char::from(other)),
            }
        }
        (name.len() <= LONGEST_NAME).then_some(name)
    }

    /// Keeps the socket file when hopend ends: the service manager holds the socket behind it.
    fn outlives_hopend(&self, outlives: bool) {
        if let Some(file) = &self.file {
            file.outlives(outlives);
        }
    }
}

impl AsFd for HeldSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            SocketKind::Tcp(listener) => listener.as_fd(),
            SocketKind::Unix(listener) => listener.as_fd(),
        }
    }
}

impl SocketKind {
    /// A duplicate, for the runtime that this is called from.
    pub(super) fn tcp(&self) -> io::Result<TcpListener> {
        let Self::Tcp(listener) = self else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tune(&listener)?;
        TcpListener::from_std(listener)
    }

    /// A duplicate, for the runtime that this is called from.
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
        let (listener, passed) = (Listener::bind(&address).unwrap(), Passed::default());
        let held = HeldSockets::default();
        held.hold(&listener, &passed);
        let duplicates = held.duplicates();
        assert_eq!(duplicates.len(), 1);
        // Whoever has duplicates keeps nobody from the end.
        held.give_up();
        assert!(held.duplicates().is_empty());
        held.hold(&listener, &passed);
        assert!(held.duplicates().is_empty());
    }
}
