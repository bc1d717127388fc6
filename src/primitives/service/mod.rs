//! Messages to the service manager (`sd_notify(3)`): readiness, reloads, a line of status, the
//! watchdog. Without a service manager these functions do nothing.

pub(crate) mod watchdog;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;

/// Reports that the daemon serves. The daemon calls this after the start, and at the end of each
/// reload.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that a reload has begun. [`ready`] ends it.
pub(crate) fn reloading() {
    let mut states = vec![
        NotifyState::Reloading,
        NotifyState::Status("reading the configuration"),
    ];
    // A unit with `Type=notify-reload` requires the time of the reload.
    states.extend(NotifyState::monotonic_usec_now().ok());
    notify(&states);
}

/// Reports that the drain has begun.
pub(crate) fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Puts a descriptor into the service manager's store (`FDSTORE=1`). The service manager passes it to the
/// next start of the service, under this name.
///
/// Returns whether the message was sent to a service manager. The service manager keeps the descriptor
/// only if the unit sets `FileDescriptorStoreMax=`.
pub(crate) fn store(name: &str, descriptor: BorrowedFd<'_>) -> bool {
    match send_with_descriptor(&format!("FDSTORE=1\nFDNAME={name}\n"), descriptor) {
        Ok(sent) => sent,
        Err(error) => {
            tracing::warn!(
                "the service manager will not keep {name} while hopend restarts: {error}"
            );
            false
        }
    }
}

/// Removes all descriptors of this name from the store.
pub(crate) fn remove_stored(name: &str) {
    let name = format!("FDNAME={name}");
    notify(&[
        NotifyState::Custom("FDSTOREREMOVE=1"),
        NotifyState::Custom(&name),
    ]);
}

/// Sends a message with a descriptor. Returns false if there is no service manager.
fn send_with_descriptor(message: &str, descriptor: BorrowedFd<'_>) -> io::Result<bool> {
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

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the message to the service manager failed: {error}");
    }
}

/// Whether a path is in a folder that the service manager shows to this service alone (`PrivateTmp=`).
pub(crate) fn is_in_private_tmp(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    is_private(&mounts, path)
}

/// Decides the same from the content of `/proc/self/mountinfo`. The innermost mount that has the path
/// counts.
fn is_private(mounts: &str, path: &Path) -> bool {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((root, point))
    });
    // Of several mounts at the same path, the last one covers the others.
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
