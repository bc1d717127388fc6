//! The password file of a fixed login: one that was changed needs no reload, one that was not is
//! not read again. A thread of its own looks at it, so that a disk that hangs holds no session's thread.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;

use super::OpenError;
use crate::primitives::shared_answers::SharedAnswers;
use base::error::again;
use base::file_access;
use secret::Secret;

/// A file that was written this shortly before it was read may have been written once more since,
/// at the same time by the file system's clock.
const SETTLED: Duration = Duration::from_millis(100);
/// How long a session waits for the file system.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was read last, and the look that is being taken.
#[derive(Debug)]
pub(super) struct PasswordFile {
    last: Arc<Mutex<Option<(State, Secret)>>>,
    looks: SharedAnswers<(), Looked>,
}

type Looked = Result<Secret, Arc<io::Error>>;

/// What changes when a file is changed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Default for PasswordFile {
    fn default() -> Self {
        Self {
            last: Arc::default(),
            // Each session has the file looked at.
            looks: SharedAnswers::new(|_| false),
        }
    }
}

impl PasswordFile {
    /// The password that is in the file now. Sessions that ask at the same time share one look. Where
    /// the file system does not answer, it is the password that was read last.
    ///
    /// # Errors
    /// The file can't be read, or the file system has not answered within [`PATIENCE`] and no password
    /// is known.
    pub(super) async fn password(&self, path: &Path) -> Result<Secret, OpenError> {
        self.password_from(path, look).await
    }

    async fn password_from<L>(&self, path: &Path, look: L) -> Result<Secret, OpenError>
    where
        L: FnOnce(&Path, Option<(State, Secret)>) -> io::Result<Seen> + Send + 'static,
    {
        let question = self.looks.ask((), |()| {
            let (last, path) = (Arc::clone(&self.last), path.to_path_buf());
            async move {
                let known = last_of(&last).clone();
                let looked = spawn_blocking(move || look(&path, known)).await;
                let seen = looked
                    .map_err(io::Error::other)
                    .flatten()
                    .map_err(Arc::new)?;
                *last_of(&last) = seen.state.map(|state| (state, seen.password.clone()));
                Ok(seen.password)
            }
        });
        let late = |source| OpenError::PasswordFile {
            path: path.to_path_buf(),
            source,
        };
        match question.within(PATIENCE).await {
            Some(looked) => looked.map_err(|error| failed(path, &error)),
            None => match &*last_of(&self.last) {
                Some((_, password)) => Ok(password.clone()),
                None => Err(late(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "its file system has not answered within {} s",
                        PATIENCE.as_secs()
                    ),
                ))),
            },
        }
    }
}

fn last_of(last: &Mutex<Option<(State, Secret)>>) -> MutexGuard<'_, Option<(State, Secret)>> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a look at the file found.
struct Seen {
    password: Secret,
    /// None where the file may be changed without a trace.
    state: Option<State>,
}

/// Reads the file, unless it is as it was. Blocks.
fn look(path: &Path, known: Option<(State, Secret)>) -> io::Result<Seen> {
    let before = std::fs::metadata(path).ok();
    if let (Some(now), Some((state, password))) = (&before, known)
        && state == State::of(now)
    {
        return Ok(Seen {
            password,
            state: Some(state),
        });
    }
    Ok(Seen {
        password: first_line(path)?,
        state: before.filter(is_settled).as_ref().map(State::of),
    })
}

impl State {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
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
    age.is_ok_and(|age| age > SETTLED)
}

/// The password on the first line of a file.
pub(crate) async fn read_password(path: &Path) -> Result<Secret, OpenError> {
    let file = path.to_path_buf();
    let read = spawn_blocking(move || first_line(&file)).await;
    let read = read.map_err(io::Error::other).flatten();
    read.map_err(|source| failed(path, &source))
}

fn failed(path: &Path, error: &io::Error) -> OpenError {
    match file_access::exposure(error) {
        Some(exposed) => OpenError::Exposed {
            what: exposed.what(),
            remedy: exposed.remedy(),
        },
        None => OpenError::PasswordFile {
            path: path.to_path_buf(),
            source: again(error),
        },
    }
}

/// Of a file that other accounts can neither change nor read. Blocks.
fn first_line(path: &Path) -> io::Result<Secret> {
    let bytes = file_access::read_secret(path)?;
    let line = bytes.expose().split(|&b| b == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    if line.is_empty() {
        return Err(io::Error::other("its first line is empty"));
    }
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_has_settled_is_read_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let file = PasswordFile::default();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, closed).unwrap();
        for password in ["first", "other", "a longer one"] {
            std::fs::write(&path, password).unwrap();
            let read = file.password(&path).await.unwrap();
            assert_eq!(read.expose(), password.as_bytes());
        }
        let known = || file.last.lock().unwrap().is_some();
        // Long enough ago by the file system's clock: then it is kept.
        while !known() {
            tokio::task::yield_now().await;
            file.password(&path).await.unwrap();
        }
        let read = file.password(&path).await.unwrap();
        assert_eq!(read.expose(), b"a longer one");
        std::fs::remove_file(&path).unwrap();
        assert!(file.password(&path).await.is_err(), "it is gone");
        std::fs::write(&path, "back again").unwrap();
        let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, open).unwrap();
        let exposed = file.password(&path).await.unwrap_err();
        assert!(matches!(exposed, OpenError::Exposed { .. }), "{exposed}");
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(&path, closed).unwrap();
        let read = file.password(&path).await.unwrap();
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

    /// One thread for all sessions, and none of them waits longer than that.
    #[tokio::test]
    async fn a_file_system_that_hangs_holds_one_thread_and_no_session() {
        let (_folder, path) = secret();
        let file = PasswordFile::default();
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let hung = file.password_from(&path, move |path, known| {
            let _ = hangs.recv();
            look(path, known)
        });
        let others = (0..100).map(|_| file.password(&path));
        let (hung, others) = tokio::join!(hung, futures_util::future::join_all(others));
        for late in others.into_iter().chain([hung]) {
            let late = late.unwrap_err();
            let why = base::error::chain(&late);
            assert!(why.contains("has not answered within 2 s"), "{why}");
        }
        drop(release);
        // The look that was late is of use to the next.
        while file.looks.answered(&()).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(file.password(&path).await.unwrap().expose(), b"secret");
    }

    #[tokio::test]
    async fn the_last_password_serves_while_the_file_system_hangs() {
        let (_folder, path) = secret();
        let file = PasswordFile::default();
        while file.last.lock().unwrap().is_none() {
            file.password(&path).await.unwrap();
        }
        let (_release, hangs) = std::sync::mpsc::channel::<()>();
        let hung = file.password_from(&path, move |path, known| {
            let _ = hangs.recv();
            look(path, known)
        });
        assert_eq!(hung.await.unwrap().expose(), b"secret");
    }
}
