//! Finds a socket in `/proc/net/tcp` and `/proc/net/tcp6` (`proc_net(5)`).
//!
//! The daemon uses this module only if the kernel does not answer NETLINK_SOCK_DIAG. Each lookup reads
//! every socket of the network namespace.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::kernel_socket::{FourTuple, KernelSocket, canonical};

/// The socket at the client's address of `four_tuple`. `Ok(None)` if the tables do not list it.
///
/// Reads the tables twice, and returns a socket only if both readings agree. The kernel does not read
/// the uid and the inode of a line at the same moment. A socket that loses its process in between would
/// show its old inode beside uid 0.
pub(crate) fn lookup(four_tuple: &FourTuple) -> io::Result<Option<KernelSocket>> {
    let first = read(four_tuple)?;
    let second = read(four_tuple)?;
    Ok(match (first, second) {
        (Some(a), Some(b)) if (a.uid, a.inode) == (b.uid, b.inode) => Some(b),
        _ => None,
    })
}

/// The socket that accepts connections to `address`, because it listens there or at a wildcard address.
pub(crate) fn listener(address: SocketAddr) -> io::Result<Option<KernelSocket>> {
    let address = canonical(address);
    let own_table = if address.is_ipv6() { "tcp6" } else { "tcp" };
    let mut wildcard = None;
    for table in ["tcp", "tcp6"] {
        let text = match fs::read_to_string(format!("/proc/self/net/{table}")) {
            Ok(text) => text,
            // A kernel without IPv6 has no tcp6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => break,
            Err(error) => return Err(error),
        };
        let sockets = text.lines().skip(1);
        let sockets = sockets.filter_map(|line| parse(line, cfg!(target_endian = "little")));
        for (FourTuple { client, .. }, socket) in sockets.filter(|(_, socket)| socket.listens()) {
            if client == address {
                return Ok(Some(socket));
            }
            // A listener at `[::]` accepts IPv4 as well, unless it was made with IPV6_V6ONLY.
            let accepts = table == own_table || table == "tcp6";
            if accepts && client.port() == address.port() && client.ip().is_unspecified() {
                wildcard = wildcard.or(Some(socket));
            }
        }
    }
    Ok(wildcard)
}

/// The inodes of all TCP sockets that a process holds. The four-tuple of a socket begins with its own
/// address. Tables and lines that cannot be read are left out.
pub(crate) fn inodes() -> HashMap<FourTuple, u64> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines().skip(1));
    lines
        .filter_map(|line| parse(line, cfg!(target_endian = "little")))
        .filter(|(_, socket)| socket.owner().is_some())
        .map(|(four_tuple, socket)| (four_tuple, socket.inode))
        .collect()
}

fn read(four_tuple: &FourTuple) -> io::Result<Option<KernelSocket>> {
    // An IPv4 connection of an AF_INET6 socket is listed in tcp6.
    let tables: &[&str] = match four_tuple.client {
        SocketAddr::V4(_) => &["/proc/self/net/tcp", "/proc/self/net/tcp6"],
        SocketAddr::V6(_) => &["/proc/self/net/tcp6"],
    };
    for table in tables {
        match fs::read_to_string(table) {
            Ok(text) => {
                if let Some(socket) = find(&text, four_tuple, cfg!(target_endian = "little")) {
                    return Ok(Some(socket));
                }
            }
            // A kernel without IPv6 has no tcp6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Finds the line of `four_tuple` in the text of a table. `little_endian` is the byte order of the kernel
/// that printed it.
fn find(text: &str, four_tuple: &FourTuple, little_endian: bool) -> Option<KernelSocket> {
    text.lines()
        .skip(1)
        .filter_map(|line| parse(line, little_endian))
        .find_map(|(found, socket)| (found == *four_tuple).then_some(socket))
}

fn parse(line: &str, little_endian: bool) -> Option<(FourTuple, KernelSocket)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let client = address(fields.next()?, little_endian)?;
    let server = address(fields.next()?, little_endian)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (unsent, _) = fields.next()?.split_once(':')?;
    let unsent = u32::from_str_radix(unsent, 16).ok()?;
    // `nth(2)` skips the timer and the retransmits.
    let uid = fields.nth(2)?.parse().ok()?;
    // `nth(1)` skips the timeout.
    let inode = fields.nth(1)?.parse().ok()?;
    let socket = KernelSocket {
        uid,
        inode,
        state,
        unsent,
    };
    Some((FourTuple { client, server }, socket))
}

/// Parses an address such as `0100007F:1392`: 32-bit words in the kernel's byte order, then the port.
fn address(text: &str, little_endian: bool) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?;
        Some(if little_endian {
            word.to_le_bytes()
        } else {
            word.to_be_bytes()
        })
    };
    let ip = match words.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
                          retrnsmt   uid  timeout inode\n";

    fn four_tuple(client: &str, server: &str) -> FourTuple {
        FourTuple::new(client.parse().unwrap(), server.parse().unwrap())
    }

    fn found(lines: &str, four_tuple: &FourTuple, little_endian: bool) -> Option<KernelSocket> {
        find(&format!("{HEADER}{lines}"), four_tuple, little_endian)
    }

    #[test]
    fn ipv4_in_both_byte_orders() {
        let expected = Some(KernelSocket {
            uid: 1001,
            inode: 4_294_967_299,
            state: 1,
            unsent: 0,
        });
        let asked = four_tuple("127.0.0.1:40212", "127.0.0.2:5010");
        let little = "   0: 0100007F:1392 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1056 1 000000008a7f5763 100 0 0 10 0\n   1: 0200007F:1392 0100007F:9D14 01 00000000:00000000 00:00000000 00000000   999        0 1057 1 0 20 0 0 10 -1\n   2: 0100007F:9D14 0200007F:1392 01 00000000:00000000 00:00000000 00000000  1001        0 4294967299 1 0 20 0 0 10 -1\n";
        assert_eq!(found(little, &asked, true), expected);
        assert_eq!(found(little, &asked, false), None);
        let big = "   2: 7F000001:9D14 7F000002:1392 01 00000000:00000000 00:00000000 00000000  1001        0 4294967299 1 0 20 0 0 10 -1\n";
        assert_eq!(found(big, &asked, false), expected);
    }

    #[test]
    fn ipv6_in_both_byte_orders() {
        let expected = Some(KernelSocket {
            uid: 42,
            inode: 7,
            state: 8,
            unsent: 0,
        });
        let asked = four_tuple("[::1]:40212", "[fd00::1234:2]:5010");
        for (little_endian, line) in [
            (
                true,
                "   0: 00000000000000000000000001000000:9D14 000000FD000000000000000002003412:1392 08 00000000:00000000 00:00000000 00000000    42        0 7 1 0 20\n",
            ),
            (
                false,
                "   0: 00000000000000000000000000000001:9D14 FD000000000000000000000012340002:1392 08 00000000:00000000 00:00000000 00000000    42        0 7 1 0 20\n",
            ),
        ] {
            assert_eq!(found(line, &asked, little_endian), expected);
        }
    }

    #[test]
    fn an_ipv6_socket_that_talks_ipv4_is_found_by_its_ipv4_addresses() {
        let line = "   0: 0000000000000000FFFF00000100007F:9D14 0000000000000000FFFF00000100007F:1392 01 00000000:00000000 00:00000000 00000000    42        0 7 1 0 20\n";
        let expected = Some(KernelSocket {
            uid: 42,
            inode: 7,
            state: 1,
            unsent: 0,
        });
        for asked in [
            four_tuple("127.0.0.1:40212", "127.0.0.1:5010"),
            four_tuple("[::ffff:127.0.0.1]:40212", "[::ffff:127.0.0.1]:5010"),
        ] {
            assert_eq!(found(line, &asked, true), expected);
        }
    }

    #[test]
    fn the_orphan_of_a_client_that_has_gone_has_no_owner() {
        let line = "   0: 0100007F:9D14 0100007F:1392 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20\n";
        let socket = found(line, &four_tuple("127.0.0.1:40212", "127.0.0.1:5010"), true).unwrap();
        assert_eq!((socket.uid, socket.owner()), (0, None));
    }

    #[test]
    fn lines_that_are_no_sockets_are_passed_over() {
        for line in [
            "",
            "x",
            "0: 0100007F",
            "0: é100007F:9D14 0100007F:1392 01",
            "0: 0100007F:9D14 0100007F:1392 01 a b c nobody 0 7",
        ] {
            assert_eq!(
                found(line, &four_tuple("127.0.0.1:40212", "127.0.0.1:5010"), true),
                None,
                "{line}"
            );
        }
    }
}
