//! `[daemon] audit`: a file with one JSON object a line. A thread writes it, so that no session waits
//! for a disk.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::line::{Line, milliseconds};
use crate::error::with_fix;

/// Lines that wait at most; a few megabytes.
const CAPACITY: usize = 4096;
/// After a failure, until the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(5);
/// For its owner and the group's auditors.
const MODE: u32 = 0o640;

/// Why the file can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_fix(format_args!("audit file {}: {cause}", .path.display()), remedy(.cause)))]
pub struct AuditFileError {
    path: PathBuf,
    /// In the message, for the remedy comes behind it.
    cause: io::Error,
}

impl AuditFileError {
    /// Whether it may be there for others.
    pub fn is_permission(&self) -> bool {
        self.cause.kind() == ErrorKind::PermissionDenied
    }

    /// What is the matter, without what to do.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }

    /// What to do.
    pub fn remedy(&self) -> &'static str {
        remedy(&self.cause)
    }

    /// Whether it passes without anybody changing the configuration.
    fn passes(&self) -> bool {
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

/// Whether a daemon could write the file; nothing is made or changed.
///
/// # Errors
/// It could not, with this account.
pub fn look(path: &Path) -> Result<(), AuditFileError> {
    let looked = match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => Err(io::Error::from_raw_os_error(libc::ELOOP)),
        Ok(there) if there.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(_) => access(path, AccessFlags::W_OK).map_err(io::Error::from),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
        }
        Err(error) => Err(error),
    };
    looked.map_err(|cause| AuditFileError {
        path: path.to_path_buf(),
        cause,
    })
}

/// The file, if there is one, whichever the configuration names.
#[derive(Debug, Default)]
pub struct AuditFile {
    writer: Mutex<Option<Writer>>,
    lost: Arc<AtomicU64>,
}

impl AuditFile {
    /// Writes there from now on. The same path is opened anew.
    ///
    /// # Errors
    /// It can't be opened, and will not be by itself; everything stays as it was.
    pub fn take_over(&self, path: Option<&Path>) -> Result<(), AuditFileError> {
        if let Some(writer) = &*lock(&self.writer)
            && Some(&*writer.shared.path) == path
        {
            writer.reopen();
            return Ok(());
        }
        // Sessions don't wait while it is opened.
        let fresh = path.map(|path| Writer::start(path, CAPACITY, Arc::clone(&self.lost)));
        let fresh = fresh.transpose()?;
        *lock(&self.writer) = fresh;
        Ok(())
    }

    /// Lines that were to be in the file and are not.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits for what is still to be written, for a while.
    pub async fn stop(&self) {
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            let shared = Arc::clone(&writer.shared);
            if timeout(LAST_LINES, writer.finish()).await.is_err() {
                tracing::error!(
                    "audit file {}: its disk does not answer, and the last lines may be missing",
                    shared.path.display()
                );
            }
        }
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let shared = match &*lock(&self.writer) {
            Some(writer) => Arc::clone(&writer.shared),
            None => return,
        };
        if let Some(json) = line.json() {
            shared.push(json);
        }
    }
}

/// The thread's handle. When it is dropped the thread writes what there is, and ends.
#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    finished: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
    capacity: usize,
    /// By all writers.
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Lines that came when it was full, and have not been told of.
    lost: u64,
    reopen: bool,
    stop: bool,
}

impl Writer {
    fn start(path: &Path, capacity: usize, lost: Arc<AtomicU64>) -> Result<Self, AuditFileError> {
        let failed = |cause| AuditFileError {
            path: path.to_path_buf(),
            cause,
        };
        let opened = match Opened::new(path).map_err(failed) {
            Ok(opened) => Some(opened),
            // The thread tries again.
            Err(error) if error.passes() => {
                tracing::error!("{error}");
                None
            }
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared {
            path: path.to_path_buf(),
            queue: Mutex::default(),
            changed: Condvar::new(),
            capacity,
            lost,
        });
        let (done, finished) = oneshot::channel();
        let mut writing = Writing {
            shared: Arc::clone(&shared),
            opened,
            batch: Vec::new(),
            written: 0,
            in_trouble: false,
        };
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                writing.run();
                let _ = done.send(());
            })
            .map_err(failed)?;
        Ok(Self { shared, finished })
    }

    fn reopen(&self) {
        lock(&self.shared.queue).reopen = true;
        self.shared.changed.notify_one();
    }

    fn end(&self) {
        lock(&self.shared.queue).stop = true;
        self.shared.changed.notify_one();
    }

    async fn finish(mut self) {
        self.end();
        let _ = (&mut self.finished).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn push(&self, line: Vec<u8>) {
        let mut queue = lock(&self.queue);
        if queue.stop {
            // Another file has taken its place at this moment, and the thread may be gone.
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if queue.lines.len() < self.capacity {
            queue.lines.push_back(line);
            drop(queue);
            self.changed.notify_one();
            return;
        }
        queue.lost += 1;
        let first = queue.lost == 1;
        drop(queue);
        self.lost.fetch_add(1, Ordering::Relaxed);
        if first {
            tracing::error!(
                "audit file {}: {} lines wait to be written, and those that come now are lost (they \
                 are in the log). Fix: make room on its disk, or find out why it is slow.",
                self.path.display(),
                self.capacity
            );
        }
    }
}

/// A gap in the file.
#[derive(Debug, Serialize)]
struct Gap {
    #[serde(serialize_with = "milliseconds")]
    timestamp: Timestamp,
    event: &'static str,
    lines: u64,
}

/// What the thread has in hand.
#[derive(Debug)]
struct Writing {
    shared: Arc<Shared>,
    opened: Option<Opened>,
    /// Whole lines.
    batch: Vec<u8>,
    /// How much of them is in the file.
    written: usize,
    in_trouble: bool,
}

impl Writing {
    fn run(&mut self) {
        loop {
            let (lost, stop) = self.next();
            if let Err(error) = self.write() {
                if !self.in_trouble {
                    tracing::error!(
                        "audit file {}: {error}; lines wait until it can be written, {} at most. Fix: {}.",
                        self.shared.path.display(),
                        self.shared.capacity,
                        remedy(&error)
                    );
                }
                self.in_trouble = true;
                if stop {
                    return self.give_up();
                }
                let queue = lock(&self.shared.queue);
                let wait = self
                    .shared
                    .changed
                    .wait_timeout_while(queue, RETRY, |queue| {
                        // A reload may be what brings the file back.
                        !queue.stop && !queue.reopen
                    });
                drop(wait);
                continue;
            }
            self.batch.clear();
            self.written = 0;
            if self.in_trouble || lost > 0 {
                tracing::warn!(
                    "audit file {}: written again, {} lines were lost so far",
                    self.shared.path.display(),
                    self.shared.lost.load(Ordering::Relaxed)
                );
            }
            self.in_trouble = false;
            if stop && lock(&self.shared.queue).lines.is_empty() {
                return;
            }
        }
    }

    /// Waits for something to do, and takes it in hand. Returns how many lines are missing before
    /// those that come next, and whether it is to end.
    fn next(&mut self) -> (u64, bool) {
        let idle = self.batch.is_empty();
        let queue = lock(&self.shared.queue);
        let nothing =
            |queue: &mut Queue| idle && queue.lines.is_empty() && !queue.reopen && !queue.stop;
        let mut queue = self
            .shared
            .changed
            .wait_while(queue, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut queue.reopen) {
            self.opened = None;
        }
        let stop = queue.stop;
        if !idle {
            return (0, stop);
        }
        let lines = std::mem::take(&mut queue.lines);
        let lost = std::mem::take(&mut queue.lost);
        drop(queue);
        self.batch = lines.into_iter().flatten().collect();
        if lost > 0 {
            let gap = Gap {
                timestamp: Timestamp::now(),
                event: "lost",
                lines: lost,
            };
            self.batch
                .extend(serde_json::to_vec(&gap).unwrap_or_default());
            self.batch.push(b'\n');
        }
        (lost, stop)
    }

    fn write(&mut self) -> io::Result<()> {
        let path = &self.shared.path;
        let mut opened = match self.opened.take() {
            Some(opened) if opened.is_at(path) => opened,
            _ => {
                // What was begun in another file is begun anew here.
                self.written = line_start(&self.batch, self.written);
                Opened::new(path)?
            }
        };
        let result = opened.append(&self.batch, &mut self.written);
        self.opened = Some(opened);
        result
    }

    /// The end has come, and the file can't be written.
    fn give_up(&self) {
        let begun = line_start(&self.batch, self.written);
        let left = self.batch.iter().skip(begun);
        let left =
            left.filter(|byte| **byte == b'\n').count() + lock(&self.shared.queue).lines.len();
        if left == 0 {
            return;
        }
        self.shared.lost.fetch_add(left as u64, Ordering::Relaxed);
        tracing::error!(
            "audit file {}: hopend ends, and the last {left} lines are lost (they are in the log)",
            self.shared.path.display()
        );
    }
}

/// Where the line starts that is written up to here.
fn line_start(batch: &[u8], written: usize) -> usize {
    let before = batch.get(..written).unwrap_or(batch);
    let end = before.iter().rposition(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

/// The file that is open, and which one it is.
#[derive(Debug)]
struct Opened {
    file: File,
    device: u64,
    inode: u64,
}

impl Opened {
    fn new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // To see how the file ends it is read. Not through a link: whoever may write to the folder
        // could have any other file of the account's written to.
        options.append(true).read(true);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.clone().create_new(true).mode(MODE).open(path) {
            Ok(file) => {
                // Whatever the process's mask says.
                file.set_permissions(Permissions::from_mode(MODE))?;
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(path)?,
            Err(error) => return Err(error),
        };
        let there = file.metadata()?;
        let mut opened = Self {
            device: there.dev(),
            inode: there.ino(),
            file,
        };
        opened.end_line(there.len())?;
        Ok(opened)
    }

    /// A daemon that was killed may have left half a line.
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

    /// Whether the path still leads to it: logrotate moves it away.
    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }

    /// Writes what comes behind `written`, which tells on failure what is in the file: whole lines,
    /// unless it can't be cut.
    fn append(&mut self, batch: &[u8], written: &mut usize) -> io::Result<()> {
        while let Some(rest) = batch.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => *written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let start = line_start(batch, *written);
                    let half = (*written - start) as u64;
                    let length = self.file.metadata().map_or(0, |there| there.len());
                    if half > 0 && length >= half && self.file.set_len(length - half).is_ok() {
                        *written = start;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn writing(path: &Path, batch: &[u8]) -> Writing {
        let shared = Shared {
            path: path.to_path_buf(),
            queue: Mutex::default(),
            changed: Condvar::new(),
            capacity: 2,
            lost: Arc::default(),
        };
        Writing {
            shared: Arc::new(shared),
            opened: None,
            batch: batch.to_vec(),
            written: 0,
            in_trouble: false,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn lines_are_appended_to_a_file_of_its_own_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        writing(&path, b"one\n").write().unwrap();
        assert_eq!(mode(&path), 0o640);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        writing(&path, b"two\n").write().unwrap();
        assert_eq!(mode(&path), 0o600, "an administrator's choice stays");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("a"), folder.path().join("a.1"));
        let mut writing = writing(&path, b"one\n");
        writing.write().unwrap();
        fs::rename(&path, &moved).unwrap();
        (writing.batch, writing.written) = (b"two\n".to_vec(), 0);
        writing.write().unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
        (writing.batch, writing.written) = (b"three\n".to_vec(), 0);
        writing.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn half_a_line_of_a_daemon_that_was_killed_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "one\nha").unwrap();
        writing(&path, b"two\n").write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nha\ntwo\n");
    }

    #[test]
    fn what_was_begun_in_a_file_that_is_gone_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut writing = writing(&path, b"one\ntwo\n");
        writing.written = 6;
        writing.write().unwrap();
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
            for error in [file.take_over(Some(&path)), look(&path)] {
                let said = error.unwrap_err().to_string();
                assert!(said.ends_with(remedy), "{said}");
                assert!(said.contains(path.to_str().unwrap()), "{said}");
            }
        }
        assert!(!folder.path().join("elsewhere").exists());
        assert!(look(&folder.path().join("audit.log")).is_ok());
    }

    #[test]
    fn beyond_what_may_wait_lines_are_lost_and_counted_and_the_gap_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut writing = writing(&path, b"");
        for line in ["1\n", "2\n", "3\n", "4\n"] {
            writing.shared.push(line.into());
        }
        assert_eq!(writing.shared.lost.load(Ordering::Relaxed), 2);
        assert_eq!(writing.next(), (2, false));
        writing.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["1", "2"]);
        let gap: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!((&gap["event"], &gap["lines"]), (&"lost".into(), &2.into()));
        assert_eq!(lines.len(), 3);
    }

    #[tokio::test]
    async fn the_end_waits_for_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let writer = Writer::start(&path, 1000, Arc::default()).unwrap();
        for _ in 0..1000 {
            writer.shared.push(b"line\n".to_vec());
        }
        writer.finish().await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\n".repeat(1000));
    }

    #[tokio::test]
    async fn what_can_never_be_written_is_counted_at_the_end() {
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer::start(Path::new("/dev/full"), 10, Arc::clone(&lost)).unwrap();
        for _ in 0..10 {
            writer.shared.push(b"line\n".to_vec());
        }
        writer.finish().await;
        assert_eq!(lost.load(Ordering::Relaxed), 10);
    }
}
