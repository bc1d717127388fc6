//! Checks which accounts can change or read a file.
//!
//! The check covers the owner and the mode of the file, and of every directory and symbolic link on its
//! path. hopend trusts root and the account that it runs as. A file passes if no other account can
//! change the file that its path leads to.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid};
use zeroize::Zeroizing;

use crate::error::with_fix;
use crate::user_namespace::is_overflow_uid;
use secret::Secret;

/// The number of symbolic links that the kernel follows on one path.
const MOST_LINKS: usize = 40;
/// The sticky bit of a directory. In such a directory, only the owner of a file or of the directory, or
/// root, can delete or replace the file.
const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const OTHERS: u32 = 0o007;

/// The access that a file must deny to other accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Other accounts must not change the file, because it names a party that hopend trusts or a
    /// program that hopend runs.
    FromChange,
    /// Other accounts must neither change nor read the file, because it holds a password, a key or a
    /// hash. Besides the owner, the file's group may read it.
    FromChangeAndReading,
}

/// The reason why a file is not protected.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_fix(self.message(), self.remedy()))]
pub enum FileAccessError {
    /// The metadata of the file, or of a part of its path, cannot be read.
    Inaccessible {
        /// The file, directory or symbolic link.
        path: PathBuf,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// Another account owns the file, or a part of its path.
    Owner {
        /// The file, directory or symbolic link.
        path: PathBuf,
        /// The owner.
        uid: u32,
    },
    /// The mode lets other accounts change the file, or a directory on its path.
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The group whose members can change the file or directory. `None` means that every account
        /// can.
        group: Option<u32>,
    },
    /// The mode lets every account read a file that holds a secret.
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl FileAccessError {
    /// The failure, without its remedy.
    pub fn message(&self) -> String {
        match self {
            // The message omits `source`, because the caller prints the cause.
            Self::Inaccessible { path, .. } => {
                format!("{} can't be examined", path.display())
            }
            Self::Owner { path, uid } => {
                format!("uid {uid} owns {} and can change it", path.display())
            }
            Self::Writable { path, mode, group } => {
                let accounts = match group {
                    Some(gid) => format!("every account in group {gid}"),
                    None => "every account".to_owned(),
                };
                format!("{accounts} can change {} (mode {mode:04o})", path.display())
            }
            Self::Readable { path, mode } => format!(
                "{} holds secrets and is open to every account (mode {mode:04o})",
                path.display()
            ),
        }
    }

    /// The command or setting that protects the file.
    pub fn remedy(&self) -> String {
        match self {
            Self::Inaccessible { .. } => {
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

    /// Whether the file, or a directory on its path, does not exist or is closed to this account. Then
    /// hopend cannot tell whether the file is protected.
    pub fn is_inaccessible(&self) -> bool {
        matches!(self, Self::Inaccessible { .. })
    }
}

/// Checks which accounts can change, or read, the file that `path` leads to. Blocks while it reads the
/// metadata of every directory on the path.
///
/// A directory that every account may write to passes if root or hopend's account owns it and its
/// sticky bit is set. In such a directory, no other account can replace a file. `/tmp` is such a
/// directory, and so are the volumes in which Kubernetes mounts secrets.
///
/// # Errors
/// Another account can change or read the file, or the metadata of a part of the path cannot be read.
pub fn check(path: &Path, protection: Protection) -> Result<(), FileAccessError> {
    AccessChecker::default().check_file(path, protection)
}

/// Reads a file that holds a secret, if no other account can change or read it. Blocks.
///
/// # Errors
/// The error of the system call, or an error that holds a [`FileAccessError`]; see [`access_error`].
pub fn read_secret(path: &Path) -> io::Result<Secret> {
    match check(path, Protection::FromChangeAndReading) {
        Err(error) if !error.is_inaccessible() => Err(io::Error::other(error)),
        // The read fails for the same reason, and its error is more precise.
        _ => Ok(Secret::new(&Zeroizing::new(fs::read(path)?)[..])),
    }
}

/// The reason why [`read_secret`] refused to read a file. `None` if a system call failed instead.
pub fn access_error(error: &io::Error) -> Option<&FileAccessError> {
    error.get_ref()?.downcast_ref()
}

/// Checks files on behalf of one account. Trusts that account and root.
struct AccessChecker {
    uid: u32,
    gid: u32,
}

/// Checks on behalf of the account that hopend runs as.
impl Default for AccessChecker {
    fn default() -> Self {
        Self {
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
        }
    }
}

/// The owner and the permission bits of a file, a directory or a symbolic link.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl From<&Metadata> for Ownership {
    fn from(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.permissions().mode() & 0o7777,
        }
    }
}

/// The file or directory at the end of a path, after all symbolic links.
struct Resolved {
    path: PathBuf,
    metadata: Metadata,
}

impl Resolved {
    /// Reads the metadata of the file that `path` leads to, after all symbolic links.
    fn read(path: PathBuf) -> Result<Self, FileAccessError> {
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Self { path, metadata }),
            Err(error) => Err(inaccessible(&path, error)),
        }
    }
}

impl AccessChecker {
    fn check_file(&self, path: &Path, protection: Protection) -> Result<(), FileAccessError> {
        let Resolved { path, metadata } = self.resolve(path)?;
        if metadata.is_dir() {
            // `resolve` has checked the directory.
            return Ok(());
        }
        let ownership = Ownership::from(&metadata);
        if !self.trusts(ownership.uid) {
            return Err(FileAccessError::Owner {
                path,
                uid: ownership.uid,
            });
        }
        if protection == Protection::FromChangeAndReading && ownership.mode & OTHERS != 0 {
            let mode = ownership.mode;
            return Err(FileAccessError::Readable { path, mode });
        }
        self.check_writers(&path, ownership)
    }

    /// Follows the path to its end, and checks every directory and symbolic link on it.
    fn resolve(&self, path: &Path) -> Result<Resolved, FileAccessError> {
        let path = std::path::absolute(path).map_err(|error| inaccessible(path, error))?;
        let mut names_left = names(&path);
        let mut here = Resolved::read(PathBuf::from("/"))?;
        self.check_directory(&here.path, &here.metadata)?;
        let mut links = 0;
        while let Some(name) = names_left.pop_front() {
            if name == ".." {
                here.path.pop();
                here = Resolved::read(here.path)?;
                continue;
            }
            let next = here.path.join(&name);
            let metadata =
                fs::symlink_metadata(&next).map_err(|error| inaccessible(&next, error))?;
            if metadata.is_symlink() {
                let target = fs::read_link(&next).map_err(|error| inaccessible(&next, error))?;
                if next.starts_with("/proc") && names_left.is_empty() {
                    let opened = Resolved::read(next.clone())?;
                    if !leads_to(&here.path.join(&target), &opened.metadata) {
                        return Ok(opened);
                    }
                }
                self.check_link(&next, &metadata, &here.metadata)?;
                links += 1;
                if links > MOST_LINKS {
                    let error = io::Error::from_raw_os_error(libc::ELOOP);
                    return Err(inaccessible(&next, error));
                }
                if target.is_absolute() {
                    here = Resolved::read(PathBuf::from("/"))?;
                }
                for name in names(&target).into_iter().rev() {
                    names_left.push_front(name);
                }
                continue;
            }
            if metadata.is_dir() {
                self.check_directory(&next, &metadata)?;
            }
            here = Resolved {
                path: next,
                metadata,
            };
        }
        Ok(here)
    }

    /// Checks the owner of a symbolic link, if other accounts can create links in its directory. In
    /// such a directory, the owner of the link decides which file the path leads to.
    fn check_link(
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

    fn check_directory(&self, path: &Path, metadata: &Metadata) -> Result<(), FileAccessError> {
        let ownership = Ownership::from(metadata);
        // A container's image may hold directories of an account that its user namespace does not map.
        if !self.trusts(ownership.uid) && !is_overflow_uid(ownership.uid) {
            return Err(FileAccessError::Owner {
                path: path.to_path_buf(),
                uid: ownership.uid,
            });
        }
        if ownership.mode & STICKY != 0 {
            return Ok(());
        }
        self.check_writers(path, ownership)
    }

    /// Checks that the mode lets only trusted accounts write.
    fn check_writers(&self, path: &Path, ownership: Ownership) -> Result<(), FileAccessError> {
        let group = if ownership.mode & OTHERS_WRITE != 0 {
            None
        } else if ownership.mode & GROUP_WRITES != 0 && !self.trusts_group(ownership.gid) {
            Some(ownership.gid)
        } else {
            return Ok(());
        };
        Err(FileAccessError::Writable {
            path: path.to_path_buf(),
            mode: ownership.mode,
            group,
        })
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }

    /// Whether only trusted accounts are members of a group. This holds for root's group and for the
    /// private group of hopend's account.
    ///
    /// A private group has the name of its account, and no member except that account and root. A primary
    /// group that several accounts share has another name.
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
                let is_trusted = |name: &String| *name == account.name || name == "root";
                group.name == account.name && group.mem.iter().all(is_trusted)
            }
            // A container often has an entry for neither the group nor the account. If the account has
            // an entry and the group has none, the database may have failed to answer.
            (Ok(None), Ok(None)) => true,
            _ => false,
        }
    }
}

fn inaccessible(path: &Path, source: io::Error) -> FileAccessError {
    FileAccessError::Inaccessible {
        path: path.to_path_buf(),
        source,
    }
}

/// Whether `path` leads to the file with this metadata. The target of a descriptor's link in `/proc`
/// may be no path, such as `pipe:[12345]`.
fn leads_to(path: &Path, file: &Metadata) -> bool {
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
}

/// The components of a path, `..` included, without the root.
fn names(path: &Path) -> VecDeque<OsString> {
    let components = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    components.collect()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{lchown, symlink};

    use tempfile::TempDir;

    use super::Protection::{FromChange, FromChangeAndReading};
    use super::*;

    /// The number of an account that is neither root nor hopend's.
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

    /// Returns a checker to which `path` belongs to another account. Root changes the owner of `path`.
    /// Without root, the checker has the uid of another account instead.
    fn owned_by_another(path: &Path) -> AccessChecker {
        let mut checker = AccessChecker::default();
        if Uid::effective().is_root() {
            lchown(path, Some(OTHER), None).unwrap();
        } else {
            checker.uid = OTHER;
        }
        checker
    }

    fn error_text(path: &Path, protection: Protection) -> String {
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
        let message = error_text(&path, FromChange);
        let shown = path.display();
        let expected =
            format!("every account can change {shown} (mode 0666). Fix: chmod o-w {shown}");
        assert!(message.starts_with(&expected), "{message}");
        set_mode(&path, 0o644);
        let message = error_text(&path, FromChangeAndReading);
        assert!(message.contains(&format!("(mode 0644). Fix: chmod o-rwx {shown}")));
    }

    #[test]
    fn a_group_that_others_are_in_must_not_change_a_file() {
        let checker = AccessChecker { uid: 0, gid: 0 };
        let ownership = |gid, mode| Ownership { uid: 0, gid, mode };
        let is_protected = |ownership| checker.check_writers(Path::new("f"), ownership).is_ok();
        assert!(is_protected(ownership(0, 0o660)));
        assert!(is_protected(ownership(OTHER, 0o640)));
        assert!(!is_protected(ownership(OTHER, 0o660)));
        // If neither hopend's group nor its account has an entry, the group has no other member. A group with
        // another name may be the primary group of accounts that its list of members does not name.
        let own_group = |gid| {
            let checker = AccessChecker { uid: OTHER, gid };
            checker
                .check_writers(Path::new("f"), ownership(gid, 0o660))
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
        let checker = owned_by_another(&path);
        let error = checker.check_file(&path, FromChange).unwrap_err();
        assert!(matches!(error, FileAccessError::Owner { .. }), "{error}");
    }

    #[test]
    fn whoever_can_write_to_a_directory_on_the_way_can_replace_the_file() {
        let folder = folder();
        let (dir, path) = (folder.path().join("a"), folder.path().join("a/b/file"));
        make_dir(&dir, 0o777);
        make_dir(&dir.join("b"), 0o755);
        file(&path, 0o600);
        let message = error_text(&path, FromChange);
        assert!(
            message.contains(&format!("can change {} (mode 0777)", dir.display())),
            "{message}"
        );
        // A path with `..` in it is refused as well.
        assert!(check(&dir.join("../a/b/file"), FromChange).is_err());
        for mode in [0o755, 0o1777] {
            set_mode(&dir, mode);
            check(&path, FromChangeAndReading).unwrap();
        }
        let checker = owned_by_another(&dir);
        set_mode(&dir, 0o1777);
        let error = checker.check_file(&path, FromChange).unwrap_err();
        assert!(matches!(error, FileAccessError::Owner { .. }), "{error}");
    }

    /// Kubernetes mounts secrets as links into a directory that it replaces as a whole. The directory of
    /// the links lets every account write, and has its sticky bit set.
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
        // Without the sticky bit every account could replace the link.
        set_mode(folder.path(), 0o777);
        let message = error_text(&at("password"), FromChangeAndReading);
        assert!(message.contains("projected volume"), "{message}");
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
        // The check includes the directory of the file that a descriptor leads to.
        set_mode(&path, 0o600);
        set_mode(folder.path(), 0o777);
        for other in [&by_descriptor, &by_root] {
            assert!(check(other, FromChange).is_err(), "{}", other.display());
        }
        // A deleted file has no directory, but it still has a mode.
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
            let checker = owned_by_another(&link);
            let error = checker.check_file(&link, FromChange).unwrap_err();
            assert!(matches!(error, FileAccessError::Owner { .. }), "{error}");
        } else {
            let checker = AccessChecker {
                uid: OTHER,
                gid: OTHER,
            };
            assert!(checker.check_file(&link, FromChange).is_err());
        }
        // The check includes the directory that a link leads to.
        set_mode(own.path(), 0o777);
        let direct = own.path().join("link");
        symlink("file", &direct).unwrap();
        assert!(check(&direct, FromChange).is_err());
    }

    #[test]
    fn an_inaccessible_file_has_an_error_of_its_own() {
        let folder = folder();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        assert!(check(&one, FromChange).unwrap_err().is_inaccessible());
        symlink(&other, &one).unwrap();
        symlink(&one, &other).unwrap();
        assert!(check(&one, FromChange).unwrap_err().is_inaccessible());
        // The link of a pipe's descriptor names no path.
        let (reader, _writer) = std::io::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
        check(Path::new(&format!("/dev/fd/{number}")), FromChange).unwrap();
    }
}
