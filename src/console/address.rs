//! How hopen says the address of a local endpoint.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ListenAddress;

/// What a q client can dial, of the addresses that an endpoint listens on: `:localhost:5010` or
/// `:unix://5010`. `dialled` is the address of this host that a client elsewhere has come in by, and
/// so can come in by again.
pub(super) fn for_hopen(listen: &[ListenAddress], dialled: Option<IpAddr>) -> Option<String> {
    let tcp = listen.iter().filter_map(|address| match address {
        ListenAddress::Localhost(port) if dialled.is_none() => Some(format!(":localhost:{port}")),
        ListenAddress::Tcp(address) => {
            let host = host(address.ip().to_canonical(), dialled)?;
            Some(format!(":{host}:{}", address.port()))
        }
        _ => None,
    });
    // A path has no spelling in hopen: q's sockets go by number.
    let unix = listen.iter().filter_map(|address| match address {
        ListenAddress::Abstract(port) if dialled.is_none() => Some(format!(":unix://{port}")),
        _ => None,
    });
    tcp.chain(unix).next()
}

fn host(listens: IpAddr, dialled: Option<IpAddr>) -> Option<String> {
    let written = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    match dialled {
        Some(dialled) => (listens.is_unspecified() || listens == dialled).then(|| written(dialled)),
        // `localhost` may be the address of the other family, which another account may have bound.
        None if listens == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some("localhost".into()),
        None if listens.is_unspecified() => Some(written(Ipv4Addr::LOCALHOST.into())),
        None => Some(written(listens)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(listen: &[&str], dialled: Option<&str>) -> Option<String> {
        let listen: Vec<_> = listen.iter().map(|text| text.parse().unwrap()).collect();
        for_hopen(&listen, dialled.map(|text| text.parse().unwrap()))
    }

    #[test]
    fn tcp_goes_first_and_a_path_cannot_be_said() {
        for (listen, said) in [
            (
                &["unix:5010", "localhost:5010"][..],
                Some(":localhost:5010"),
            ),
            (&["unix:5010", "127.0.0.1:5010"], Some(":127.0.0.1:5010")),
            (&["0.0.0.0:5010"], Some(":127.0.0.1:5010")),
            (&["[::]:5010"], Some(":localhost:5010")),
            (&["127.0.0.2:5010"], Some(":127.0.0.2:5010")),
            (&["[::1]:5010"], Some(":[::1]:5010")),
            (&["unix:5010"], Some(":unix://5010")),
            (&["unix:/run/hopend/hdb"], None),
            (&[], None),
        ] {
            assert_eq!(address(listen, None).as_deref(), said, "{listen:?}");
        }
    }

    #[test]
    fn from_elsewhere_only_what_can_be_reached_from_there() {
        let dialled = Some("192.0.2.7");
        for (listen, said) in [
            (&["127.0.0.1:5010", "unix:5010"][..], None),
            (&["localhost:5010"], None),
            (
                &["127.0.0.1:5010", "192.0.2.7:5011"],
                Some(":192.0.2.7:5011"),
            ),
            (&["0.0.0.0:5010"], Some(":192.0.2.7:5010")),
            (&["192.0.2.8:5010"], None),
        ] {
            assert_eq!(address(listen, dialled).as_deref(), said, "{listen:?}");
        }
    }
}
