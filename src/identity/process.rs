//! Which process is behind a local connection, for people to read and never for a decision: it may
//! have passed the socket on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::proc_net;
use super::socket::Ends;
use crate::primitives::printable::printable;

/// A connection's two ends: the client's, then the server's.
pub type Connection = (SocketAddr, SocketAddr);

/// The processes that hold the clients' ends of TCP connections of this host.
///
/// Reads the kernel's socket tables and then the open files of every process, so it is for when
/// somebody looks and not for each connection. Another account's process is found only by root (or
/// with CAP_SYS_PTRACE). Of several processes that share a socket it is the one with the lowest
/// number.
pub fn of_sockets(connections: impl IntoIterator<Item = Connection>) -> HashMap<Connection, u32> {
    let connections: Vec<_> = connections.into_iter().collect();
    if connections.is_empty() {
        return HashMap::new();
    }
    let inodes = proc_net::inodes();
    let inode = |(client, server): &Connection| inodes.get(&Ends::new(*client, *server)).copied();
    let wanted = connections.iter().filter_map(inode).collect();
    let holders = holders(wanted);
    connections
        .into_iter()
        .filter_map(|connection| {
            let pid = holders.get(&inode(&connection)?)?;
            Some((connection, *pid))
        })
        .collect()
}

/// The name of a process's program, as `ps` shows it: at most 15 characters, which the process can
/// change.
pub fn program(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&name);
    Some(name.trim_end_matches('\n').chars().map(printable).collect())
}

/// The process that holds a socket, as [`of_sockets`] finds it.
pub(super) fn of_inode(inode: u64) -> Option<u32> {
    holders(HashSet::from([inode])).remove(&inode)
}

/// The processes that hold these sockets.
fn holders(mut wanted: HashSet<u64>) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    for pid in processes() {
        if wanted.is_empty() {
            break;
        }
        // A process of another account, or one that has just ended.
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for file in files.filter_map(Result::ok) {
            if let Some(inode) = socket_inode(&file.path())
                && wanted.remove(&inode)
            {
                found.insert(inode, pid);
            }
        }
    }
    found
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// `socket:[12345]`.
fn socket_inode(file: &Path) -> Option<u64> {
    let link = fs::read_link(file).ok()?;
    let inode = link.to_str()?.strip_prefix("socket:[")?;
    inode.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn this_process_is_behind_its_own_connection_and_nobody_behind_one_that_is_not_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let here = (client.local_addr().unwrap(), server);
        let nowhere = (server, "127.0.0.1:1".parse().unwrap());
        let found = of_sockets([here, nowhere]);
        assert_eq!(found, HashMap::from([(here, std::process::id())]));
        drop(client);
        assert_eq!(of_sockets([here]), HashMap::new());
    }

    #[test]
    fn the_program_is_what_ps_shows() {
        let shown = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            program(std::process::id()).unwrap(),
            shown.trim_end_matches('\n')
        );
        assert_eq!(program(u32::MAX), None);
    }
}
