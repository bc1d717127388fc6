//! Endpoints that listen on only one of the two addresses of `localhost`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use base::error::with_fix;

use super::configuration::Config;
use super::listen_address::ListenAddress;

/// The file that defines the addresses of `localhost`.
pub const HOSTS_FILE: &str = "/etc/hosts";

/// An endpoint that listens on one loopback address only, although `localhost` has an address of the
/// other family too. Another account can bind that address and receive the data that clients send to
/// `localhost`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncoveredLoopback {
    /// The name of the endpoint.
    pub endpoint: String,
    /// The address on which the endpoint listens.
    pub address: ListenAddress,
    /// The loopback address of the other family, which another account can bind.
    pub open: SocketAddr,
}

/// Finds the endpoints that listen on the loopback address of one family only, if the file `hosts` gives
/// `localhost` an address of each family.
///
/// If the file cannot be read, the result is empty. Reads the file.
pub fn loopback_warnings(config: &Config, hosts: &Path) -> Vec<UncoveredLoopback> {
    let text = std::fs::read_to_string(hosts).unwrap_or_default();
    if !has_both(&text) {
        return Vec::new();
    }
    let uncovered = |address: &ListenAddress| {
        let other = other_family(address)?;
        let other_address = ListenAddress::Tcp(other);
        let endpoints = config.endpoints.iter();
        let mut addresses = endpoints.flat_map(|endpoint| &endpoint.listen);
        let covered = addresses.any(|address| address.clashes(&other_address));
        (!covered).then_some(other)
    };
    let endpoints = config.endpoints.iter();
    let found = endpoints.flat_map(|endpoint| {
        let addresses = endpoint.listen.iter();
        addresses.filter_map(move |address| {
            Some(UncoveredLoopback {
                endpoint: endpoint.name.clone(),
                address: address.clone(),
                open: uncovered(address)?,
            })
        })
    });
    found.collect()
}

/// The loopback address of the other family, if `address` includes the loopback address of one.
fn other_family(address: &ListenAddress) -> Option<SocketAddr> {
    let ListenAddress::Tcp(address) = address else {
        return None;
    };
    let other: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST | Ipv4Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    (address.port() != 0).then(|| SocketAddr::new(other, address.port()))
}

/// Whether the text of a hosts file gives `localhost` an IPv4 and an IPv6 address.
fn has_both(hosts: &str) -> bool {
    let addresses = hosts.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut fields = line.split_ascii_whitespace();
        let address: IpAddr = fields.next()?.parse().ok()?;
        let mut names = fields;
        names
            .any(|name| name.eq_ignore_ascii_case("localhost"))
            .then_some(address)
    });
    let addresses: Vec<IpAddr> = addresses.collect();
    addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6)
}

impl fmt::Display for UncoveredLoopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint,
            address,
            open,
        } = self;
        let port = open.port();
        let what = format!(
            "endpoint {endpoint:?} listens at {address} only, but localhost is {} as well: another \
             account can bind {open} and receive what clients send to localhost:{port}",
            open.ip()
        );
        let fix = format!("write \"localhost:{port}\" in listen");
        f.write_str(&with_fix(what, fix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OsUser, parse};

    const BOTH: &str = "127.0.0.1 localhost # v4\n::1 localhost ip6-localhost\n";

    fn warned(listen: &str, hosts: &str) -> Vec<String> {
        let text = format!(
            "[[user]]\nname = \"a\"\nos_user = \"1\"\n[[endpoint]]\nname = \"c\"\nkind = \"console\"\n\
             expose = true\nlisten = {listen}\n"
        );
        let accounts = |name: &str| {
            Ok(Some(OsUser {
                name: name.into(),
                uid: 1,
            }))
        };
        let text = text.replace("os_user = \"1\"", "os_user = \"1\"\npassword = \"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA\"");
        let config = parse(&text, Path::new("hopend.toml"), &accounts).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, hosts).unwrap();
        let found = loopback_warnings(&config, &path);
        found.iter().map(|found| found.open.to_string()).collect()
    }

    #[test]
    fn one_family_is_told_where_localhost_is_both() {
        for (listen, open) in [
            (r#""127.0.0.1:5010""#, &["[::1]:5010"][..]),
            (r#""[::1]:5010""#, &["127.0.0.1:5010"]),
            (r#""0.0.0.0:5010""#, &["[::1]:5010"]),
            (
                r#"["127.0.0.1:5010", "127.0.0.1:5011"]"#,
                &["[::1]:5010", "[::1]:5011"],
            ),
            (r#""localhost:5010""#, &[]),
            (r#""[::]:5010""#, &[]),
            (r#"["127.0.0.1:5010", "[::1]:5010"]"#, &[]),
            (r#""127.0.0.1:0""#, &[]),
            (r#""127.0.0.2:5010""#, &[]),
            (r#""unix:5010""#, &[]),
        ] {
            assert_eq!(warned(listen, BOTH), open, "{listen}");
        }
    }

    #[test]
    fn nothing_is_told_where_localhost_is_one_address() {
        for hosts in [
            "127.0.0.1 localhost\n",
            "127.0.0.1 localhost\n::1 ip6-localhost\n",
            "127.0.0.1 localhost\n#::1 localhost\n",
            "",
        ] {
            assert_eq!(warned(r#""127.0.0.1:5010""#, hosts), [""; 0], "{hosts}");
        }
    }
}
