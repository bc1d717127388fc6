//! TLS handshakes with one address, as the daemon makes them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;

use super::certificate::CertificateSummary;
use super::recorder::CertificateRecorder;
use crate::upstream::tls::{TlsConfigs, TlsError};
use crate::upstream::{self, UpstreamError};
use base::kdb_address::KdbAddress;
use q_relay::tls_stream::TlsStream;

/// The certificate authorities that hopend trusts for a target, and the key that names them.
#[derive(Debug, Clone)]
pub(super) struct TrustStore {
    /// The TLS configuration with these authorities, or the reason why hopend cannot make one.
    pub(super) config: Result<Arc<ClientConfig>, TlsError>,
    /// The file of the authorities; the system's authorities if `None`.
    pub(super) ca_file: Option<PathBuf>,
    /// The part of the configuration that `ca_file` belongs to: `[environment.prod]`, `endpoint "rdb"`.
    pub(super) config_table: String,
}

/// An address of kdb+ to examine.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathAddress<'a> {
    pub(super) address: &'a KdbAddress,
    /// Whether the address stands in the configuration (`connect`). Otherwise a connection string or a
    /// login command supplied it, and the administrator cannot correct it.
    pub(super) is_configured: bool,
    pub(super) trust: &'a TrustStore,
}

impl TrustStore {
    /// Reads the authorities. The read may block, so it runs on a thread for such work.
    pub(super) async fn load(ca_file: Option<PathBuf>, config_table: String) -> Self {
        let file = ca_file.clone();
        let loaded =
            tokio::task::spawn_blocking(move || TlsConfigs::default().config(file.as_deref()));
        let config = loaded
            .await
            .unwrap_or_else(|panic| Err(TlsError::Configuration(panic.to_string())));
        Self {
            config,
            ca_file,
            config_table,
        }
    }
}

/// Connects to one of the sockets and makes a TLS handshake. Sends no data after it.
pub(super) async fn shake_hands(
    address: &KdbAddress,
    tls: &Arc<ClientConfig>,
    sockets: &[SocketAddr],
) -> Result<TlsStream, UpstreamError> {
    let tcp = upstream::connect(address, sockets.to_vec()).await?;
    let mut stream = upstream::shake_hands(address, tls, tcp).await?;
    // The close alert only keeps a warning out of the server's log.
    let _ = stream.shutdown().await;
    Ok(stream)
}

/// Records the certificates that the server shows, trusted or not. Empty if the handshake fails before
/// the server has shown any.
pub(super) async fn record_certificates(
    address: &KdbAddress,
    sockets: &[SocketAddr],
) -> Vec<CertificateSummary> {
    let provider = q_relay::crypto::provider();
    let recorder = Arc::new(CertificateRecorder::new(Arc::clone(&provider)));
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let Ok(config) = config else {
        return Vec::new();
    };
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as _)
        .with_no_client_auth();
    // The recorder has the certificates even if the handshake fails after they were shown.
    let _ = shake_hands(address, &Arc::new(config), sockets).await;
    let recorded = recorder.recorded();
    recorded
        .iter()
        .filter_map(|der| CertificateSummary::parse(der))
        .collect()
}
