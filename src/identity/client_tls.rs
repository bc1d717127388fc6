//! TLS towards clients: certificates that are read again when their files change, and the names in
//! a client's certificate.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::time::timeout;
use x509_parser::extensions::GeneralName;

use crate::config::{CertificateName, ServerTls, TlsVersion};
use base::error::with_note;
use base::file_access::{self, FileAccessError, Protection};
use q_relay::crypto;

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a connection waits for a look: the files may be on a mount that hangs.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why an endpoint can't speak TLS to its clients.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// A file can't be read, or is no PEM.
    #[error("{path} can't be used", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: pem::Error,
    },
    /// Other accounts can change a file, or read the key.
    #[error(transparent)]
    Exposed(FileAccessError),
    /// rustls does not take what the files hold.
    #[error("the certificate {cert} and the key {key} can't be used", cert = .cert.display(), key = .key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Such as: the key is another certificate's.
        #[source]
        source: rustls::Error,
    },
    /// The authorities of clients can't be used.
    #[error("the authorities in {path} can't be used: {why}", path = .path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        why: String,
    },
}

/// What rustls makes of the files as they are now. Reads them.
///
/// # Errors
/// One of them can't be used.
pub fn server_config(tls: &ServerTls) -> Result<ServerConfig, ServerTlsError> {
    let pair = |source| ServerTlsError::Pair {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        source,
    };
    let certificates = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| ServerTlsError::File {
        path: tls.key.clone(),
        source,
    })?;
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = crypto::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(pair)?;
    let Some(path) = &tls.client_ca else {
        let builder = builder.with_no_client_auth();
        return builder.with_single_cert(certificates, key).map_err(pair);
    };
    let failed = |why: String| ServerTlsError::ClientCa {
        path: path.clone(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in self::certificates(path)? {
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(pair)?;
    // A session that is resumed shows no certificate: each hopen has to show one that is valid now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Checks who can change the files, and read the key. A file that is not there is told by its reader.
fn protected(tls: &ServerTls) -> Result<(), ServerTlsError> {
    let trusted = [Some(&tls.cert), tls.client_ca.as_ref()];
    let trusted = trusted.into_iter().flatten();
    let files = trusted.map(|path| (path, Protection::FromChange));
    for (path, protection) in files.chain([(&tls.key, Protection::FromChangeAndReading)]) {
        match file_access::check(path, protection) {
            Err(exposed) if !exposed.is_unseen() => return Err(ServerTlsError::Exposed(exposed)),
            _ => {}
        }
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerTlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| ServerTlsError::File {
            path: path.to_path_buf(),
            source,
        })
}

/// The files of one endpoint, and what was last made of them.
#[derive(Debug)]
pub struct Certificates {
    endpoint: String,
    tls: ServerTls,
    made: Mutex<Made>,
    /// When the files were last looked at; held while they are.
    looked: Arc<tokio::sync::Mutex<Instant>>,
}

#[derive(Debug)]
struct Made {
    stamps: Stamps,
    /// None until the files have been right once.
    config: Option<Arc<ServerConfig>>,
}

type Stamps = Vec<Option<Stamp>>;

/// The files as they were, and what was made of them.
type Read = (Stamps, Result<ServerConfig, ServerTlsError>);

/// Tells a version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

impl Certificates {
    /// The files of `endpoint`, read.
    pub fn new(endpoint: &str, tls: &ServerTls) -> Self {
        let certificates = Self {
            endpoint: endpoint.to_owned(),
            tls: tls.clone(),
            made: Mutex::new(Made {
                stamps: Vec::new(),
                config: None,
            }),
            looked: Arc::new(tokio::sync::Mutex::new(Instant::now())),
        };
        certificates.look();
        certificates
    }

    /// What the next connection is served with; `None` if the files could never be used. Has them
    /// looked at, off the sessions' threads and at most once a second: whoever comes then waits for it,
    /// for a while, and nobody else.
    pub async fn current(self: &Arc<Self>) -> Option<Arc<ServerConfig>> {
        if let Ok(mut looked) = Arc::clone(&self.looked).try_lock_owned()
            && looked.elapsed() >= LOOK_EVERY
        {
            let certificates = Arc::clone(self);
            let look = tokio::spawn(async move {
                let reader = Arc::clone(&certificates);
                let read = tokio::task::spawn_blocking(move || reader.read()).await;
                certificates.take(read.ok().flatten());
                *looked = Instant::now();
            });
            // One that takes longer serves those who come after it.
            let _ = timeout(PATIENCE, look).await;
        }
        self.made().config.clone()
    }

    /// Whether these are the files.
    pub fn are_of(&self, tls: &ServerTls) -> bool {
        self.tls == *tls
    }

    /// Has the files looked at at once. Blocks.
    pub fn look(&self) {
        self.take(self.read());
    }

    /// Reads the files again if they have changed.
    fn read(&self) -> Option<Read> {
        // Before they are read: what changes meanwhile is seen the next time.
        let stamps = self.stamps();
        let changed = self.made().stamps != stamps;
        changed.then(|| {
            let protected = protected(&self.tls);
            (stamps, protected.and_then(|()| server_config(&self.tls)))
        })
    }

    /// Where the files can't be used what was made of them before stays, and the log tells, once for
    /// each change.
    fn take(&self, read: Option<Read>) {
        let Some((stamps, read)) = read else { return };
        let mut made = self.made();
        made.stamps = stamps;
        let again = made.config.is_some();
        match read {
            Ok(config) => {
                made.config = Some(Arc::new(config));
                if again {
                    tracing::info!(
                        endpoint = self.endpoint,
                        "the certificate has been read anew"
                    );
                }
            }
            Err(error) => {
                let until = match again {
                    true => "the one before stays in use until the files are right",
                    false => "nobody is served until the files are right",
                };
                tracing::error!(endpoint = self.endpoint, "{}", with_note(&error, until));
            }
        }
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamps(&self) -> Stamps {
        let files = [
            Some(&self.tls.cert),
            Some(&self.tls.key),
            self.tls.client_ca.as_ref(),
        ];
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(Stamp {
                file: (metadata.dev(), metadata.ino()),
                length: metadata.len(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            })
        };
        files.into_iter().flatten().map(stamp).collect()
    }
}

/// What a certificate calls its owner: its common name, if it has one and only one, and its
/// alternative names.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<CertificateName> {
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

    /// A file whose reading never ends, as on a mount that hangs: a pipe that nobody writes to.
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
        *certificates.looked.lock().await = long_ago;
        assert!(certificates.current().await.is_none());
        assert!(certificates.looked.try_lock().is_err(), "it goes on");
        assert!(certificates.current().await.is_none());
        // Lets go of the thread: its end of the pipe is opened once there is a writer.
        drop(std::fs::OpenOptions::new().write(true).open(&path).unwrap());
    }
}
