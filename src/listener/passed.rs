//! Sockets that the service manager opened beforehand and passes (`sd_listen_fds(3)`): it holds them
//! across a restart, so that nobody is refused meanwhile.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};

use listenfd::ListenFd;
use socket2::SockRef;

use crate::config::ListenAddress;

/// The sockets that were passed. They stay open as long as this lives: a reload may want one that
/// the configuration before it did not.
#[derive(Debug, Default)]
pub struct Passed(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    /// `FileDescriptorName=` of the socket unit.
    name: String,
    /// Where it listens, as people would write it.
    shown: String,
    /// None where no endpoint could listen.
    address: Option<ListenAddress>,
    kind: PassedKind,
}

/// What was passed.
#[derive(Debug)]
pub(super) enum PassedKind {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Why the passed sockets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// The variables make no sense.
    #[error("the service manager's LISTEN_ variables: {0}")]
    Variables(io::Error),
    /// One that nobody can connect to.
    #[error(
        "socket {number} ({name:?}) of those that were passed is no stream socket that listens. Fix: use ListenStream= and Accept=no in the socket unit."
    )]
    NoListener {
        /// In the order of the socket units, from 1.
        number: usize,
        /// Its FileDescriptorName.
        name: String,
    },
}

impl Passed {
    /// Takes over what was passed to this process; nothing, mostly. A second call would find the same
    /// sockets once more: call it once, at the start.
    pub fn from_environment() -> Result<Self, PassedError> {
        let names = sd_notify::listen_fds_with_names().map_err(PassedError::Variables)?;
        let names: Vec<String> = names.map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut descriptors = ListenFd::from_env();
        let sockets = names.into_iter().enumerate().map(|(index, name)| {
            let kind = match descriptors.take_tcp_listener(index) {
                Ok(listener) => listener.map(PassedKind::Tcp),
                Err(_) => {
                    let listener = descriptors.take_unix_listener(index).ok().flatten();
                    listener.map(PassedKind::Unix)
                }
            };
            kind.and_then(|kind| Socket::new(name.clone(), kind))
                .ok_or(PassedError::NoListener {
                    number: index + 1,
                    name,
                })
        });
        sockets.collect::<Result<_, _>>().map(Self)
    }

    /// The socket that listens at `address`, if it was passed.
    pub(super) fn find(&self, address: &ListenAddress) -> Option<&PassedKind> {
        let mut sockets = self.0.iter();
        let found = sockets.find(|socket| socket.address.as_ref() == Some(address))?;
        Some(&found.kind)
    }

    /// What does not fit the addresses of a configuration, each with its endpoint's name: one line for
    /// each socket.
    pub fn misfits(&self, wanted: &[(ListenAddress, String)]) -> Vec<String> {
        let sockets = self.0.iter();
        sockets.filter_map(|socket| socket.misfit(wanted)).collect()
    }
}

impl Socket {
    fn new(name: String, kind: PassedKind) -> Option<Self> {
        let (shown, address) = match &kind {
            PassedKind::Tcp(listener) => {
                SockRef::from(listener)
                    .is_listener()
                    .ok()
                    .filter(|is| *is)?;
                let address = ListenAddress::Tcp(listener.local_addr().ok()?);
                (address.to_string(), Some(address))
            }
            PassedKind::Unix(listener) => {
                SockRef::from(listener)
                    .is_listener()
                    .ok()
                    .filter(|is| *is)?;
                let at = listener.local_addr().ok()?;
                let address = unix(&at);
                let shown = address
                    .as_ref()
                    .map_or_else(|| format!("{at:?}"), ToString::to_string);
                (shown, address)
            }
        };
        Some(Self {
            name,
            shown,
            address,
            kind,
        })
    }

    fn misfit(&self, wanted: &[(ListenAddress, String)]) -> Option<String> {
        let Self { name, shown, .. } = self;
        let here = wanted
            .iter()
            .find(|(address, _)| self.address.as_ref() == Some(address));
        match here {
            None => Some(format!(
                "no endpoint listens at {shown} (FileDescriptorName={name}), which was passed: \
                 whoever dials it waits for ever. Fix: add it to `listen` of an endpoint, or take it out \
                 of the socket unit."
            )),
            Some((_, endpoint)) if self.is_named() && endpoint != name => Some(format!(
                "{shown} was passed as {name:?}, and is where the endpoint {endpoint:?} listens, \
                 which it goes to. Fix: correct FileDescriptorName= of the socket unit, or `listen`."
            )),
            Some(_) => None,
        }
    }

    /// Without FileDescriptorName= it is the name of the unit.
    fn is_named(&self) -> bool {
        let name = &self.name;
        !(name.is_empty() || name == "unknown" || name.ends_with(".socket"))
    }
}

fn unix(address: &UnixAddress) -> Option<ListenAddress> {
    if let Some(path) = address.as_pathname() {
        return Some(ListenAddress::Path(path.to_path_buf()));
    }
    let name = str::from_utf8(address.as_abstract_name()?).ok()?;
    let port = name.strip_prefix("/tmp/kx.")?;
    let address = format!("unix:{port}").parse().ok()?;
    // "05010" is another name than "5010".
    matches!(&address, ListenAddress::Abstract(number) if number.to_string() == port)
        .then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(name: &str, kind: PassedKind) -> Socket {
        Socket::new(name.into(), kind).unwrap()
    }

    #[test]
    fn the_address_decides_and_another_name_is_told() {
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let here = ListenAddress::Tcp(listener.local_addr().unwrap());
        let elsewhere = ListenAddress::Abstract(5010);
        for (name, wanted, told) in [
            ("hdb", &here, None),
            ("hopend.socket", &here, None),
            ("unknown", &here, None),
            ("rdb", &here, Some("correct FileDescriptorName=")),
            ("hdb", &elsewhere, Some("waits for ever")),
        ] {
            let kind = PassedKind::Tcp(listener.try_clone().unwrap());
            let passed = Passed(vec![socket(name, kind)]);
            let misfits = passed.misfits(&[(wanted.clone(), "hdb".into())]);
            match told {
                Some(part) => assert!(misfits[0].contains(part), "{misfits:?}"),
                None => assert!(misfits.is_empty(), "{misfits:?}"),
            }
            assert!(passed.find(&here).is_some());
            assert!(passed.find(&elsewhere).is_none());
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
        let kind = PassedKind::Tcp(StdTcpListener::from(std::os::fd::OwnedFd::from(stream)));
        assert!(Socket::new("hdb".into(), kind).is_none());
    }
}
