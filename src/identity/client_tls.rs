//! TLS towards clients: the endpoint's certificate, and the names in a client's certificate. The daemon
//! reads the endpoint's certificate again when its files change.

use base::mutex::locked;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use x509_parser::extensions::GeneralName;

use crate::config::server_tls::{ServerTlsError, check_access, server_config};
use crate::config::{CertificateName, ServerTls};
use base::error::with_note;

/// The shortest time between two checks for changed files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest that a connection waits for such a check, because the files may be on a mount that
/// hangs.
const PATIENCE: Duration = Duration::from_millis(200);

/// The TLS configuration of one endpoint. The daemon updates it when the certificate's files change.
#[derive(Debug)]
pub struct Certificates {
    endpoint: String,
    tls: ServerTls,
    loaded: Mutex<LoadedConfig>,
    /// When the daemon last looked for changed files. Locked while it looks.
    last_look: Arc<tokio::sync::Mutex<Instant>>,
}

#[derive(Debug)]
struct LoadedConfig {
    /// The versions of the files at the last check, whether they could be used or not.
    versions: Vec<Option<FileVersion>>,
    /// The last configuration that could be used. `None` if there was none yet.
    config: Option<Arc<ServerConfig>>,
}

/// The result of reading files that have changed.
struct ChangedFiles {
    versions: Vec<Option<FileVersion>>,
    outcome: Result<ServerConfig, ServerTlsError>,
}

/// Tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    /// In bytes.
    length: u64,
    /// The time of the last change: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Certificates {
    /// Reads the files of `endpoint`. Blocks. Logs an error if the files cannot be used.
    pub fn new(endpoint: &str, tls: &ServerTls) -> Self {
        let certificates = Self {
            endpoint: endpoint.to_owned(),
            tls: tls.clone(),
            loaded: Mutex::new(LoadedConfig {
                versions: Vec::new(),
                config: None,
            }),
            last_look: Arc::new(tokio::sync::Mutex::new(Instant::now())),
        };
        certificates.look();
        certificates
    }

    /// The configuration for the next connection. `None` if the files could never be used.
    ///
    /// Checks for changed files at most once a second, on a blocking thread. The connection that starts
    /// the check waits for up to 200 ms until it ends. No other connection waits.
    pub async fn current(self: &Arc<Self>) -> Option<Arc<ServerConfig>> {
        if let Ok(mut last_look) = Arc::clone(&self.last_look).try_lock_owned()
            && last_look.elapsed() >= LOOK_EVERY
        {
            let certificates = Arc::clone(self);
            let look = tokio::spawn(async move {
                let reader = Arc::clone(&certificates);
                let changed = tokio::task::spawn_blocking(move || reader.read_if_changed()).await;
                if let Ok(Some(changed)) = changed {
                    certificates.use_or_report(changed);
                }
                *last_look = Instant::now();
            });
            // A check that takes longer goes on, and later connections use its result.
            let _ = timeout(PATIENCE, look).await;
        }
        self.loaded().config.clone()
    }

    /// Whether this configuration was made for `tls`.
    pub fn are_of(&self, tls: &ServerTls) -> bool {
        self.tls == *tls
    }

    /// Checks for changed files now. Blocks.
    pub fn look(&self) {
        if let Some(changed) = self.read_if_changed() {
            self.use_or_report(changed);
        }
    }

    fn read_if_changed(&self) -> Option<ChangedFiles> {
        // The versions are taken before the files are read, so that the next check notices a change in
        // between.
        let versions = self.versions();
        let changed = self.loaded().versions != versions;
        changed.then(|| ChangedFiles {
            versions,
            outcome: check_access(&self.tls).and_then(|()| server_config(&self.tls)),
        })
    }

    /// Uses the new configuration. If the files cannot be used, keeps the previous configuration and
    /// logs an error, once for each change.
    fn use_or_report(&self, changed: ChangedFiles) {
        let mut loaded = self.loaded();
        loaded.versions = changed.versions;
        let had_config = loaded.config.is_some();
        match changed.outcome {
            Ok(config) => {
                loaded.config = Some(Arc::new(config));
                if had_config {
                    tracing::info!(
                        endpoint = self.endpoint,
                        "the certificate has been reloaded"
                    );
                }
            }
            Err(error) => {
                let until = match had_config {
                    true => "the previous certificate stays in use until the files are correct",
                    false => "clients are refused until the files are correct",
                };
                tracing::error!(endpoint = self.endpoint, "{}", with_note(&error, until));
            }
        }
    }

    fn loaded(&self) -> MutexGuard<'_, LoadedConfig> {
        locked(&self.loaded)
    }

    /// The versions of all files now. `None` for a file whose metadata cannot be read.
    fn versions(&self) -> Vec<Option<FileVersion>> {
        let files = [
            Some(&self.tls.cert),
            Some(&self.tls.key),
            self.tls.client_ca.as_ref(),
        ];
        let files = files.into_iter().flatten();
        files.map(|path| FileVersion::of(path)).collect()
    }
}

impl FileVersion {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The names of a certificate's owner: the alternative names, after the subject's common name if it has
/// exactly one. Empty if the certificate does not parse.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<CertificateName> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let mut common = certificate.subject().iter_common_name();
    let mut names = Vec::new();
    if let (Some(name), None) = (common.next(), common.next())
        && let Ok(name) = name.as_str()
    {
        names.push(CertificateName::Common(name.to_owned()));
    }
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives
        .iter()
        .flat_map(|found| &found.value.general_names);
    names.extend(alternatives.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(CertificateName::Dns((*name).to_owned())),
        GeneralName::RFC822Name(name) => Some(CertificateName::Email((*name).to_owned())),
        GeneralName::URI(name) => Some(CertificateName::Uri((*name).to_owned())),
        _ => None,
    }));
    names
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;
    use crate::config::TlsVersion;

    /// A pipe without a writer: reading it never ends, as on a mount that hangs.
    #[tokio::test]
    async fn files_that_hang_hold_up_one_connection_and_no_thread_of_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pem");
        let tls = ServerTls {
            cert: path.clone(),
            key: folder.path().join("key"),
            client_ca: None,
            min_version: TlsVersion::Tls12,
        };
        let certificates = Arc::new(Certificates::new("hdb", &tls));
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let long_ago = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        *certificates.last_look.lock().await = long_ago;
        assert!(certificates.current().await.is_none());
        assert!(certificates.last_look.try_lock().is_err(), "it goes on");
        assert!(certificates.current().await.is_none());
        // Opens the pipe for writing, so that the reading thread ends.
        drop(std::fs::OpenOptions::new().write(true).open(&path).unwrap());
    }
}
