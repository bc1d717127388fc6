//! The audit file, `[daemon] audit`: one JSON object a line. A thread writes it, so that no session waits for a
//! disk.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::line::{AuditLine, milliseconds};
use crate::primitives::lines::{
    LineBatch, LineDestination, LineQueue, LineRank, LineWriter, LostLines, Pushed, QueueLimits,
};
use base::error::with_fix;
use base::mutex::locked;

/// The most lines and bytes that wait for the thread.
const LIMITS: QueueLimits = QueueLimits {
    lines: 4096,
    bytes: 4 << 20,
};
/// How long a stop of the daemon waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(5);
/// The mode of a new file: the group may read it, for auditors.
const MODE: u32 = 0o640;

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

    /// What the administrator can do.
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

fn remedy(error: &io::Error) -> &'static str {
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
    /// # Errors
    /// The file cannot be opened, and a later attempt would not succeed either. A full disk is no error: the
    /// thread tries again.
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

    /// Queues a line. Never blocks: if the queue is full, the line is lost and counted.
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
    /// The configuration names another file, or none.
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
        let destination = AuditDestination {
            path: Arc::clone(&path),
            opened,
        };
        let queue = Arc::new(LineQueue::new(limits, lost));
        let writer = LineWriter::start("audit", queue, destination).map_err(failed)?;
        Ok(Self { path, writer })
    }
}

/// The line that says how many lines are missing at this point of the file.
#[derive(Debug, Serialize)]
struct LostLinesEntry {
    #[serde(serialize_with = "milliseconds")]
    timestamp: Timestamp,
    event: &'static str,
    lines: u64,
}

/// The part of the file that its thread owns.
#[derive(Debug)]
struct AuditDestination {
    path: Arc<Path>,
    /// `None` until the file is opened, again or for the first time.
    opened: Option<OpenAuditFile>,
}

impl LineDestination for AuditDestination {
    fn write(&mut self, batch: &mut LineBatch) -> io::Result<()> {
        let mut opened = match self.opened.take() {
            Some(opened) if opened.is_at(&self.path) => opened,
            _ => {
                // A line that was half written to the former file is written whole to this one.
                batch.begin_line_anew();
                OpenAuditFile::new(&self.path)?
            }
        };
        let result = opened.append(batch);
        self.opened = Some(opened);
        result
    }

    fn reopen(&mut self) {
        self.opened = None;
    }

    fn gap(&self, lost: u64) -> Vec<u8> {
        let entry = LostLinesEntry {
            timestamp: Timestamp::now(),
            event: "lost",
            lines: lost,
        };
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        line
    }

    fn failed(&self, error: &io::Error) {
        tracing::error!(
            "audit file {}: {error}; lines wait until it can be written, {} at most. Fix: {}.",
            self.path.display(),
            LIMITS.lines,
            remedy(error)
        );
    }

    fn recovered(&self, lost: u64) {
        tracing::warn!(
            "audit file {}: written again, {lost} lines were lost so far",
            self.path.display()
        );
    }

    fn gave_up(&self, lines: u64) {
        tracing::error!(
            "audit file {}: hopend ends, and the last {lines} lines are lost (they are in the log)",
            self.path.display()
        );
    }
}

/// An open file, with the device and inode that identify it.
#[derive(Debug)]
struct OpenAuditFile {
    file: File,
    device: u64,
    inode: u64,
}

impl OpenAuditFile {
    fn new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Reading shows how the file ends. A symbolic link is not followed: an account that can write to the
        // folder could otherwise direct the lines into any file of the daemon's account.
        options.append(true).read(true);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.clone().create_new(true).mode(MODE).open(path) {
            Ok(file) => {
                // The mode does not depend on the process's umask.
                file.set_permissions(Permissions::from_mode(MODE))?;
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(path)?,
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let mut opened = Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            file,
        };
        opened.end_line(metadata.len())?;
        Ok(opened)
    }

    /// Ends a half line that a killed daemon has left.
    fn end_line(&mut self, length: u64) -> io::Result<()> {
        let Some(last) = length.checked_sub(1) else {
            return Ok(());
        };
        let mut byte = [b'\n'];
        let read = self.file.read_at(&mut byte, last)?;
        if read == 1 && byte != [b'\n'] {
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Whether the path still leads to this file. logrotate moves a file away.
    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// Writes the rest of the batch. If that fails, it truncates the file after the last whole line. If the
    /// file cannot be truncated either, it ends with a half line.
    fn append(&mut self, batch: &mut LineBatch) -> io::Result<()> {
        while !batch.rest().is_empty() {
            match self.file.write(batch.rest()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => batch.wrote(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let half = batch.written_of_line() as u64;
                    let length = self.file.metadata().map_or(0, |metadata| metadata.len());
                    if half > 0 && length >= half && self.file.set_len(length - half).is_ok() {
                        batch.begin_line_anew();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn destination(path: &Path) -> AuditDestination {
        AuditDestination {
            path: path.into(),
            opened: None,
        }
    }

    fn write(destination: &mut AuditDestination, lines: &[u8]) {
        destination.write(&mut lines.to_vec().into()).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn lines_are_appended_to_a_file_of_its_own_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        write(&mut destination(&path), b"one\n");
        assert_eq!(mode(&path), 0o640);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        write(&mut destination(&path), b"two\n");
        assert_eq!(mode(&path), 0o600, "an administrator's choice stays");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("a"), folder.path().join("a.1"));
        let mut destination = destination(&path);
        write(&mut destination, b"one\n");
        fs::rename(&path, &moved).unwrap();
        write(&mut destination, b"two\n");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
        write(&mut destination, b"three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn half_a_line_of_a_daemon_that_was_killed_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "one\nha").unwrap();
        write(&mut destination(&path), b"two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nha\ntwo\n");
    }

    #[test]
    fn what_was_begun_in_a_file_that_is_gone_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut batch = LineBatch::from(b"one\ntwo\n".to_vec());
        batch.wrote(6);
        destination(&path).write(&mut batch).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

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

    #[tokio::test]
    async fn beyond_what_may_wait_lines_are_lost_and_counted_and_the_gap_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let lost = LostLines::default();
        let limits = QueueLimits {
            lines: 2,
            bytes: 1 << 20,
        };
        // The thread starts after all lines are queued.
        let queue = Arc::new(LineQueue::new(limits, lost.clone()));
        for line in ["1\n", "2\n", "3\n", "4\n"] {
            queue.push(line.into(), LineRank::Highest);
        }
        assert_eq!(lost.count(), 2);
        let writer = LineWriter::start("audit", queue, destination(&path)).unwrap();
        assert!(finish(writer).await);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["1", "2"]);
        let gap: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!((&gap["event"], &gap["lines"]), (&"lost".into(), &2.into()));
        assert_eq!(lines.len(), 3);
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
