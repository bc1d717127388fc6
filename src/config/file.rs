//! Files that the configuration names.

use std::fs::Metadata;
use std::io;
use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use zeroize::Zeroizing;

use super::reader::Value;
use base::file_access::{self, Protection};

/// Far beyond any password file: what is larger was named by mistake.
const LARGEST_SECRET_FILE: u64 = 16 << 20;

impl Value<'_> {
    /// A path; a relative one starts from the configuration file's directory.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            self.problem("is not a path", "write the path of a file");
            return None;
        }
        let resolved = self.source.resolve(text);
        self.check(resolved)
    }

    /// A file that exists; a problem is reported if it is not protected. The problem of a file that
    /// does not exist shows the path only if it is absolute: what is not may be a password that was
    /// written into the wrong key.
    pub(super) fn file(&self, protection: Protection) -> Option<(PathBuf, Metadata)> {
        let path = self.path()?;
        let shown = if self.text()?.starts_with('/') {
            format!("{}", path.display())
        } else {
            format!("the file it names in {}", self.shown_directory())
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                match file_access::check(&path, protection) {
                    // Reading it fails next, and says why.
                    Err(exposed) if !exposed.is_unseen() => {
                        self.problem(exposed.what(), exposed.remedy());
                    }
                    _ => {}
                }
                Some((path, metadata))
            }
            Ok(_) => {
                self.problem(format!("{shown} is not a file"), "name a file");
                None
            }
            Err(error) => {
                self.unreadable(&shown, &error);
                None
            }
        }
    }

    /// A file with at least one certificate.
    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        let (path, _) = self.file(Protection::FromChange)?;
        let remedy = "name a PEM file of certificates (-----BEGIN CERTIFICATE-----)";
        let certificates =
            CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                self.problem("the file holds no certificate", remedy);
                None
            }
            Ok(_) => Some(path),
            Err(pem::Error::Io(error)) => {
                self.unreadable("the file", &error);
                None
            }
            Err(_) => {
                self.problem("the file is not PEM", remedy);
                None
            }
        }
    }

    /// A file with passwords in it, and what it holds.
    pub(super) fn secret_file(&self) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
        let (path, metadata) = self.file(Protection::FromChangeAndReading)?;
        if metadata.len() > LARGEST_SECRET_FILE {
            self.problem("the file is too large", "name a file of passwords");
            return None;
        }
        match std::fs::read(&path) {
            Ok(bytes) => Some((path, Zeroizing::new(bytes))),
            Err(error) => {
                self.unreadable("the file", &error);
                None
            }
        }
    }

    /// A program that may be run.
    pub(super) fn program(&self) -> Option<()> {
        if !self.text()?.starts_with('/') {
            self.problem(
                "the program has no absolute path",
                "write where it is, such as \"/usr/local/bin/rdb-login\"",
            );
            return None;
        }
        let (path, _) = self.file(Protection::FromChange)?;
        if access(&path, AccessFlags::X_OK).is_err() {
            self.problem(
                format!("{} can't be executed", path.display()),
                format!("let hopend execute it: chmod a+x {}", path.display()),
            );
            return None;
        }
        Some(())
    }

    fn unreadable(&self, shown: &str, error: &io::Error) {
        let (what, remedy) = match error.kind() {
            io::ErrorKind::NotFound => ("does not exist", "create it, or name another"),
            io::ErrorKind::PermissionDenied => (
                "may not be read by this account",
                "let the account that runs hopend read it, and its directories",
            ),
            _ => {
                return self.problem(
                    format!("{shown} can't be read: {error}"),
                    "name a readable file",
                );
            }
        };
        self.problem(format!("{shown} {what}"), remedy);
    }

    fn shown_directory(&self) -> String {
        let directory = self.source.directory();
        if directory.as_os_str().is_empty() {
            "the working directory".into()
        } else {
            format!("{}", directory.display())
        }
    }
}
