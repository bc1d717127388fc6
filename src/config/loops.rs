//! Endpoints that lead back to themselves, directly or through others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::{Endpoint, ListenAddress, Target};
use base::address::Address;

/// The way from each of these endpoints back to itself, if there is one: the names of the endpoints on
/// the way, from the one that it connects to up to itself.
pub(super) fn ways_back(endpoints: &[Arc<Endpoint>]) -> Vec<Option<Vec<&str>>> {
    let next: Vec<Vec<usize>> = endpoints
        .iter()
        .map(|from| successors(from, endpoints))
        .collect();
    let ways = (0..endpoints.len()).map(|start| {
        let way = way_back(start, &next)?;
        Some(
            way.into_iter()
                .map(|at| endpoints[at].name.as_str())
                .collect(),
        )
    });
    ways.collect()
}

/// The endpoints that one of the addresses of `from` leads to.
fn successors(from: &Endpoint, endpoints: &[Arc<Endpoint>]) -> Vec<usize> {
    let Target::Addresses { addresses, .. } = &from.target else {
        return Vec::new();
    };
    let listens = |to: &Endpoint| {
        let mut listen = to.listen.iter();
        listen.any(|listen| addresses.iter().any(|address| leads_to(address, listen)))
    };
    let all = endpoints.iter().enumerate();
    all.filter(|(_, to)| listens(to))
        .map(|(at, _)| at)
        .collect()
}

/// A shortest way from `start` to `start`, by breadth.
fn way_back(start: usize, next: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut came_from: Vec<Option<usize>> = vec![None; next.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for &to in &next[at] {
            if to == start {
                let mut way = vec![start];
                let mut step = at;
                while step != start {
                    way.push(step);
                    step = came_from[step]?;
                }
                way.reverse();
                return Some(way);
            }
            if came_from[to].is_none() {
                came_from[to] = Some(at);
                queue.push_back(to);
            }
        }
    }
    None
}

/// Whether whoever dials `address` on this host reaches `listen`, as far as that can be told without
/// asking the name service.
fn leads_to(address: &Address, listen: &ListenAddress) -> bool {
    let mut sockets = listen.tcp_sockets().into_iter();
    sockets.any(|socket| leads_to_socket(address, &socket))
}

fn leads_to_socket(address: &Address, listen: &SocketAddr) -> bool {
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

fn reaches(ip: IpAddr, listen: &SocketAddr) -> bool {
    let (ip, own) = (ip.to_canonical(), listen.ip().to_canonical());
    // The kernel dials the loopback in place of no address at all.
    let ip = match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let covers = match own {
        // It takes IPv4 as well.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        own => own.is_unspecified() && ip.is_ipv4(),
    };
    // The kernel lets a socket be bound to an address of this host only.
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
        let own = Address {
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
        let next = [vec![1], vec![2], vec![0, 2], vec![0]];
        let way = |start| way_back(start, &next);
        assert_eq!(way(0), Some(vec![1, 2, 0]));
        assert_eq!(way(1), Some(vec![2, 0, 1]));
        assert_eq!(way(2), Some(vec![2]));
        assert_eq!(way(3), None);
    }
}
