//! Sockets that the service manager passes at the start (`sd_listen_fds(3)`). Some belong to its socket
//! units. The previous process of hopend has put the others into its store.
//!
//! These sockets listen while hopend restarts. So no client is refused during a restart, and no other
//! account can bind their addresses.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddress;

use listenfd::ListenFd;
use socket2::SockRef;

use super::kept::{ListeningSocket, STORED_PREFIX, SocketKind, SocketOwner};
use crate::config::ListenAddress;

/// The passed sockets. This value keeps the sockets of socket units open, because a reload may add an
/// address for which no endpoint was configured before.
#[derive(Debug, Default)]
pub struct PassedSockets {
    units: Vec<PassedSocket>,
    stored: Vec<PassedSocket>,
}

#[derive(Debug)]
struct PassedSocket {
    /// `FileDescriptorName=` of the socket unit, or the name in the store.
    name: String,
    /// The socket's address, as messages show it.
    shown: String,
    usability: PassedSocketUse,
}

#[derive(Debug)]
enum PassedSocketUse {
    /// An endpoint can use the socket.
    Usable(ListeningSocket),
    /// A Unix socket with a name that `listen` cannot express. The socket stays open, but no endpoint
    /// uses it.
    Unusable { _open: SocketKind },
}

/// The reason why the passed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// The environment variables are malformed.
    #[error("the service manager's LISTEN_ variables: {0}")]
    Variables(io::Error),
    /// A passed descriptor is not a listening stream socket.
    #[error(
        "socket {number} ({name:?}) that the service manager passed is no stream socket that listens. Fix: use ListenStream= and Accept=no in the socket unit."
    )]
    NoListener {
        /// The descriptor's position among the passed descriptors, from 1.
        number: usize,
        /// The descriptor's `FileDescriptorName=`.
        name: String,
    },
}

impl PassedSockets {
    /// Takes the sockets that the service manager passed to this process, if any. Call this only once,
    /// at the start, because a second call would find the same descriptors again.
    pub fn from_environment() -> Result<Self, PassedError> {
        let names = sd_notify::listen_fds_with_names().map_err(PassedError::Variables)?;
        let names: Vec<String> = names.map(|(_, name)| name).collect();
        let mut passed = Self::default();
        if names.is_empty() {
            return Ok(passed);
        }
        let mut descriptors = ListenFd::from_env();
        for (index, name) in names.into_iter().enumerate() {
            let kind = match descriptors.take_tcp_listener(index) {
                Ok(listener) => listener.map(SocketKind::Tcp),
                Err(_) => {
                    let listener = descriptors.take_unix_listener(index).ok().flatten();
                    listener.map(SocketKind::Unix)
                }
            };
            let is_stored = name.starts_with(STORED_PREFIX);
            let owner = match is_stored {
                true => SocketOwner::Hopend,
                false => SocketOwner::Manager,
            };
            let socket = kind.and_then(|kind| PassedSocket::new(&name, kind, owner));
            match (socket, is_stored) {
                (Some(socket), true) => passed.stored.push(socket),
                (Some(socket), false) => passed.units.push(socket),
                // An unusable socket of the store is no error, because the daemon binds the address
                // itself.
                (None, true) => {}
                (None, false) => {
                    let number = index + 1;
                    return Err(PassedError::NoListener { number, name });
                }
            }
        }
        Ok(passed)
    }

    /// The sockets that an endpoint can use. The sockets of socket units are first.
    pub fn sockets(&self) -> impl Iterator<Item = &ListeningSocket> {
        let sockets = self.units.iter().chain(&self.stored);
        sockets.filter_map(PassedSocket::socket)
    }

    /// Closes the sockets from the store. A listener that uses one of these sockets has a duplicate.
    /// Returns the names of the sockets whose address no listener uses.
    pub fn close_stored(&mut self, is_used: impl Fn(&ListenAddress) -> bool) -> Vec<String> {
        let is_unused = |socket: &&PassedSocket| {
            !socket
                .socket()
                .is_some_and(|socket| is_used(&socket.address))
        };
        let unused = self.stored.iter().filter(is_unused);
        let names = unused.map(|socket| socket.name.clone()).collect();
        self.stored.clear();
        names
    }

    /// The process that created the socket at this address. The address must be one at which hopend
    /// listens.
    pub(super) fn owner_of(&self, address: &ListenAddress) -> SocketOwner {
        let mut units = self.units.iter().filter_map(PassedSocket::socket);
        match units.any(|socket| socket.address == *address) {
            true => SocketOwner::Manager,
            false => SocketOwner::Hopend,
        }
    }

    /// A warning for each socket of a socket unit that does not fit the configuration. `wanted` holds
    /// the configured addresses, each with the name of its endpoint.
    pub fn misfits(&self, wanted: &[(ListenAddress, String)]) -> Vec<String> {
        let sockets = self.units.iter();
        sockets.filter_map(|socket| socket.misfit(wanted)).collect()
    }
}

impl PassedSocket {
    fn new(name: &str, kind: SocketKind, owner: SocketOwner) -> Option<Self> {
        let (listens, address, shown) = match &kind {
            SocketKind::Tcp(listener) => {
                let at = listener.local_addr().ok()?;
                let listens = SockRef::from(listener).is_listener();
                (listens, Some(ListenAddress::Tcp(at)), at.to_string())
            }
            SocketKind::Unix(listener) => {
                let at = listener.local_addr().ok()?;
                let address = unix(&at);
                let shown = address
                    .as_ref()
                    .map_or_else(|| format!("{at:?}"), ToString::to_string);
                (SockRef::from(listener).is_listener(), address, shown)
            }
        };
        if !listens.ok()? {
            return None;
        }
        let usability = match address {
            Some(address) => PassedSocketUse::Usable(ListeningSocket {
                address,
                kind,
                owner,
                file: None,
            }),
            None => PassedSocketUse::Unusable { _open: kind },
        };
        Some(Self {
            name: name.to_owned(),
            shown,
            usability,
        })
    }

    fn socket(&self) -> Option<&ListeningSocket> {
        match &self.usability {
            PassedSocketUse::Usable(socket) => Some(socket),
            PassedSocketUse::Unusable { .. } => None,
        }
    }

    fn misfit(&self, wanted: &[(ListenAddress, String)]) -> Option<String> {
        let Self { name, shown, .. } = self;
        let socket = self.socket();
        let user = wanted
            .iter()
            .find(|(address, _)| socket.is_some_and(|socket| address.includes(&socket.address)));
        match user {
            None => Some(format!(
                "no endpoint listens at {shown} (FileDescriptorName={name}), which was passed: a client \
                 that dials it waits for ever. Fix: add it to `listen` of an endpoint, or remove it from \
                 the socket unit."
            )),
            Some((_, endpoint)) if self.is_named() && endpoint != name => Some(format!(
                "{shown} was passed as {name:?}, and the endpoint {endpoint:?} uses it, because it \
                 listens at that address. Fix: correct FileDescriptorName= of the socket unit, or `listen`."
            )),
            Some(_) => None,
        }
    }

    /// Whether the socket unit sets `FileDescriptorName=`. Without it, the name of the descriptor is
    /// the name of the unit.
    fn is_named(&self) -> bool {
        let name = &self.name;
        !(name.is_empty() || name == "unknown" || name.ends_with(".socket"))
    }
}

/// The address in the form of `listen`. `None` for a name that `listen` cannot express.
fn unix(address: &UnixAddress) -> Option<ListenAddress> {
    if let Some(path) = address.as_pathname() {
        return Some(ListenAddress::Path(path.to_path_buf()));
    }
    let name = str::from_utf8(address.as_abstract_name()?).ok()?;
    let port = name.strip_prefix("/tmp/kx.")?;
    let address = format!("unix:{port}").parse().ok()?;
    // The name with "05010" is not the name with "5010", although both parse as the same port.
    matches!(&address, ListenAddress::Abstract(number) if number.to_string() == port)
        .then_some(address)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdTcpListener;

    use super::super::kept::ReusableSockets;
    use super::*;

    fn socket(name: &str, kind: SocketKind) -> PassedSocket {
        PassedSocket::new(name, kind, SocketOwner::Manager).unwrap()
    }

    fn listening(passed: &PassedSockets) -> ReusableSockets<'_> {
        passed.sockets().collect()
    }

    #[test]
    fn the_address_decides_and_another_name_is_told() {
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let here = ListenAddress::Tcp(listener.local_addr().unwrap());
        let localhost = ListenAddress::Localhost(listener.local_addr().unwrap().port());
        let elsewhere = ListenAddress::Abstract(5010);
        for (name, wanted, told) in [
            ("hdb", &here, None),
            ("hdb", &localhost, None),
            ("hopend.socket", &here, None),
            ("unknown", &here, None),
            ("rdb", &here, Some("correct FileDescriptorName=")),
            ("hdb", &elsewhere, Some("waits for ever")),
        ] {
            let kind = SocketKind::Tcp(listener.try_clone().unwrap());
            let passed = PassedSockets {
                units: vec![socket(name, kind)],
                stored: Vec::new(),
            };
            let misfits = passed.misfits(&[(wanted.clone(), "hdb".into())]);
            match told {
                Some(part) => assert!(misfits[0].contains(part), "{misfits:?}"),
                None => assert!(misfits.is_empty(), "{misfits:?}"),
            }
            assert!(listening(&passed).find(&here).is_some());
            assert!(listening(&passed).find(&elsewhere).is_none());
        }
    }

    #[test]
    fn abstract_names_are_q_s_and_files_are_paths() {
        let abstract_name = |name: &str| unix(&UnixAddress::from_abstract_name(name).unwrap());
        assert_eq!(
            abstract_name("/tmp/kx.5010"),
            Some(ListenAddress::Abstract(5010))
        );
        for name in ["/tmp/kx.05010", "/tmp/kx.", "/tmp/kx.70000", "kx.5010"] {
            assert_eq!(abstract_name(name), None, "{name}");
        }
        let path = UnixAddress::from_pathname("/run/hopend/hdb").unwrap();
        assert_eq!(
            unix(&path),
            Some(ListenAddress::Path("/run/hopend/hdb".into()))
        );
    }

    #[test]
    fn a_connection_is_no_listener() {
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let kind = SocketKind::Tcp(StdTcpListener::from(std::os::fd::OwnedFd::from(stream)));
        assert!(PassedSocket::new("hdb", kind, SocketOwner::Manager).is_none());
    }
}
