//! Binds Unix sockets with a path, and removes the socket files that hopend creates for them.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::socket::BACKLOG;
use crate::identity::holder;

/// The mode of a socket file that root and the daemon's own account may dial.
pub(super) const PRIVATE_MODE: u32 = 0o600;
/// The mode of a socket file that every account may dial.
pub(super) const PUBLIC_MODE: u32 = 0o666;

/// Identifies a file even after another file has taken its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file at this path, without following a symbolic link. `None` if no file is there.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// A socket file that hopend created. Dropping this value removes the file, unless the service
/// manager's store keeps the socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: Option<FileId>,
    outlives_hopend: AtomicBool,
}

impl SocketFile {
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            id: FileId::at(path),
            outlives_hopend: AtomicBool::new(false),
        }
    }

    pub(super) fn set_outlives_hopend(&self, outlives: bool) {
        self.outlives_hopend.store(outlives, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.outlives_hopend.load(Ordering::Relaxed) {
            return;
        }
        // Another process may have replaced the file with its own.
        if self.id.is_some() && FileId::at(&self.path) == self.id {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket at this path, and gives its file this mode. Replaces the socket file of a
/// process that no longer listens.
pub(super) fn bind_path(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The bind gives the file the mode of the socket. So other accounts can never connect before the
    // mode is set.
    fchmod(&socket, Mode::from_bits_truncate(PRIVATE_MODE))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if mode != PRIVATE_MODE {
        // The bind has created the file with the private mode. This sets the final mode, whatever the
        // umask.
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, SocketFile::at(path)))
}

/// Whether a connection to this path reaches a socket of hopend's own account. The previous process of
/// hopend created the file, but another process may have replaced the file since.
pub(super) fn is_own_socket(path: &Path) -> bool {
    holder::of_unix(path).is_ok_and(|holder| holder.uid == geteuid().as_raw())
}

/// Removes the socket file of a process that was killed. The file stays if a process still listens
/// there, even if that process accepts no connection. Does not wait for that process.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::config::ListenAddress;
    use crate::listener::Listener;

    #[tokio::test]
    async fn a_file_that_is_another_s_by_now_stays() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Path(folder.path().join("socket"));
        let first = Listener::bind(&address).unwrap();
        std::fs::remove_file(folder.path().join("socket")).unwrap();
        let _second = Listener::bind(&address).unwrap();
        drop(first);
        StdUnixStream::connect(folder.path().join("socket")).unwrap();
    }

    #[tokio::test]
    async fn a_socket_file_is_for_everybody_or_its_owner_alone_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        let address = ListenAddress::Path(path.clone());
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let own = Listener::bind_private(&path).unwrap();
        assert_eq!(mode(), 0o600);
        drop(own);
        let listener = Listener::bind(&address).unwrap();
        assert_eq!(mode(), 0o666);
        let taken = Listener::bind(&address).unwrap_err();
        assert!(taken.to_string().contains("another process"), "{taken}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_file_left_by_a_killed_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&ListenAddress::Path(path)).unwrap();
    }

    #[test]
    fn a_process_that_accepts_nothing_is_there_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hdb");
        let address = SockAddr::unix(&path).unwrap();
        let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stopped.bind(&address).unwrap();
        stopped.listen(1).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            match client.connect(&address) {
                Ok(()) => waiting.push(client),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let (done, looked) = mpsc::channel();
        let at = path.clone();
        // Not joined: without an answer it hangs.
        std::thread::spawn(move || done.send(remove_stale(&at).is_ok()));
        assert_eq!(looked.recv_timeout(Duration::from_secs(30)), Ok(true));
        assert!(path.exists());
    }
}
