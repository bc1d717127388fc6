//! Finds the process that holds the client's end of a local connection. Only people may use the result.
//! No decision may depend on it, because a process may have passed its socket to another process.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use crate::primitives::kernel_sockets::{FourTuple, proc_net};
use crate::primitives::printable::printable;

/// The processes that hold the clients' ends of TCP connections of this host.
///
/// Reads the kernel's socket tables and then the open files of every process. So call this when
/// somebody asks for the status, not for each connection. Only root (or a process with CAP_SYS_PTRACE)
/// finds processes of other accounts. If several processes share a socket, the one with the lowest
/// number is returned.
pub(crate) fn of_clients(
    connections: impl IntoIterator<Item = FourTuple>,
) -> HashMap<FourTuple, u32> {
    let connections: Vec<_> = connections.into_iter().collect();
    if connections.is_empty() {
        return HashMap::new();
    }
    let inodes = proc_net::inodes();
    let inode = |connection: &FourTuple| inodes.get(connection).copied();
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

/// The name of a process's program, as `ps` shows it: at most 15 characters. The process can change it.
pub(crate) fn program(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&name);
    Some(name.trim_end_matches('\n').chars().map(printable).collect())
}

/// The process that holds a socket, with the limits of [`of_clients`].
pub(super) fn of_inode(inode: u64) -> Option<u32> {
    holders(HashSet::from([inode])).remove(&inode)
}

/// The processes that hold these sockets, by inode.
fn holders(mut wanted: HashSet<u64>) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    for pid in processes() {
        if wanted.is_empty() {
            break;
        }
        // This fails for a process of another account, and for a process that has just ended.
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

/// The numbers of all processes, in ascending order.
fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// The inode in a link such as `socket:[12345]`. `None` for a file that is no socket.
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
        let here = FourTuple::new(client.local_addr().unwrap(), server);
        let nowhere = FourTuple::new(server, "127.0.0.1:1".parse().unwrap());
        let found = of_clients([here, nowhere]);
        assert_eq!(found, HashMap::from([(here, std::process::id())]));
        drop(client);
        assert_eq!(of_clients([here]), HashMap::new());
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
