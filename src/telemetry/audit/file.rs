//! The audit file, `[daemon] audit`: one JSON object a line. A thread writes it, so that no session waits for a
//! disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::task::spawn_blocking;

use super::destination::{AuditDestination, OpenAuditFile};
use super::line::AuditLine;
use crate::primitives::lines::{LineQueue, LineRank, LineWriter, LostLines, Pushed, QueueLimits};
use base::error::with_fix;
use base::mutex::locked;

/// The most lines and bytes that wait for the thread.
pub(super) const LIMITS: QueueLimits = QueueLimits {
    lines: 4096,
    bytes: 4 << 20,
};
/// How long a stop of the daemon waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Why the audit file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_fix(format_args!("audit file {}: {cause}", .path.display()), remedy(.cause)))]
pub struct AuditFileError {
    path: PathBuf,
    /// Part of the message and not a `source`, because the remedy follows it.
    cause: io::Error,
}

impl AuditFileError {
    /// Whether only the permission is missing. Another account may be able to write the file.
    pub fn is_permission(&self) -> bool {
        self.cause.kind() == ErrorKind::PermissionDenied
    }

    /// The system's error.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }

    /// The administrator's remedy, without a capital and a full stop.
    pub fn remedy(&self) -> &'static str {
        remedy(&self.cause)
    }

    /// Whether a later attempt may succeed with the same configuration.
    fn is_temporary(&self) -> bool {
        matches!(
            self.cause.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    }
}

pub(super) fn remedy(error: &io::Error) -> &'static str {
    match (error.kind(), error.raw_os_error()) {
        (_, Some(libc::ELOOP)) => "name the file itself, not a symbolic link",
        (ErrorKind::NotFound | ErrorKind::NotADirectory, _) => "make its folder",
        (ErrorKind::IsADirectory, _) => "name a file in it",
        (ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem, _) => {
            "let the account that runs hopend write there"
        }
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => "make room on its disk",
        _ => "look after its disk",
    }
}

/// Checks that this account could write the file. Creates and changes nothing. Blocks.
///
/// # Errors
/// The account could not write the file, or `path` is a symbolic link or a directory.
pub fn check_writable(path: &Path) -> Result<(), AuditFileError> {
    let checked = match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(io::Error::from_raw_os_error(libc::ELOOP)),
        Ok(found) if found.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(_) => access(path, AccessFlags::W_OK).map_err(io::Error::from),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
        }
        Err(error) => Err(error),
    };
    checked.map_err(|cause| AuditFileError {
        path: path.to_path_buf(),
        cause,
    })
}

/// The audit file that the configuration names now, if it names one.
#[derive(Debug, Default)]
pub struct AuditFile {
    current: Mutex<Option<CurrentAuditFile>>,
    lost: LostLines,
}

/// The file that lines go to, with the thread that writes it.
#[derive(Debug)]
struct CurrentAuditFile {
    path: Arc<Path>,
    writer: LineWriter,
}

impl AuditFile {
    /// Opens the file of a new configuration, for [`Self::apply`]. Nothing is written to it yet. Blocks.
    ///
    /// # Errors The file cannot be opened, and a later attempt would not succeed either. A full disk is
    /// no error, because the thread tries again.
    pub fn prepare(&self, path: Option<&Path>) -> Result<AuditChange, AuditFileError> {
        if let Some(current) = &*locked(&self.current)
            && Some(&*current.path) == path
        {
            return Ok(AuditChange(AuditFileChange::Reopen));
        }
        let fresh = path.map(|path| CurrentAuditFile::start(path, LIMITS, self.lost.clone()));
        Ok(AuditChange(AuditFileChange::Replace(fresh.transpose()?)))
    }

    /// Writes to the prepared file from now on. If the path is the same, the thread opens it again.
    pub fn apply(&self, change: AuditChange) {
        let mut current = locked(&self.current);
        match (change.0, &*current) {
            (AuditFileChange::Reopen, Some(current)) => current.writer.reopen(),
            (AuditFileChange::Reopen, None) => {}
            (AuditFileChange::Replace(fresh), _) => *current = fresh,
        }
    }

    /// The number of lines that were lost since the daemon started.
    pub fn lost(&self) -> u64 {
        self.lost.count()
    }

    /// Waits until the last lines are written, for 5 s at most. Later lines are dropped.
    pub async fn stop(&self) {
        let current = locked(&self.current).take();
        let Some(CurrentAuditFile { path, writer }) = current else {
            return;
        };
        let finished = spawn_blocking(move || writer.finish(LAST_LINES)).await;
        if !finished.unwrap_or(false) {
            tracing::error!(
                "audit file {}: its disk does not answer, and the last lines may be missing",
                path.display()
            );
        }
    }

    /// Queues a line. Never blocks. If the queue is full, the line is lost and counted.
    pub(super) fn write(&self, line: &AuditLine<'_>) {
        let (path, queue) = match &*locked(&self.current) {
            Some(CurrentAuditFile { path, writer }) => {
                (Arc::clone(path), Arc::clone(writer.queue()))
            }
            None => return,
        };
        let Some(json) = line.json() else { return };
        if queue.push(json, LineRank::Highest) == Pushed::FirstLost {
            tracing::error!(
                "audit file {}: {} lines wait to be written, and those that come now are lost (they \
                 are in the log). Fix: make room on its disk, or find out why it is slow.",
                path.display(),
                LIMITS.lines
            );
        }
    }
}

/// A prepared change of the audit file, for [`AuditFile::apply`]. Dropping it changes nothing.
#[derive(Debug)]
pub struct AuditChange(AuditFileChange);

#[derive(Debug)]
enum AuditFileChange {
    /// The path is the same: the thread opens the file again, as after a rotation.
    Reopen,
    /// The configuration names another file, or no file.
    Replace(Option<CurrentAuditFile>),
}

impl CurrentAuditFile {
    fn start(path: &Path, limits: QueueLimits, lost: LostLines) -> Result<Self, AuditFileError> {
        let path: Arc<Path> = path.into();
        let failed = |cause| AuditFileError {
            path: path.to_path_buf(),
            cause,
        };
        let opened = match OpenAuditFile::new(&path).map_err(failed) {
            Ok(opened) => Some(opened),
            // The thread opens it later.
            Err(error) if error.is_temporary() => {
                tracing::error!("{error}");
                None
            }
            Err(error) => return Err(error),
        };
        let destination = AuditDestination::new(Arc::clone(&path), opened);
        let queue = Arc::new(LineQueue::new(limits, lost));
        let writer = LineWriter::start("audit", queue, destination).map_err(failed)?;
        Ok(Self { path, writer })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_folders_and_what_is_not_there_are_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        for (path, remedy) in [
            (link, "name the file itself, not a symbolic link"),
            (folder.path().join("none/audit.log"), "make its folder"),
            (folder.path().to_path_buf(), "name a file in it"),
        ] {
            let file = AuditFile::default();
            for error in [file.prepare(Some(&path)).map(drop), check_writable(&path)] {
                let said = error.unwrap_err().to_string();
                assert!(said.ends_with(&format!("{remedy}.")), "{said}");
                assert!(said.contains(path.to_str().unwrap()), "{said}");
            }
        }
        assert!(!folder.path().join("elsewhere").exists());
        assert!(check_writable(&folder.path().join("audit.log")).is_ok());
    }

    async fn finish(writer: LineWriter) -> bool {
        let finishing = spawn_blocking(move || writer.finish(Duration::from_secs(60)));
        finishing.await.unwrap()
    }

    #[tokio::test]
    async fn the_end_waits_for_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let current = CurrentAuditFile::start(&path, LIMITS, LostLines::default()).unwrap();
        for _ in 0..1000 {
            let queue = current.writer.queue();
            queue.push(b"line\n".to_vec(), LineRank::Highest);
        }
        assert!(finish(current.writer).await);
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\n".repeat(1000));
    }

    #[tokio::test]
    async fn what_can_never_be_written_is_counted_at_the_end() {
        let lost = LostLines::default();
        let current =
            CurrentAuditFile::start(Path::new("/dev/full"), LIMITS, lost.clone()).unwrap();
        for _ in 0..10 {
            let queue = current.writer.queue();
            queue.push(b"line\n".to_vec(), LineRank::Highest);
        }
        assert!(finish(current.writer).await);
        assert_eq!(lost.count(), 10);
    }
}
