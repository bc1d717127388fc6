//! The file system's side of the audit file. Only the thread that writes the lines uses it, so it may block.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::file::{LIMITS, remedy};
use super::line::milliseconds;
use crate::primitives::lines::{LineBatch, LineDestination};

/// The mode of a new file. The group may read it, for auditors.
const MODE: u32 = 0o640;

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
pub(super) struct AuditDestination {
    path: Arc<Path>,
    /// `None` while no file is open: after `reopen`, and until an opening succeeds.
    opened: Option<OpenAuditFile>,
}

impl AuditDestination {
    /// Writes to the file at `path`. `opened` is `None` if it could not be opened yet.
    pub(super) fn new(path: Arc<Path>, opened: Option<OpenAuditFile>) -> Self {
        Self { path, opened }
    }
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
pub(super) struct OpenAuditFile {
    file: File,
    device: u64,
    inode: u64,
}

impl OpenAuditFile {
    /// Opens the file for appending, and creates it if it is missing.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Reading shows how the file ends. hopend follows no symbolic link. An account that can write to
        // the folder could otherwise direct the lines into any file of the daemon's account.
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
    use std::time::Duration;

    use tokio::task::spawn_blocking;

    use super::*;
    use crate::primitives::lines::{LineQueue, LineRank, LineWriter, LostLines, QueueLimits};

    fn destination(path: &Path) -> AuditDestination {
        AuditDestination::new(path.into(), None)
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
        let finishing = spawn_blocking(move || writer.finish(Duration::from_secs(60)));
        assert!(finishing.await.unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["1", "2"]);
        let gap: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!((&gap["event"], &gap["lines"]), (&"lost".into(), &2.into()));
        assert_eq!(lines.len(), 3);
    }
}
