//! The addresses on which an endpoint accepts clients.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base::invalid_value::InvalidValue;

/// The longest path of a Unix socket, in bytes: the size of `sun_path` without its NUL.
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

/// An address on which an endpoint accepts clients.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `localhost:5010` or `5010`: the port on both 127.0.0.1 and ::1. hopend binds both, so that no
    /// other account can bind the address that a client's resolver chooses.
    Localhost(u16),
    /// `127.0.0.1:5010` or `[::1]:5010`.
    Tcp(SocketAddr),
    /// `unix:5010`: the abstract socket `@/tmp/kx.5010`, which q on Linux dials for
    /// `` `:unix://5010 ``.
    Abstract(u16),
    /// `unix:/run/hopend/hdb`: a socket file of mode 0600.
    Path(PathBuf),
}

impl ListenAddress {
    /// Whether only this host can reach the address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Localhost(_) | Self::Abstract(_) | Self::Path(_) => true,
        }
    }

    /// The TCP sockets to bind: two for `localhost`, no socket for a Unix socket's address.
    pub fn tcp_sockets(&self) -> Vec<SocketAddr> {
        match self {
            Self::Localhost(port) => vec![
                (Ipv4Addr::LOCALHOST, *port).into(),
                (Ipv6Addr::LOCALHOST, *port).into(),
            ],
            Self::Tcp(address) => vec![*address],
            Self::Abstract(_) | Self::Path(_) => Vec::new(),
        }
    }

    /// Whether clients connect over TCP.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Localhost(_) | Self::Tcp(_))
    }

    /// Whether the port is 0, so that the system chooses a port.
    pub fn has_system_chosen_port(&self) -> bool {
        self.tcp_sockets().iter().any(|socket| socket.port() == 0)
    }

    /// Whether `socket` is this address, or one of the two sockets of `localhost`.
    pub fn includes(&self, socket: &Self) -> bool {
        match (self, socket) {
            (Self::Localhost(_), Self::Tcp(socket)) => self.tcp_sockets().contains(socket),
            _ => self == socket,
        }
    }

    /// Whether hopend cannot bind both addresses at the same time.
    ///
    /// `[::]` includes IPv4. Port 0 clashes with nothing, because the system chooses a free port.
    pub fn clashes(&self, other: &Self) -> bool {
        if !(self.is_tcp() && other.is_tcp()) {
            return self == other;
        }
        let sockets_clash = |a: &SocketAddr, b: &SocketAddr| {
            a.port() != 0 && a.port() == b.port() && overlap(a.ip(), b.ip())
        };
        let (own, others) = (self.tcp_sockets(), other.tcp_sockets());
        own.iter()
            .any(|a| others.iter().any(|b| sockets_clash(a, b)))
    }
}

/// Whether a path is short enough for a Unix socket.
pub(super) fn fits_a_socket(path: &Path) -> bool {
    path.as_os_str().len() <= LONGEST_SOCKET_PATH
}

/// Whether sockets at these two addresses and at the same port compete.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| match a {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        _ => a.is_unspecified() && b.is_ipv4(),
    };
    let (a, b) = (a.to_canonical(), b.to_canonical());
    a == b || covers(a, b) || covers(b, a)
}

/// Parses `localhost:5010`, `5010`, `127.0.0.1:5010`, `[::1]:5010`, `unix:5010` or
/// `unix:/run/hopend/hdb`.
impl FromStr for ListenAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(rest);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        let bare = text.strip_prefix("localhost:").unwrap_or(text);
        if let (Ok(port), false) = (bare.parse::<u16>(), bare.starts_with('+')) {
            return Ok(Self::Localhost(port));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse::<u16>().unwrap_or(5010);
        if text.parse::<IpAddr>().is_ok() {
            let host = if text.contains(':') {
                format!("[{text}]")
            } else {
                text.to_owned()
            };
            return Err(InvalidValue::new(
                "has no port",
                format!("write \"{host}:5010\""),
            ));
        }
        if text == "localhost" {
            return Err(InvalidValue::new("has no port", "write \"localhost:5010\""));
        }
        if host.is_empty() || host == "localhost" {
            return Err(InvalidValue::new(
                "is not a host and a port",
                format!("write \"localhost:{port}\""),
            ));
        }
        Err(InvalidValue::new(
            "is not an address to listen on",
            format!(
                "write \"localhost:{port}\", an IP address such as \"127.0.0.1:{port}\", \"unix:{port}\" or \
                 \"unix:/absolute/path\""
            ),
        ))
    }
}

/// Parses the text after `unix:`.
fn unix(rest: &str) -> Result<ListenAddress, InvalidValue> {
    // In q the form is `:unix://5010`, so people use the two slashes here as well.
    let bare = rest.trim_start_matches('/');
    if let Ok(port @ 1..) = bare.parse::<u16>() {
        if rest == bare {
            return Ok(ListenAddress::Abstract(port));
        }
        return Err(InvalidValue::new(
            "is neither a port nor a path",
            format!("write \"unix:{port}\" for q's socket of that port"),
        ));
    }
    if !rest.starts_with('/') || bare.is_empty() {
        return Err(InvalidValue::new(
            "is neither a port nor an absolute path",
            "write \"unix:5010\" or \"unix:/run/hopend/hdb\"",
        ));
    }
    if rest.len() > LONGEST_SOCKET_PATH || rest.contains('\0') {
        return Err(InvalidValue::new(
            "the path is too long for a socket",
            format!("write a path of at most {LONGEST_SOCKET_PATH} bytes"),
        ));
    }
    Ok(ListenAddress::Path(PathBuf::from(rest)))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Tcp(address) => address.fmt(f),
            Self::Abstract(port) => write!(f, "unix:{port}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> ListenAddress {
        text.parse().unwrap()
    }

    #[test]
    fn listening_addresses_read_as_they_are_shown() {
        for text in [
            "localhost:5010",
            "localhost:0",
            "127.0.0.1:5010",
            "[::1]:0",
            "unix:5010",
            "unix:/run/hopend/hdb",
        ] {
            assert_eq!(listen(text).to_string(), text);
        }
        assert_eq!(listen("5010"), ListenAddress::Localhost(5010));
        assert_eq!(listen("unix:5010"), ListenAddress::Abstract(5010));
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused_with_what_to_write() {
        for (text, remedy) in [
            ("127.0.0.1", "\"127.0.0.1:5010\""),
            ("::1", "\"[::1]:5010\""),
            (":5012", "\"localhost:5012\""),
            ("+5012", "\"localhost:5012\""),
            ("localhost", "\"localhost:5010\""),
            ("localhost:99999", "\"localhost:5010\""),
            ("unix://5012", "\"unix:5012\""),
            ("unix:0", "\"unix:5010\""),
            ("unix:run/x", "\"unix:5010\""),
            ("unix:/", "\"unix:5010\""),
            ("", "\"localhost:5010\""),
            ("host:99999", "\"127.0.0.1:5010\""),
        ] {
            let invalid = text.parse::<ListenAddress>().unwrap_err();
            assert!(invalid.remedy.contains(remedy), "{text}: {invalid}");
        }
    }

    #[test]
    fn addresses_clash_when_both_cannot_be_bound() {
        for (a, b, clash) in [
            ("127.0.0.1:5010", "127.0.0.1:5010", true),
            ("0.0.0.0:5010", "127.0.0.1:5010", true),
            ("[::]:5010", "127.0.0.1:5010", true),
            ("0.0.0.0:5010", "[::1]:5010", false),
            ("127.0.0.1:5010", "127.0.0.2:5010", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:5010", "unix:5010", true),
            ("unix:5010", "127.0.0.1:5010", false),
            ("localhost:5010", "127.0.0.1:5010", true),
            ("localhost:5010", "[::1]:5010", true),
            ("localhost:5010", "0.0.0.0:5010", true),
            ("localhost:5010", "localhost:5010", true),
            ("localhost:5010", "127.0.0.2:5010", false),
            ("localhost:5010", "unix:5010", false),
            ("localhost:0", "localhost:0", false),
        ] {
            assert_eq!(listen(a).clashes(&listen(b)), clash, "{a} {b}");
            assert_eq!(listen(b).clashes(&listen(a)), clash, "{b} {a}");
        }
    }

    #[test]
    fn localhost_includes_the_sockets_of_both_families() {
        let localhost = listen("localhost:5010");
        for (socket, included) in [
            ("127.0.0.1:5010", true),
            ("[::1]:5010", true),
            ("localhost:5010", true),
            ("127.0.0.1:5011", false),
            ("127.0.0.2:5010", false),
            ("unix:5010", false),
        ] {
            assert_eq!(localhost.includes(&listen(socket)), included, "{socket}");
        }
        assert!(!listen("127.0.0.1:5010").includes(&localhost));
    }
}
