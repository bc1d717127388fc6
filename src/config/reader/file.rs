//! Reads paths, and checks the files that they name.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use base::file_access::{self, Protection};
use nix::unistd::{AccessFlags, access};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use zeroize::Zeroizing;

use super::document::TomlValue;
use super::reported::Reported;
use crate::config::notice::Severity;

/// The largest password file that hopend reads, in bytes. A larger file was named by mistake.
const LARGEST_SECRET_FILE: u64 = 16 << 20;

/// A file with secrets, and its content.
pub(super) struct SecretFile {
    pub(super) path: PathBuf,
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// A file that exists.
struct ExistingFile {
    path: PathBuf,
    metadata: Metadata,
}

impl TomlValue<'_> {
    /// A path. A relative path starts from the directory of the configuration file.
    pub(super) fn path(&self) -> Result<PathBuf, Reported> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            return Err(self.problem("is not a path", "write the path of a file"));
        }
        self.check(self.diagnostics().resolve(text))
    }

    /// The path of a file that exists. If the file is not protected, that is reported, and the path is
    /// returned nevertheless.
    pub(super) fn file(&self, protection: Protection) -> Result<PathBuf, Reported> {
        Ok(self.existing_file(protection)?.path)
    }

    /// The path of a PEM file with at least one certificate.
    pub(super) fn ca_file(&self) -> Result<PathBuf, Reported> {
        let path = self.file(Protection::FromChange)?;
        let remedy = "name a PEM file of certificates (-----BEGIN CERTIFICATE-----)";
        let certificates =
            CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(self.problem("the file holds no certificate", remedy))
            }
            Ok(_) => Ok(path),
            Err(pem::Error::Io(error)) => Err(self.unreadable("the file", &error)),
            Err(_) => Err(self.problem("the file is not PEM", remedy)),
        }
    }

    /// A file with passwords.
    pub(super) fn secret_file(&self) -> Result<SecretFile, Reported> {
        let ExistingFile { path, metadata } =
            self.existing_file(Protection::FromChangeAndReading)?;
        if metadata.len() > LARGEST_SECRET_FILE {
            return Err(self.problem("the file is too large", "name a file of passwords"));
        }
        match std::fs::read(&path) {
            Ok(content) => Ok(SecretFile {
                path,
                content: Zeroizing::new(content),
            }),
            Err(error) => Err(self.unreadable("the file", &error)),
        }
    }

    /// Checks that the value is the absolute path of a program that hopend may execute.
    pub(super) fn check_program(&self) -> Result<(), Reported> {
        if !self.text()?.starts_with('/') {
            return Err(self.problem(
                "the program has no absolute path",
                "write where it is, such as \"/usr/local/bin/rdb-login\"",
            ));
        }
        let path = self.file(Protection::FromChange)?;
        if access(&path, AccessFlags::X_OK).is_err() {
            return Err(self.problem(
                format!("{} can't be executed", path.display()),
                format!("let hopend execute it: chmod a+x {}", path.display()),
            ));
        }
        Ok(())
    }

    /// Adds a notice if the directory in which hopend is to create `path` does not exist.
    pub(super) fn notice_if_directory_is_missing(&self, path: &Path) {
        let directory = path.parent().unwrap_or(path);
        if !directory.is_dir() {
            self.notice(
                Severity::Error,
                format!("the directory {} does not exist", directory.display()),
                "make the directory, writable for the account that runs hopend",
            );
        }
    }

    /// A file that exists. If the file is not protected, that is reported.
    ///
    /// An error shows the path only if it is absolute. A relative path may be a password that was written
    /// under the wrong key.
    fn existing_file(&self, protection: Protection) -> Result<ExistingFile, Reported> {
        let path = self.path()?;
        let shown = if self.text()?.starts_with('/') {
            format!("{}", path.display())
        } else {
            format!("the file it names in {}", self.shown_directory())
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                match file_access::check(&path, protection) {
                    Err(exposed) if !exposed.is_inaccessible() => {
                        self.problem(exposed.message(), exposed.remedy());
                    }
                    // If the file is inaccessible, reading it fails next, with a better error.
                    _ => {}
                }
                Ok(ExistingFile { path, metadata })
            }
            Ok(_) => Err(self.problem(format!("{shown} is not a file"), "name a file")),
            Err(error) => Err(self.unreadable(&shown, &error)),
        }
    }

    fn unreadable(&self, shown: &str, error: &io::Error) -> Reported {
        let (message, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (
                format!("{shown} does not exist"),
                "create it, or name another file",
            ),
            io::ErrorKind::PermissionDenied => (
                format!("{shown} may not be read by this account"),
                "let the account that runs hopend read it, and its directories",
            ),
            _ => (
                format!("{shown} can't be read: {error}"),
                "name a readable file",
            ),
        };
        self.problem(message, remedy)
    }

    fn shown_directory(&self) -> String {
        let directory = self.diagnostics().directory();
        if directory.as_os_str().is_empty() {
            "the working directory".into()
        } else {
            format!("{}", directory.display())
        }
    }
}
