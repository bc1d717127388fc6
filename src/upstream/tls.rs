//! TLS towards kdb+: the authorities that hopend trusts, and the TLS sessions that it can resume.

use base::mutex::locked;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::{ClientConfig, RootCertStore};

use q_relay::crypto;

/// The most servers for which a configuration keeps the last session tickets.
const RESUMED_SERVERS: usize = 1_024;

/// Why there is no TLS configuration.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// The file of the authorities cannot be read, or is not PEM.
    #[error("{path}: {why}. Fix: put the PEM certificates of the authorities into ca_file.", path = .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why the file cannot be used.
        why: String,
    },
    /// The host has no trusted roots.
    #[error(
        "the system has no trusted roots ({0}). Fix: install ca-certificates or set ca_file on the endpoint."
    )]
    NoSystemRoots(String),
    /// rustls rejects the configuration.
    #[error("TLS: {0}")]
    Configuration(String),
}

/// The TLS configurations, by the path of the `ca_file` that each trusts. A configuration is made when
/// it is first needed. Connections that trust the same authorities resume each other's TLS sessions.
#[derive(Debug, Default)]
pub struct TlsConfigs {
    made: Mutex<HashMap<Option<PathBuf>, Arc<ClientConfig>>>,
}

impl TlsConfigs {
    /// The configuration that trusts the authorities in `ca_file`, or without a file the system's
    /// trusted roots. The configuration rejects certificates in a revocation list (CRL) that the file
    /// holds. Blocks while it reads files.
    ///
    /// # Errors
    /// The authorities cannot be used.
    pub fn config(&self, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
        let key = ca_file.map(Path::to_path_buf);
        let mut made = locked(&self.made);
        if let Some(config) = made.get(&key) {
            return Ok(Arc::clone(config));
        }
        let trusted = match ca_file {
            Some(path) => read_authorities(path)?,
            None => TrustedAuthorities {
                roots: system_roots()?,
                revoked: Vec::new(),
            },
        };
        let config = Arc::new(client_config(trusted)?);
        made.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// The trusted certificate authorities, and the certificates that they have revoked.
struct TrustedAuthorities {
    roots: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

fn client_config(trusted: TrustedAuthorities) -> Result<ClientConfig, TlsError> {
    let rejected = |error: &dyn std::fmt::Display| TlsError::Configuration(error.to_string());
    let provider = crypto::provider();
    let roots = Arc::new(trusted.roots);
    let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
    if !trusted.revoked.is_empty() {
        // A revocation list covers only its own authority. The other authorities in the file may have
        // no list.
        verifier = verifier
            .with_crls(trusted.revoked)
            .allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|error| rejected(&error))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| rejected(&error))?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(RESUMED_SERVERS);
    Ok(config)
}

fn read_authorities(path: &Path) -> Result<TrustedAuthorities, TlsError> {
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
    Ok(TrustedAuthorities {
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
