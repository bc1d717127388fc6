//! The password file of a fixed login: one that was changed needs no reload, one that was not is
//! not read again.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::OpenError;
use crate::secret::Secret;

/// A file that was written this shortly before it was read may have been written once more since,
/// at the same time by the file system's clock.
const SETTLED: Duration = Duration::from_millis(100);

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct PasswordFile(Mutex<Option<(State, Secret)>>);

/// What changes when a file is changed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl PasswordFile {
    /// The password that is in the file now.
    pub(super) async fn password(&self, path: &Path) -> Result<Secret, OpenError> {
        if let Ok(now) = std::fs::metadata(path) {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((state, password)) = &*known
                && *state == State::of(&now)
            {
                return Ok(password.clone());
            }
        }
        let before = std::fs::metadata(path).ok();
        let password = read_password(path).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = before
            .filter(is_settled)
            .map(|before| (State::of(&before), password.clone()));
        Ok(password)
    }
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

/// The first line.
pub(crate) async fn read_password(path: &Path) -> Result<Secret, OpenError> {
    let failed = |source| OpenError::PasswordFile {
        path: path.to_path_buf(),
        source,
    };
    let bytes = Secret::new(tokio::fs::read(path).await.map_err(failed)?);
    let line = bytes.expose().split(|&b| b == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    if line.is_empty() {
        return Err(failed(io::Error::other("its first line is empty")));
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
        for password in ["first", "other", "a longer one"] {
            std::fs::write(&path, password).unwrap();
            let read = file.password(&path).await.unwrap();
            assert_eq!(read.expose(), password.as_bytes());
        }
        let known = || file.0.lock().unwrap().is_some();
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
        let read = file.password(&path).await.unwrap();
        assert_eq!(read.expose(), b"back again");
    }
}
