//! Which certificates are believed, and the sessions that may be resumed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::{ClientConfig, RootCertStore};

use q_relay::crypto;

/// Servers whose last session ticket is kept, for each set of authorities.
const RESUMED_SERVERS: usize = 1_024;

/// Why no TLS configuration could be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read, or is no PEM.
    #[error("{path}: {why}. Fix: put the PEM certificates of the authorities into ca_file.", path = .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        why: String,
    },
    /// The host has no trusted roots.
    #[error(
        "the system has no trusted roots ({0}). Fix: install ca-certificates or set ca_file on the endpoint."
    )]
    NoSystemRoots(String),
    /// rustls refused the combination.
    #[error("TLS: {0}")]
    Configuration(String),
}

/// TLS configurations by the file of their authorities, made when first asked for: connections that
/// trust the same authorities resume each other's sessions.
#[derive(Debug, Default)]
pub struct TlsConfigs {
    made: Mutex<HashMap<Option<PathBuf>, Arc<ClientConfig>>>,
}

impl TlsConfigs {
    /// The configuration that trusts `ca_file`, or the system's roots without one. Certificates in a
    /// revocation list (CRL) that the file holds are not believed. Reads files; call it where
    /// blocking does no harm.
    pub fn config(&self, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
        let key = ca_file.map(Path::to_path_buf);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&key) {
            return Ok(Arc::clone(config));
        }
        let trust = match ca_file {
            Some(path) => trust_of_file(path)?,
            None => Trust {
                roots: system_roots()?,
                revoked: Vec::new(),
            },
        };
        let config = Arc::new(client_config(trust)?);
        made.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// Who is believed, and what not even of them.
struct Trust {
    roots: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

fn client_config(trust: Trust) -> Result<ClientConfig, TlsError> {
    let refused = |error: &dyn std::fmt::Display| TlsError::Configuration(error.to_string());
    let provider = crypto::provider();
    let roots = Arc::new(trust.roots);
    let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
    if !trust.revoked.is_empty() {
        // A list speaks for its own authority only; the others in the file may have none.
        verifier = verifier
            .with_crls(trust.revoked)
            .allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|error| refused(&error))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(RESUMED_SERVERS);
    Ok(config)
}

fn trust_of_file(path: &Path) -> Result<Trust, TlsError> {
    let failed = |why: String| TlsError::CaFile {
        path: path.to_path_buf(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))? {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("no certificate in it".into()));
    }
    let lists = CertificateRevocationListDer::pem_file_iter(path);
    let revoked = lists.and_then(Iterator::collect);
    Ok(Trust {
        roots,
        revoked: revoked.map_err(|e| failed(e.to_string()))?,
    })
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none found".into(), ToString::to_string);
        return Err(TlsError::NoSystemRoots(why));
    }
    Ok(roots)
}
