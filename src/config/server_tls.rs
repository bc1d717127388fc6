//! TLS between clients and an endpoint: the files that a `tls` table names, and rustls configurations made
//! of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::file_access::{self, FileAccessError, Protection};
use q_relay::crypto;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// The files with which an endpoint speaks TLS to its clients, and its requirements for clients.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// The PEM file of the endpoint's certificate and of the intermediate certificates.
    pub cert: PathBuf,
    /// The PEM file of the certificate's private key.
    pub key: PathBuf,
    /// The PEM file of the authorities that may sign a client's certificate. `None` requires no
    /// certificate from clients.
    pub client_ca: Option<PathBuf>,
    /// The oldest version of TLS that the endpoint accepts.
    pub min_version: TlsVersion,
}

impl ServerTls {
    /// Whether a client has to present a certificate.
    pub(super) fn requires_client_certificate(&self) -> bool {
        self.client_ca.is_some()
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The reason why an endpoint cannot speak TLS to its clients.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerTlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{path} can't be used", path = .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    /// Other accounts can change a file, or read the key.
    #[error(transparent)]
    Exposed(FileAccessError),
    /// rustls rejects the certificate or the key, for example because they do not belong together.
    #[error("the certificate {cert} and the key {key} can't be used", cert = .cert.display(), key = .key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// The authorities that sign clients' certificates cannot be used.
    #[error("the authorities in {path} can't be used: {why}", path = .path.display())]
    ClientCa { path: PathBuf, why: String },
}

/// Reads the files as they are now. Blocks.
///
/// # Errors A file cannot be used.
pub(crate) fn server_config(tls: &ServerTls) -> Result<ServerConfig, ServerTlsError> {
    let pair = |source| ServerTlsError::Pair {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        source,
    };
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| ServerTlsError::File {
        path: tls.key.clone(),
        source,
    })?;
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(versions)
        .map_err(pair)?;
    let Some(authorities) = &tls.client_ca else {
        let builder = builder.with_no_client_auth();
        return builder.with_single_cert(chain, key).map_err(pair);
    };
    let mut config = builder
        .with_client_cert_verifier(client_verifier(authorities)?)
        .with_single_cert(chain, key)
        .map_err(pair)?;
    // A resumed session shows no certificate. Each hopen has to show one that is valid now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Checks that no other account can change the files or read the key. A file that does not exist is no
/// error here: [`server_config`] reports it.
///
/// # Errors
/// Another account can.
pub(crate) fn check_access(tls: &ServerTls) -> Result<(), ServerTlsError> {
    let public = [Some(&tls.cert), tls.client_ca.as_ref()];
    let public = public.into_iter().flatten();
    let files = public.map(|path| (path, Protection::FromChange));
    for (path, protection) in files.chain([(&tls.key, Protection::FromChangeAndReading)]) {
        match file_access::check(path, protection) {
            Err(exposed) if !exposed.is_inaccessible() => {
                return Err(ServerTlsError::Exposed(exposed));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Accepts clients with a certificate that an authority in the file has signed.
fn client_verifier(authorities: &Path) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    let failed = |why: String| ServerTlsError::ClientCa {
        path: authorities.to_path_buf(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider())
        .build()
        .map_err(|error| failed(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerTlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| ServerTlsError::File {
            path: path.to_path_buf(),
            source,
        })
}
