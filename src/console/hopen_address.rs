//! The address of a local endpoint in the form that hopen accepts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ListenAddress;

/// The first address of an endpoint that the q client can dial, such as `:localhost:5010` or
/// `:unix://5010`. TCP addresses come first. Returns `None` if the client can dial none of them.
///
/// `dialled` is the address of this host that a client on another host dialled, so the client can dial it
/// again. `None` stands for a client on this host.
pub(super) fn hopen_address(listen: &[ListenAddress], dialled: Option<IpAddr>) -> Option<String> {
    let tcp = listen.iter().filter_map(|address| match address {
        ListenAddress::Localhost(port) if dialled.is_none() => Some(format!(":localhost:{port}")),
        ListenAddress::Tcp(address) => {
            let host = host_to_dial(address.ip().to_canonical(), dialled)?;
            Some(format!(":{host}:{}", address.port()))
        }
        _ => None,
    });
    // hopen cannot dial a socket file, because q names Unix sockets by port number.
    let unix = listen.iter().filter_map(|address| match address {
        ListenAddress::Abstract(port) if dialled.is_none() => Some(format!(":unix://{port}")),
        _ => None,
    });
    tcp.chain(unix).next()
}

/// The host part of the address for a socket bound to `bound`.
fn host_to_dial(bound: IpAddr, dialled: Option<IpAddr>) -> Option<String> {
    let format = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    match dialled {
        Some(dialled) => (bound.is_unspecified() || bound == dialled).then(|| format(dialled)),
        // `localhost` could be 127.0.0.1, where another account may listen, but :: covers both families.
        None if bound == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some("localhost".into()),
        None if bound.is_unspecified() => Some(format(Ipv4Addr::LOCALHOST.into())),
        None => Some(format(bound)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(listen: &[&str], dialled: Option<&str>) -> Option<String> {
        let listen: Vec<_> = listen.iter().map(|text| text.parse().unwrap()).collect();
        hopen_address(&listen, dialled.map(|text| text.parse().unwrap()))
    }

    #[test]
    fn tcp_goes_first_and_a_path_cannot_be_said() {
        for (listen, expected) in [
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
            assert_eq!(address(listen, None).as_deref(), expected, "{listen:?}");
        }
    }

    #[test]
    fn from_elsewhere_only_what_can_be_reached_from_there() {
        let dialled = Some("192.0.2.7");
        for (listen, expected) in [
            (&["127.0.0.1:5010", "unix:5010"][..], None),
            (&["localhost:5010"], None),
            (
                &["127.0.0.1:5010", "192.0.2.7:5011"],
                Some(":192.0.2.7:5011"),
            ),
            (&["0.0.0.0:5010"], Some(":192.0.2.7:5010")),
            (&["192.0.2.8:5010"], None),
        ] {
            assert_eq!(address(listen, dialled).as_deref(), expected, "{listen:?}");
        }
    }
}
