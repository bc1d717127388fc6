//! What the service manager is told: readiness, reloads, a line of status, the watchdog.

pub mod watchdog;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;

/// Serving; also at the end of a reload.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload has begun. [`ready`] ends it.
pub fn reloading() {
    let mut states = vec![
        NotifyState::Reloading,
        NotifyState::Status("reading the configuration"),
    ];
    // Type=notify-reload wants it.
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// The drain has begun.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Puts a descriptor into the service manager's store (`FDSTORE=1`), which passes it to the next start
/// of the service under this name. Returns whether there is a manager that was told; only
/// `FileDescriptorStoreMax=` of the unit makes it keep the descriptor.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> bool {
    match send(&format!("FDSTORE=1\nFDNAME={name}\n"), descriptor) {
        Ok(sent) => sent,
        Err(error) => {
            tracing::warn!(
                "the service manager does not hold {name} while hopend restarts: {error}"
            );
            false
        }
    }
}

/// Takes all descriptors of this name out of the store.
pub fn remove_stored(name: &str) {
    let name = format!("FDNAME={name}");
    tell(&[
        NotifyState::Custom("FDSTOREREMOVE=1"),
        NotifyState::Custom(&name),
    ]);
}

/// Sends a message with a descriptor. Returns false without a service manager.
fn send(message: &str, descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => UnixAddress::from_abstract_name(name)?,
        _ => UnixAddress::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    let descriptors = [descriptor.as_raw_fd()];
    sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(message.as_bytes())],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(true)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told: {error}");
    }
}

/// Whether a file would be in a folder that the service manager has made for this service alone
/// (PrivateTmp=).
pub fn alone_sees(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    is_private(&mounts, path)
}

/// Whether the innermost of these mounts that has the path is such a folder.
fn is_private(mounts: &str, path: &Path) -> bool {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((root, point))
    });
    // Of those at the same place the last one is on top.
    let innermost = mounts.max_by_key(|(_, point)| point.len());
    innermost.is_some_and(|(root, _)| root.contains("/systemd-private-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_service_alone_is_told_from_others() {
        let shared = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 22 0:27 / /tmp rw,nosuid shared:2 - tmpfs tmpfs rw\n";
        let private = format!(
            "{shared}\
             98 22 254:0 /tmp/systemd-private-0a1b-hopend.service-X1/tmp /tmp rw - ext4 /dev/vda rw\n\
             99 22 254:0 /var/tmp/systemd-private-0a1b-hopend.service-Y2/tmp /var/tmp rw - ext4 /dev/vda rw\n"
        );
        for (mounts, path, expected) in [
            (shared, "/tmp/kx.5010", false),
            (&private, "/tmp/kx.5010", true),
            (&private, "/var/tmp/kx.5010", true),
            (&private, "/run/hopend/hdb", false),
            (&private, "/tmpfiles/hdb", false),
            ("", "/tmp/kx.5010", false),
        ] {
            assert_eq!(is_private(mounts, Path::new(path)), expected, "{path}");
        }
    }
}
