//! The file with the password of an endpoint's own login. hopend reads the file again only after it has
//! changed, and a change needs no reload. A thread of its own touches the file, so that a disk that hangs
//! holds up no session's thread.

use base::mutex::locked;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;

use super::OpenError;
use crate::primitives::shared_answers::SharedAnswers;
use base::error::clone_io_error;
use base::file_access;
use secret::Secret;

/// The file system's clock is coarse: a file that changed less than this before it was read may have
/// changed once more since, at the same time by that clock.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// How long a session waits for the file system.
const FILE_LIMIT: Duration = Duration::from_secs(2);

/// The password file of one endpoint.
#[derive(Debug)]
pub(super) struct PasswordFile {
    path: PathBuf,
    /// None until a password is known that needs no second reading.
    last: Arc<Mutex<Option<KnownPassword>>>,
    reads: SharedAnswers<(), Result<Secret, Arc<io::Error>>>,
}

/// A password, and the stamp of the file that it was read from.
#[derive(Debug, Clone)]
struct KnownPassword {
    stamp: FileStamp,
    password: Secret,
}

/// Differs from the stamp before if the file was changed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of `mtime`.
    modified: (i64, i64),
    /// Seconds and nanoseconds of `ctime`.
    changed: (i64, i64),
}

/// A password that was read just now.
struct PasswordRead {
    password: Secret,
    /// None if the file may change without a change of its stamp.
    stamp: Option<FileStamp>,
}

impl PasswordFile {
    /// A file that has not been read yet.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            last: Arc::default(),
            // An answer serves only the sessions that asked for it: the next one checks the file anew.
            reads: SharedAnswers::new(|_| false),
        }
    }

    /// The password that the file holds now. Sessions that ask at the same time share one reading. If
    /// the file system does not answer within [`FILE_LIMIT`], this is the last known password.
    ///
    /// # Errors
    /// hopend cannot read the file. Or the file system does not answer, and no password is known.
    pub(super) async fn password(&self) -> Result<Secret, OpenError> {
        self.password_from(read_if_changed).await
    }

    async fn password_from<R>(&self, read: R) -> Result<Secret, OpenError>
    where
        R: FnOnce(&Path, Option<KnownPassword>) -> io::Result<PasswordRead> + Send + 'static,
    {
        let reading = self.reads.ask((), |()| {
            let (last, path) = (Arc::clone(&self.last), self.path.clone());
            async move {
                let known = locked(&last).clone();
                let read = spawn_blocking(move || read(&path, known)).await;
                let PasswordRead { password, stamp } =
                    read.map_err(io::Error::other).flatten().map_err(Arc::new)?;
                *locked(&last) = stamp.map(|stamp| KnownPassword {
                    stamp,
                    password: password.clone(),
                });
                Ok(password)
            }
        });
        match reading.within(FILE_LIMIT).await {
            Some(read) => read.map_err(|error| open_error(&self.path, &error)),
            None => match &*locked(&self.last) {
                Some(known) => Ok(known.password.clone()),
                None => Err(OpenError::PasswordFile {
                    path: self.path.clone(),
                    source: io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!(
                            "its file system has not answered within {} s",
                            FILE_LIMIT.as_secs()
                        ),
                    ),
                }),
            },
        }
    }
}

/// The password on the first line of a file.
pub(crate) async fn read_password(path: &Path) -> Result<Secret, OpenError> {
    let file = path.to_path_buf();
    let read = spawn_blocking(move || first_line(&file)).await;
    let read = read.map_err(io::Error::other).flatten();
    read.map_err(|source| open_error(path, &source))
}

/// Reads the file, unless its stamp is the known one. Blocks.
fn read_if_changed(path: &Path, known: Option<KnownPassword>) -> io::Result<PasswordRead> {
    let before = std::fs::metadata(path).ok();
    if let (Some(now), Some(known)) = (&before, known)
        && known.stamp == FileStamp::of(now)
    {
        return Ok(PasswordRead {
            password: known.password,
            stamp: Some(known.stamp),
        });
    }
    Ok(PasswordRead {
        password: first_line(path)?,
        stamp: before.filter(is_settled).as_ref().map(FileStamp::of),
    })
}

impl FileStamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

fn is_settled(file: &Metadata) -> bool {
    let changed = Duration::new(
        file.ctime().unsigned_abs(),
        u32::try_from(file.ctime_nsec()).unwrap_or_default(),
    );
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
    age.is_ok_and(|age| age > SETTLED_AFTER)
}

/// The first line of a file, if no other account can read or change the file. Blocks.
fn first_line(path: &Path) -> io::Result<Secret> {
    let bytes = file_access::read_secret(path)?;
    let line = bytes.expose().split(|&b| b == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    if line.is_empty() {
        return Err(io::Error::other("its first line is empty"));
    }
    Ok(Secret::new(line))
}

fn open_error(path: &Path, error: &io::Error) -> OpenError {
    match file_access::access_error(error) {
        Some(exposed) => OpenError::Exposed {
            what: exposed.message(),
            remedy: exposed.remedy(),
        },
        None => OpenError::PasswordFile {
            path: path.to_path_buf(),
            source: clone_io_error(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_has_settled_is_read_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let file = PasswordFile::new(&path);
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, closed).unwrap();
        for password in ["first", "other", "a longer one"] {
            std::fs::write(&path, password).unwrap();
            let read = file.password().await.unwrap();
            assert_eq!(read.expose(), password.as_bytes());
        }
        let known = || file.last.lock().unwrap().is_some();
        // Once the file has settled, its password is kept.
        while !known() {
            tokio::task::yield_now().await;
            file.password().await.unwrap();
        }
        let read = file.password().await.unwrap();
        assert_eq!(read.expose(), b"a longer one");
        std::fs::remove_file(&path).unwrap();
        assert!(file.password().await.is_err(), "it is gone");
        std::fs::write(&path, "back again").unwrap();
        let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, open).unwrap();
        let exposed = file.password().await.unwrap_err();
        assert!(matches!(exposed, OpenError::Exposed { .. }), "{exposed}");
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(&path, closed).unwrap();
        let read = file.password().await.unwrap();
        assert_eq!(read.expose(), b"back again");
    }

    /// A password file that only its owner reads, and its folder.
    fn secret() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "secret").unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, closed).unwrap();
        (folder, path)
    }

    /// All sessions share one thread, and none of them waits longer than the limit.
    #[tokio::test]
    async fn a_file_system_that_hangs_holds_one_thread_and_no_session() {
        let (_folder, path) = secret();
        let file = PasswordFile::new(&path);
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let hung = file.password_from(move |path, known| {
            let _ = hangs.recv();
            read_if_changed(path, known)
        });
        let others = (0..100).map(|_| file.password());
        let (hung, others) = tokio::join!(hung, futures_util::future::join_all(others));
        for late in others.into_iter().chain([hung]) {
            let late = late.unwrap_err();
            let why = base::error::chain(&late);
            assert!(why.contains("has not answered within 2 s"), "{why}");
        }
        drop(release);
        // A reading that comes too late for its session serves the next one.
        while file.reads.answered(&()).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(file.password().await.unwrap().expose(), b"secret");
    }

    #[tokio::test]
    async fn the_last_password_serves_while_the_file_system_hangs() {
        let (_folder, path) = secret();
        let file = PasswordFile::new(&path);
        while file.last.lock().unwrap().is_none() {
            file.password().await.unwrap();
        }
        let (_release, hangs) = std::sync::mpsc::channel::<()>();
        let hung = file.password_from(move |path, known| {
            let _ = hangs.recv();
            read_if_changed(path, known)
        });
        assert_eq!(hung.await.unwrap().expose(), b"secret");
    }
}
