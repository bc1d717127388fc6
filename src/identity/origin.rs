//! Groups connections whose limits and penalties count together before the daemon knows the user.

use std::net::{IpAddr, Ipv6Addr};

use super::Peer;

/// The origin of a connection: a local account, a host by its IPv4 address, or an IPv6 network. Limits
/// and penalties count by origin. An IPv6 network is a /64, because one host can use all addresses of a
/// /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An account of this host, over a Unix socket or over TCP.
    Account(u32),
    /// Another host's IPv4 address, or the first address of its IPv6 network.
    Address(IpAddr),
    /// All clients of this host whose account the kernel did not report. Their addresses do not
    /// separate them, because any account can use any loopback address.
    UnknownAccount,
}

impl Origin {
    /// The origin of a client's connection.
    pub fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Local { uid, .. }
            | Peer::Remote {
                account: Some(uid), ..
            } => Self::Account(*uid),
            Peer::Unidentified { .. } => Self::UnknownAccount,
            Peer::Remote { address, .. } => match address.ip().to_canonical() {
                ip if ip.is_loopback() => Self::UnknownAccount,
                IpAddr::V6(ip) => {
                    let network = u128::from(ip) >> 64 << 64;
                    Self::Address(Ipv6Addr::from(network).into())
                }
                v4 @ IpAddr::V4(_) => Self::Address(v4),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_one_and_a_host_is_one_whatever_address_it_takes() {
        let remote = |address: &str, account| Peer::Remote {
            address: address.parse().unwrap(),
            account,
        };
        let local = Peer::Local {
            uid: 7,
            pid: None,
            address: None,
        };
        for (first, second, same) in [
            ("10.0.0.1:1", "10.0.0.1:2", true),
            ("10.0.1.1:1", "10.0.1.2:1", false),
            ("[::ffff:10.0.2.1]:1", "10.0.2.1:1", true),
            ("[2001:db8::1]:1", "[2001:db8::ffff:1]:1", true),
            ("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", false),
            ("127.0.0.1:1", "127.9.8.7:1", true),
            ("127.0.0.1:1", "[::ffff:127.9.8.7]:1", true),
            ("127.0.0.1:1", "[::1]:1", true),
            ("127.0.0.1:1", "10.0.0.1:1", false),
        ] {
            let (first, second) = (remote(first, None), remote(second, None));
            let found = Origin::of(&first) == Origin::of(&second);
            assert_eq!(found, same, "{first} {second}");
        }
        let one = Origin::of(&remote("127.0.0.1:1", Some(7)));
        assert_eq!(one, Origin::of(&remote("127.0.0.2:1", Some(7))));
        assert_eq!(one, Origin::of(&remote("10.0.0.1:1", Some(7))));
        assert_eq!(one, Origin::of(&local));
        assert_ne!(one, Origin::of(&remote("127.0.0.1:1", Some(8))));
    }
}
