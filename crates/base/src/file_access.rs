//! Which accounts can change or read a file: the file's own mode and owner, and those of every
//! directory and symbolic link on the way to it.
//!
//! Root and the account that hopend runs as are trusted. A file passes if nobody else can change what
//! its path leads to.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid};
use zeroize::Zeroizing;

use crate::error::with_fix;
use crate::user_namespace::is_hidden;
use secret::Secret;

/// As many symbolic links as the kernel follows.
const MOST_LINKS: usize = 40;
const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const OTHERS: u32 = 0o007;

/// What other accounts must not be able to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Change it: it tells hopend whom to trust or what to run.
    FromChange,
    /// Change or read it: it holds a password, a key or a hash. Its group may read it.
    FromChangeAndReading,
}

/// Why a file is not protected.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_fix(self.what(), self.remedy()))]
pub enum FileAccessError {
    /// Something on the path can't be looked at.
    Unseen {
        /// The part of the path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another account owns it.
    Owner {
        /// A file, a directory or a symbolic link.
        path: PathBuf,
        /// The owner.
        uid: u32,
    },
    /// The mode lets other accounts change it.
    Writable {
        /// A file or a directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The group that can, where not every account can.
        group: Option<u32>,
    },
    /// The mode lets every account read a secret.
    Readable {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl FileAccessError {
    /// What is wrong.
    pub fn what(&self) -> String {
        match self {
            // The cause stands in `source`.
            Self::Unseen { path, .. } => format!("{} can't be looked at", path.display()),
            Self::Owner { path, uid } => {
                format!("uid {uid} owns {} and can change it", path.display())
            }
            Self::Writable { path, mode, group } => {
                let who = match group {
                    Some(gid) => format!("every account in group {gid}"),
                    None => "every account".to_owned(),
                };
                format!("{who} can change {} (mode {mode:04o})", path.display())
            }
            Self::Readable { path, mode } => format!(
                "{} holds secrets and is open to every account (mode {mode:04o})",
                path.display()
            ),
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unseen { .. } => {
                "let the account that runs hopend read it, and its directories".to_owned()
            }
            Self::Owner { path, .. } => format!("chown -h root {}", path.display()),
            Self::Writable {
                path,
                group: Some(_),
                ..
            } => format!("chmod g-w {}", path.display()),
            Self::Writable { path, .. } => format!(
                "chmod o-w {}; in Kubernetes, mount the file from a projected volume",
                path.display()
            ),
            Self::Readable { path, .. } => format!("chmod o-rwx {}", path.display()),
        }
    }

    /// Whether the file, or a directory on the way to it, is not there or is closed to this account.
    pub fn is_unseen(&self) -> bool {
        matches!(self, Self::Unseen { .. })
    }
}

/// Checks who can change, or read, the file that `path` leads to. Blocks: it looks at every directory
/// on the way.
///
/// A directory that everybody may write to is accepted if root or hopend's account owns it and its
/// sticky bit is set, as in `/tmp` and in the volumes of secrets in Kubernetes: there nobody can
/// replace a file of somebody else.
///
/// # Errors
/// Another account can, or something on the way can't be looked at.
pub fn check(path: &Path, protection: Protection) -> Result<(), FileAccessError> {
    Inspector::default().file(path, protection)
}

/// Whose files and directories are trusted.
struct Inspector {
    uid: u32,
    gid: u32,
}

impl Default for Inspector {
    fn default() -> Self {
        Self {
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
        }
    }
}

/// A file, a directory or a symbolic link, as the checks see it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl From<&Metadata> for Entry {
    fn from(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.permissions().mode() & 0o7777,
        }
    }
}

impl Inspector {
    fn file(&self, path: &Path, protection: Protection) -> Result<(), FileAccessError> {
        let (path, metadata) = self.follow(path)?;
        let entry = Entry::from(&metadata);
        if metadata.is_dir() {
            // It was checked on the way.
            return Ok(());
        }
        if !self.trusts(entry.uid) {
            return Err(FileAccessError::Owner {
                path,
                uid: entry.uid,
            });
        }
        if protection == Protection::FromChangeAndReading && entry.mode & OTHERS != 0 {
            let mode = entry.mode;
            return Err(FileAccessError::Readable { path, mode });
        }
        self.unwritable(&path, entry)
    }

    /// What the path leads to. Every directory and link on the way has been checked.
    fn follow(&self, path: &Path) -> Result<(PathBuf, Metadata), FileAccessError> {
        let unseen = |path: &Path, source| FileAccessError::Unseen {
            path: path.to_path_buf(),
            source,
        };
        let path = std::path::absolute(path).map_err(|error| unseen(path, error))?;
        let mut left: VecDeque<OsString> = names(&path);
        let mut here = PathBuf::from("/");
        let mut metadata = fs::metadata(&here).map_err(|error| unseen(&here, error))?;
        self.directory(&here, &metadata)?;
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                here.pop();
                metadata = fs::metadata(&here).map_err(|error| unseen(&here, error))?;
                continue;
            }
            let next = here.join(&name);
            let found = fs::symlink_metadata(&next).map_err(|error| unseen(&next, error))?;
            if found.is_symlink() {
                let target = fs::read_link(&next).map_err(|error| unseen(&next, error))?;
                if next.starts_with("/proc") && left.is_empty() {
                    let metadata = fs::metadata(&next).map_err(|error| unseen(&next, error))?;
                    let leads = fs::metadata(here.join(&target));
                    let same = |other: &Metadata| {
                        (other.dev(), other.ino()) == (metadata.dev(), metadata.ino())
                    };
                    // A descriptor of a process, such as a pipe: its link leads to no path.
                    if !leads.is_ok_and(|leads| same(&leads)) {
                        return Ok((next, metadata));
                    }
                }
                self.link(&next, &found, &metadata)?;
                links += 1;
                if links > MOST_LINKS {
                    return Err(unseen(&next, io::Error::from_raw_os_error(libc::ELOOP)));
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                    metadata = fs::metadata(&here).map_err(|error| unseen(&here, error))?;
                }
                for name in names(&target).into_iter().rev() {
                    left.push_front(name);
                }
                continue;
            }
            if found.is_dir() {
                self.directory(&next, &found)?;
            }
            (here, metadata) = (next, found);
        }
        Ok((here, metadata))
    }

    /// In a directory that everybody may write to, a link is its owner's word.
    fn link(
        &self,
        path: &Path,
        link: &Metadata,
        directory: &Metadata,
    ) -> Result<(), FileAccessError> {
        let shared = directory.permissions().mode() & (GROUP_WRITES | OTHERS_WRITE) != 0;
        if shared && !self.trusts(link.uid()) {
            return Err(FileAccessError::Owner {
                path: path.to_path_buf(),
                uid: link.uid(),
            });
        }
        Ok(())
    }

    fn directory(&self, path: &Path, metadata: &Metadata) -> Result<(), FileAccessError> {
        let entry = Entry::from(metadata);
        // In a container the directories of the image may be of an account that it does not have.
        if !self.trusts(entry.uid) && !is_hidden(entry.uid) {
            return Err(FileAccessError::Owner {
                path: path.to_path_buf(),
                uid: entry.uid,
            });
        }
        if entry.mode & STICKY != 0 {
            return Ok(());
        }
        self.unwritable(path, entry)
    }

    fn unwritable(&self, path: &Path, entry: Entry) -> Result<(), FileAccessError> {
        let group = if entry.mode & OTHERS_WRITE != 0 {
            None
        } else if entry.mode & GROUP_WRITES != 0 && !self.trusts_group(entry.gid) {
            Some(entry.gid)
        } else {
            return Ok(());
        };
        Err(FileAccessError::Writable {
            path: path.to_path_buf(),
            mode: entry.mode,
            group,
        })
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }

    /// Root's group, and the private group of hopend's account: it has the account's name and no other
    /// member. The primary group of several accounts has another name.
    fn trusts_group(&self, gid: u32) -> bool {
        if gid == 0 {
            return true;
        }
        if gid != self.gid {
            return false;
        }
        let account = nix::unistd::User::from_uid(self.uid.into());
        match (Group::from_gid(gid.into()), account) {
            (Ok(Some(group)), Ok(Some(account))) => {
                let own = |name: &String| *name == account.name || name == "root";
                group.name == account.name && group.mem.iter().all(own)
            }
            // A container often has entries for neither. Where the account has one, its group may be missing
            // only because the database does not answer.
            (Ok(None), Ok(None)) => true,
            _ => false,
        }
    }
}

/// The names in a path, with `..` among them.
fn names(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

/// Reads a file that holds a secret, if no other account can change or read it. Blocks.
///
/// # Errors
/// What the system said, or a [`FileAccessError`] within.
pub fn read_secret(path: &Path) -> io::Result<Secret> {
    match check(path, Protection::FromChangeAndReading) {
        Err(exposed) if !exposed.is_unseen() => Err(io::Error::other(exposed)),
        // The read says why it can't be read.
        _ => Ok(Secret::new(&Zeroizing::new(fs::read(path)?)[..])),
    }
}

/// Why [`read_secret`] refused to read the file; `None` where the system failed.
pub fn exposure(error: &io::Error) -> Option<&FileAccessError> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{lchown, symlink};

    use tempfile::TempDir;

    use super::Protection::{FromChange, FromChangeAndReading};
    use super::*;

    /// An account that is neither root nor hopend's.
    const OTHER: u32 = 4242;

    fn folder() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn file(path: &Path, mode: u32) {
        fs::write(path, "secret").unwrap();
        set_mode(path, mode);
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn make_dir(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        set_mode(path, mode);
    }

    /// Gives it to another account, which takes root; without root the tests look at it with the eyes
    /// of an account that is not its owner.
    fn of_another(path: &Path) -> Inspector {
        let mut inspector = Inspector::default();
        if Uid::effective().is_root() {
            lchown(path, Some(OTHER), None).unwrap();
        } else {
            inspector.uid = OTHER;
        }
        inspector
    }

    fn wrong(path: &Path, protection: Protection) -> String {
        check(path, protection).unwrap_err().to_string()
    }

    #[test]
    fn the_mode_of_a_file_tells_who_can_read_and_change_it() {
        let folder = folder();
        let path = folder.path().join("file");
        for (mode, change, reading) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, true, true),
            (0o644, true, false),
            (0o601, true, false),
            (0o604, true, false),
            (0o602, false, false),
            (0o666, false, false),
        ] {
            file(&path, mode);
            assert_eq!(check(&path, FromChange).is_ok(), change, "{mode:o}");
            let closed = check(&path, FromChangeAndReading).is_ok();
            assert_eq!(closed, reading, "{mode:o}");
        }
        set_mode(&path, 0o666);
        let said = wrong(&path, FromChange);
        let shown = path.display();
        let expected =
            format!("every account can change {shown} (mode 0666). Fix: chmod o-w {shown}");
        assert!(said.starts_with(&expected), "{said}");
        set_mode(&path, 0o644);
        let said = wrong(&path, FromChangeAndReading);
        assert!(said.contains(&format!("(mode 0644). Fix: chmod o-rwx {shown}")));
    }

    #[test]
    fn a_group_that_others_are_in_must_not_change_a_file() {
        let inspector = Inspector { uid: 0, gid: 0 };
        let entry = |gid, mode| Entry { uid: 0, gid, mode };
        let fine = |entry| inspector.unwritable(Path::new("f"), entry).is_ok();
        assert!(fine(entry(0, 0o660)));
        assert!(fine(entry(OTHER, 0o640)));
        assert!(!fine(entry(OTHER, 0o660)));
        // Of hopend's own group: where neither it nor the account has an entry there is no other member. One
        // with another name may be the primary group of others, whom no list of members shows.
        let own_group = |gid| {
            let inspector = Inspector { uid: OTHER, gid };
            inspector
                .unwritable(Path::new("f"), entry(gid, 0o660))
                .is_ok()
        };
        let shared = Group::from_name("users").unwrap().unwrap();
        assert!(shared.mem.is_empty());
        assert!(own_group(OTHER) && !own_group(shared.gid.as_raw()));
    }

    #[test]
    fn the_owner_of_a_file_can_change_it() {
        let folder = folder();
        let path = folder.path().join("file");
        file(&path, 0o600);
        let inspector = of_another(&path);
        let wrong = inspector.file(&path, FromChange).unwrap_err();
        assert!(matches!(wrong, FileAccessError::Owner { .. }), "{wrong}");
    }

    #[test]
    fn whoever_can_write_to_a_directory_on_the_way_can_replace_the_file() {
        let folder = folder();
        let (dir, path) = (folder.path().join("a"), folder.path().join("a/b/file"));
        make_dir(&dir, 0o777);
        make_dir(&dir.join("b"), 0o755);
        file(&path, 0o600);
        let said = wrong(&path, FromChange);
        assert!(
            said.contains(&format!("can change {} (mode 0777)", dir.display())),
            "{said}"
        );
        // Not by `..` either.
        assert!(check(&dir.join("../a/b/file"), FromChange).is_err());
        for mode in [0o755, 0o1777] {
            set_mode(&dir, mode);
            check(&path, FromChangeAndReading).unwrap();
        }
        let inspector = of_another(&dir);
        set_mode(&dir, 0o1777);
        let wrong = inspector.file(&path, FromChange).unwrap_err();
        assert!(matches!(wrong, FileAccessError::Owner { .. }), "{wrong}");
    }

    /// A volume of Kubernetes: links to a directory that is replaced as a whole, in a directory that
    /// everybody may write to, with its sticky bit set.
    #[test]
    fn a_projected_volume_of_kubernetes_passes() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        set_mode(folder.path(), 0o1777);
        make_dir(&at("..2026_11_28"), 0o755);
        file(&at("..2026_11_28/password"), 0o440);
        symlink("..2026_11_28", at("..data")).unwrap();
        symlink("..data/password", at("password")).unwrap();
        check(&at("password"), FromChangeAndReading).unwrap();
        // Without the sticky bit anybody could put another link there.
        set_mode(folder.path(), 0o777);
        let said = wrong(&at("password"), FromChangeAndReading);
        assert!(said.contains("projected volume"), "{said}");
    }

    #[test]
    fn links_of_processes_hide_nothing() {
        let folder = folder();
        let path = folder.path().join("file");
        file(&path, 0o600);
        let opened = fs::File::open(&path).unwrap();
        let (pipe, _end) = io::pipe().unwrap();
        let of_process = |descriptor: i32| PathBuf::from(format!("/proc/self/fd/{descriptor}"));
        let by_descriptor = of_process(opened.as_raw_fd());
        let by_root = PathBuf::from(format!("/proc/self/root{}", path.display()));
        for other in [&by_descriptor, &by_root] {
            check(other, FromChangeAndReading).unwrap();
        }
        check(&of_process(pipe.as_raw_fd()), FromChangeAndReading).unwrap();
        set_mode(&path, 0o602);
        for other in [&by_descriptor, &by_root] {
            assert!(check(other, FromChange).is_err(), "{}", other.display());
        }
        // The directory of a file that a descriptor leads to counts as well.
        set_mode(&path, 0o600);
        set_mode(folder.path(), 0o777);
        for other in [&by_descriptor, &by_root] {
            assert!(check(other, FromChange).is_err(), "{}", other.display());
        }
        // A deleted file has no directory, and a mode.
        set_mode(&path, 0o602);
        fs::remove_file(&path).unwrap();
        assert!(check(&by_descriptor, FromChange).is_err());
    }

    #[test]
    fn a_link_of_another_account_in_a_shared_directory_is_not_followed() {
        let (shared, own) = (folder(), folder());
        set_mode(shared.path(), 0o1777);
        let (link, path) = (shared.path().join("link"), own.path().join("file"));
        file(&path, 0o600);
        symlink(&path, &link).unwrap();
        check(&link, FromChangeAndReading).unwrap();
        if Uid::effective().is_root() {
            let inspector = of_another(&link);
            let wrong = inspector.file(&link, FromChange).unwrap_err();
            assert!(matches!(wrong, FileAccessError::Owner { .. }), "{wrong}");
        } else {
            let inspector = Inspector {
                uid: OTHER,
                gid: OTHER,
            };
            assert!(inspector.file(&link, FromChange).is_err());
        }
        // Where a link leads is checked as well.
        set_mode(own.path(), 0o777);
        let direct = own.path().join("link");
        symlink("file", &direct).unwrap();
        assert!(check(&direct, FromChange).is_err());
    }

    #[test]
    fn what_cannot_be_looked_at_is_told_apart() {
        let folder = folder();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        assert!(check(&one, FromChange).unwrap_err().is_unseen());
        symlink(&other, &one).unwrap();
        symlink(&one, &other).unwrap();
        assert!(check(&one, FromChange).unwrap_err().is_unseen());
        // A descriptor of this very process has no path.
        let (reader, _writer) = std::io::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
        check(Path::new(&format!("/dev/fd/{number}")), FromChange).unwrap();
    }
}
