//! Finds endpoints whose target leads back to themselves, directly or through other endpoints.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use base::kdb_address::KdbAddress;

use crate::config::endpoint::Endpoint;
use crate::config::listen_address::ListenAddress;
use crate::config::target::Target;

/// The endpoints of a file, with the connections among them.
pub(super) struct EndpointGraph<'e> {
    endpoints: Vec<&'e Endpoint>,
    /// The indices of the endpoints that each endpoint's target addresses lead to.
    successors: Vec<Vec<usize>>,
}

impl<'e> EndpointGraph<'e> {
    pub(super) fn new(endpoints: impl Iterator<Item = &'e Arc<Endpoint>>) -> Self {
        let endpoints: Vec<&Endpoint> = endpoints.map(|endpoint| &**endpoint).collect();
        let successors = endpoints
            .iter()
            .map(|from| successors(from, &endpoints))
            .collect();
        Self {
            endpoints,
            successors,
        }
    }

    /// A shortest path from the endpoint called `name` back to itself, if there is one. It contains the
    /// names of the endpoints on the path; the last one is `name`.
    pub(super) fn path_back_to(&self, name: &str) -> Option<Vec<&'e str>> {
        let start = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.name == name)?;
        let path = path_back(start, &self.successors)?;
        let names = path
            .into_iter()
            .map(|index| self.endpoints[index].name.as_str());
        Some(names.collect())
    }
}

/// The indices of the endpoints that one of the target addresses of `from` leads to.
fn successors(from: &Endpoint, endpoints: &[&Endpoint]) -> Vec<usize> {
    let Target::Addresses { addresses, .. } = &from.target else {
        return Vec::new();
    };
    let is_reached = |to: &Endpoint| {
        let mut listen = to.listen.iter();
        listen.any(|listen| addresses.iter().any(|address| leads_to(address, listen)))
    };
    let all = endpoints.iter().enumerate();
    all.filter(|(_, to)| is_reached(to))
        .map(|(index, _)| index)
        .collect()
}

/// A shortest path from `start` back to `start`, found by breadth-first search. The path ends with
/// `start`, and does not begin with it.
fn path_back(start: usize, successors: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut predecessor: Vec<Option<usize>> = vec![None; successors.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(from) = queue.pop_front() {
        for &to in &successors[from] {
            if to == start {
                let mut path = vec![start];
                let mut step = from;
                while step != start {
                    path.push(step);
                    step = predecessor[step]?;
                }
                path.reverse();
                return Some(path);
            }
            if predecessor[to].is_none() {
                predecessor[to] = Some(from);
                queue.push_back(to);
            }
        }
    }
    None
}

/// Whether a connection from this host to `address` reaches a socket at `listen`. The function does not
/// query the name service, so it knows only `localhost`, the host's own name and IP addresses.
fn leads_to(address: &KdbAddress, listen: &ListenAddress) -> bool {
    let mut sockets = listen.tcp_sockets().into_iter();
    sockets.any(|socket| leads_to_socket(address, &socket))
}

fn leads_to_socket(address: &KdbAddress, listen: &SocketAddr) -> bool {
    if listen.port() == 0 || listen.port() != address.port {
        return false;
    }
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return reaches(ip, listen);
    }
    if address.host.eq_ignore_ascii_case("localhost") {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return loopback.into_iter().any(|ip| reaches(ip, listen));
    }
    let own_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    listen.ip().is_unspecified() && address.host.eq_ignore_ascii_case(own_name.trim())
}

/// Whether a connection from this host to `ip` reaches a socket at `listen`, for the same port.
fn reaches(ip: IpAddr, listen: &SocketAddr) -> bool {
    let (ip, own) = (ip.to_canonical(), listen.ip().to_canonical());
    // The kernel dials the loopback address instead of the unspecified address.
    let ip = match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let covers = match own {
        // A socket at `[::]` accepts IPv4 as well.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        own => own.is_unspecified() && ip.is_ipv4(),
    };
    // The kernel binds a socket only to an address of this host, so binding shows whether `ip` is one.
    ip == own || (covers && UdpSocket::bind((ip, 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_where_the_kernel_would_take_it() {
        for (address, listen, expected) in [
            (":127.0.0.1:5010", "127.0.0.1:5010", true),
            (":tcps://127.0.0.1:5010", "127.0.0.1:5010", true),
            (":127.0.0.1:5011", "127.0.0.1:5010", false),
            (":127.0.0.2:5010", "127.0.0.1:5010", false),
            (":127.0.0.2:5010", "0.0.0.0:5010", true),
            (":[::1]:5010", "[::1]:5010", true),
            (":[::1]:5010", "[::]:5010", true),
            (":[::1]:5010", "0.0.0.0:5010", false),
            (":127.0.0.1:5010", "[::]:5010", true),
            (":[::ffff:127.0.0.1]:5010", "127.0.0.1:5010", true),
            (":0.0.0.0:5010", "127.0.0.1:5010", true),
            (":[::]:5010", "[::1]:5010", true),
            (":localhost:5010", "127.0.0.1:5010", true),
            (":LOCALHOST:5010", "[::1]:5010", true),
            (":localhost:5010", "localhost:5010", true),
            (":127.0.0.1:5010", "localhost:5010", true),
            (":[::1]:5010", "localhost:5010", true),
            (":[::1]:5011", "localhost:5010", false),
            (":localhost:5010", "192.0.2.1:5010", false),
            (":192.0.2.1:5010", "0.0.0.0:5010", false),
            (":192.0.2.1:5010", "192.0.2.1:5010", true),
            (":kdb.example:5010", "0.0.0.0:5010", false),
            (":127.0.0.1:5010", "unix:5010", false),
        ] {
            let leads = leads_to(&address.parse().unwrap(), &listen.parse().unwrap());
            assert_eq!(leads, expected, "{address} {listen}");
        }
        let own_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let own = KdbAddress {
            tls: false,
            host: own_name.trim().to_owned(),
            port: 5010,
        };
        assert!(leads_to(&own, &"0.0.0.0:5010".parse().unwrap()));
        assert!(!leads_to(&own, &"0.0.0.0:0".parse().unwrap()));
    }

    #[test]
    fn the_way_back_is_a_shortest_one() {
        // 0 -> 1 -> 2 -> 0, 2 -> 2, 3 -> 0.
        let successors = [vec![1], vec![2], vec![0, 2], vec![0]];
        let path = |start| path_back(start, &successors);
        assert_eq!(path(0), Some(vec![1, 2, 0]));
        assert_eq!(path(1), Some(vec![2, 0, 1]));
        assert_eq!(path(2), Some(vec![2]));
        assert_eq!(path(3), None);
    }
}
