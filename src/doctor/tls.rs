//! The TLS stage: a handshake as the daemon makes it, and a diagnosis if it fails.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::certificate::CertificateSummary;
use super::diagnosis::diagnose;
use super::handshake::{PathAddress, shake_hands};
use super::runner::{StageFailure, StageFinding};
use base::error::ErrorKind;
use q_relay::tls_stream::TlsStream;

/// A certificate with fewer days left than this is a warning.
const MIN_DAYS_LEFT: i64 = 14;

/// Makes one handshake and describes the server's certificate. A failed handshake and its diagnosis take
/// up to `limit` each.
pub(super) async fn examine(
    to: PathAddress<'_>,
    sockets: &[SocketAddr],
    limit: Duration,
) -> Result<StageFinding<()>, StageFailure> {
    let tls = to
        .trust
        .config
        .as_ref()
        .map_err(|error| StageFailure::new(ErrorKind::Configuration, error.to_string(), ""))?;
    match timeout(limit, shake_hands(to.address, tls, sockets)).await {
        Ok(Ok(stream)) => Ok(describe(&stream)),
        Ok(Err(error)) => Err(diagnose(to, sockets, limit, Some(&error)).await),
        Err(_) => Err(diagnose(to, sockets, limit, None).await),
    }
}

fn describe(stream: &TlsStream) -> StageFinding<()> {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .map_or_else(String::new, |suite| format!(", {:?}", suite.suite()));
    let chain = connection.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain
        .iter()
        .filter_map(|der| CertificateSummary::parse(der))
        .collect();
    let now = SystemTime::now();
    let Some(server) = chain.first() else {
        return StageFinding::new((), format!("{version}{cipher}"));
    };
    // A chain is valid until the first of its certificates expires.
    let first_to_expire = chain
        .iter()
        .min_by_key(|certificate| certificate.days_left(now))
        .unwrap_or(server);
    let text = format!(
        "{version}{cipher}; for {}, by {}, until {}",
        server.host_list(),
        server.issuer,
        first_to_expire.last_day()
    );
    let finding = StageFinding::new((), text);
    let days = first_to_expire.days_left(now);
    if days >= MIN_DAYS_LEFT {
        return finding;
    }
    finding.warn(format!(
        "renew the certificate of {} there: {days} days are left",
        first_to_expire.subject
    ))
}
