//! Addresses to listen on and addresses to dial.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base::invalid::Invalid;

use super::ListenAddress;

/// Longest path the kernel takes for a socket: `sun_path` less its NUL.
pub(crate) const LONGEST_SOCKET_PATH: usize = 107;

impl ListenAddress {
    /// Whether only this host can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Localhost(_) | Self::Abstract(_) | Self::Path(_) => true,
        }
    }

    /// The TCP sockets that it consists of: two for `localhost`, none for a Unix socket.
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

    /// Whether the system chooses the port.
    pub fn has_any_port(&self) -> bool {
        self.tcp_sockets().iter().any(|socket| socket.port() == 0)
    }

    /// Whether a socket at `socket` is this address or one of its two families.
    pub fn includes(&self, socket: &Self) -> bool {
        match (self, socket) {
            (Self::Localhost(_), Self::Tcp(socket)) => self.tcp_sockets().contains(socket),
            _ => self == socket,
        }
    }

    /// Whether both can't be bound at a time. `[::]` takes IPv4 as well; port 0 never clashes, since
    /// the system chooses.
    pub fn clashes(&self, other: &Self) -> bool {
        if !(self.is_tcp() && other.is_tcp()) {
            return self == other;
        }
        let others = other.tcp_sockets();
        let clash = |a: &SocketAddr, b: &SocketAddr| {
            a.port() != 0 && a.port() == b.port() && overlap(a.ip(), b.ip())
        };
        let own = self.tcp_sockets();
        own.iter().any(|a| others.iter().any(|b| clash(a, b)))
    }
}

/// Whether the kernel takes a path for a socket.
pub(crate) fn fits_a_socket(path: &Path) -> bool {
    path.as_os_str().len() <= LONGEST_SOCKET_PATH
}

fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| match a {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        _ => a.is_unspecified() && b.is_ipv4(),
    };
    let (a, b) = (a.to_canonical(), b.to_canonical());
    a == b || covers(a, b) || covers(b, a)
}

/// `localhost:5010`, `5010`, `127.0.0.1:5010`, `[::1]:5010`, `unix:5010` or `unix:/run/hopend/hdb`.
impl FromStr for ListenAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
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
            return Err(Invalid::new(
                "has no port",
                format!("write \"{host}:5010\""),
            ));
        }
        if text == "localhost" {
            return Err(Invalid::new("has no port", "write \"localhost:5010\""));
        }
        if host.is_empty() || host == "localhost" {
            return Err(Invalid::new(
                "is not a host and a port",
                format!("write \"localhost:{port}\""),
            ));
        }
        Err(Invalid::new(
            "is not an address to listen on",
            format!(
                "write \"localhost:{port}\", an IP address such as \"127.0.0.1:{port}\", \"unix:{port}\" or \
                 \"unix:/absolute/path\""
            ),
        ))
    }
}

fn unix(rest: &str) -> Result<ListenAddress, Invalid> {
    // q writes `:unix://5010`, people write it here too.
    let bare = rest.trim_start_matches('/');
    if let Ok(port @ 1..) = bare.parse::<u16>() {
        if rest == bare {
            return Ok(ListenAddress::Abstract(port));
        }
        return Err(Invalid::new(
            "is neither a port nor a path",
            format!("write \"unix:{port}\" for q's socket of that port"),
        ));
    }
    if !rest.starts_with('/') || bare.is_empty() {
        return Err(Invalid::new(
            "is neither a port nor an absolute path",
            "write \"unix:5010\" or \"unix:/run/hopend/hdb\"",
        ));
    }
    if rest.len() > LONGEST_SOCKET_PATH || rest.contains('\0') {
        return Err(Invalid::new(
            "the path is too long for a socket",
            format!("write a path of at most {LONGEST_SOCKET_PATH} bytes"),
        ));
    }
    Ok(ListenAddress::Path(PathBuf::from(rest)))
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
