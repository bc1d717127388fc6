//! TLS between clients and an endpoint.

use std::path::PathBuf;

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
