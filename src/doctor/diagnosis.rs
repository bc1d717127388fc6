//! The diagnosis of a failed TLS handshake: which part of it failed, and the remedy.
//!
//! If the verifier rejected the certificates, a second handshake records them. If the server sent no TLS,
//! a third connection finds out whether kdb+ without TLS listens there. Neither connection carries a login.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, CertificateError, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::certificate::{CertificateSummary, day};
use super::handshake::{PathAddress, TrustStore, record_certificates};
use super::runner::StageFailure;
use crate::upstream::{self, UpstreamError};
use base::error::{ErrorKind, chain};
use base::kdb_address::KdbAddress;

/// The remedy if the server requires a client certificate.
pub(super) const CLIENT_CERTIFICATE_REMEDY: &str =
    "configure the server to require no client certificate, as hopend has none";

/// The most authorities of a `ca_file` that a report names.
const LISTED_AUTHORITIES: usize = 3;
/// The record type of a TLS alert. A TLS server answers plain q with such a record.
pub(super) const TLS_ALERT: u8 = 0x15;
/// How long a server may take to answer bytes of plain q.
const PLAIN_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Finds the part of the handshake that failed. `error` is `None` if the handshake took too long. The
/// diagnosis takes up to `limit`.
pub(super) async fn diagnose(
    to: PathAddress<'_>,
    sockets: &[SocketAddr],
    limit: Duration,
    error: Option<&UpstreamError>,
) -> StageFailure {
    let source = match error {
        Some(UpstreamError::Tls { source, .. }) => Some(source),
        Some(other) => return StageFailure::new(other.kind(), chain(other), ""),
        None => None,
    };
    let tls_error = source.and_then(|source| source.get_ref()?.downcast_ref::<Error>());
    match tls_error {
        Some(Error::InvalidCertificate(error)) => {
            let chain = timeout(limit, record_certificates(to.address, sockets)).await;
            explain_certificate(to, error, &chain.unwrap_or_default())
        }
        Some(Error::AlertReceived(alert)) => explain_alert(*alert),
        Some(Error::PeerIncompatible(reason)) => StageFailure::new(
            ErrorKind::Upstream,
            format!("hopend and the server have no TLS version or cipher in common: {reason:?}"),
            "configure the server for TLS 1.2 or 1.3 with a current cipher",
        ),
        Some(Error::NoApplicationProtocol) => {
            explain_alert(AlertDescription::NoApplicationProtocol)
        }
        _ => {
            let limit = limit.min(PLAIN_ANSWER_LIMIT);
            let answer = timeout(limit, send_plain_q(to.address, sockets)).await;
            explain_no_tls(to, source, answer.unwrap_or(PlainAnswer::Silence))
        }
    }
}

fn explain_certificate(
    to: PathAddress<'_>,
    error: &CertificateError,
    chain: &[CertificateSummary],
) -> StageFailure {
    let now = SystemTime::now();
    let failure = |kind, cause: String, remedy: String| StageFailure::new(kind, cause, remedy);
    let Some(server) = chain.first() else {
        return failure(
            ErrorKind::Upstream,
            format!("the certificate is not accepted: {error}"),
            "give the server a valid certificate".into(),
        );
    };
    match error {
        CertificateError::UnknownIssuer => explain_unknown_issuer(to, server, chain),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            explain_wrong_host(to, server)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let expired = chain.iter().find(|one| one.days_left(now) < 0);
            let expired = expired.unwrap_or(server);
            failure(
                ErrorKind::Upstream,
                format!(
                    "the certificate of {} expired on {}",
                    expired.subject,
                    expired.last_day()
                ),
                format!(
                    "renew it there; if today is not {}, set this host's clock",
                    day(now)
                ),
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let early = chain.iter().find(|one| !one.has_started(now));
            let early = early.unwrap_or(server);
            failure(
                ErrorKind::Upstream,
                format!(
                    "the certificate of {} is valid from {}",
                    early.subject,
                    early.first_day()
                ),
                format!(
                    "wait, or, if today is not {}, set this host's clock",
                    day(now)
                ),
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            failure(
                ErrorKind::Upstream,
                format!("the certificate of {} is not for servers", server.subject),
                "make one with extendedKeyUsage serverAuth".into(),
            )
        }
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => failure(
            ErrorKind::Upstream,
            format!(
                "the certificate of {} belongs to an authority, not to a server",
                server.subject
            ),
            "let that authority sign one for the server (CA:FALSE), and install that there".into(),
        ),
        other => failure(
            ErrorKind::Upstream,
            format!(
                "the certificate of {} is not accepted: {other}",
                server.subject
            ),
            "give the server another certificate".into(),
        ),
    }
}

fn explain_wrong_host(to: PathAddress<'_>, server: &CertificateSummary) -> StageFailure {
    let host = &to.address.host;
    let (kind, remedy) = if to.is_configured {
        (
            ErrorKind::Configuration,
            format!("write one of its names in connect, or make a certificate for {host}"),
        )
    } else {
        (
            ErrorKind::Upstream,
            format!(
                "another server answers for {host}: check this host's DNS and /etc/hosts, and the proxies \
                 on the way"
            ),
        )
    };
    StageFailure::new(
        kind,
        format!(
            "the certificate is for {}, not for {host}",
            server.host_list()
        ),
        remedy,
    )
}

fn explain_unknown_issuer(
    to: PathAddress<'_>,
    server: &CertificateSummary,
    chain: &[CertificateSummary],
) -> StageFailure {
    let issuer = &chain.last().unwrap_or(server).issuer;
    let TrustStore {
        ca_file,
        config_table,
        ..
    } = to.trust;
    let (store, remedy) = match ca_file {
        Some(file) => (
            format!(
                "ca_file of {config_table} ({}) holds {}",
                file.display(),
                list_authorities(file)
            ),
            format!(
                "put the PEM certificate of {issuer} into {}, or set ca_file of {config_table} to its file",
                file.display()
            ),
        ),
        None => (
            "the system's authorities do not include it".into(),
            format!("set ca_file of {config_table} to the PEM file of {issuer}"),
        ),
    };
    let cause = if server.is_self_signed() {
        format!("the certificate {} is signed by itself", server.subject)
    } else {
        format!(
            "the certificate of {} leads to {issuer}, which is not trusted",
            server.subject
        )
    };
    StageFailure::new(
        ErrorKind::Configuration,
        format!("{cause}: {store}"),
        remedy,
    )
}

/// The names of the authorities in a PEM file, shortened if there are many.
fn list_authorities(file: &Path) -> String {
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|der| CertificateSummary::parse(&der))
        .map(|certificate| certificate.subject)
        .collect();
    match all.len() {
        0 => "no certificate".into(),
        count if count > LISTED_AUTHORITIES => {
            format!(
                "{} and {} more",
                all[..LISTED_AUTHORITIES].join(", "),
                count - LISTED_AUTHORITIES
            )
        }
        _ => all.join(", "),
    }
}

fn explain_alert(alert: AlertDescription) -> StageFailure {
    let remedy = match alert {
        AlertDescription::ProtocolVersion => "configure the server for TLS 1.2 or 1.3",
        AlertDescription::NoApplicationProtocol => {
            "configure the proxy there to pass TCP through: it requires ALPN, which q does not have"
        }
        AlertDescription::CertificateRequired | AlertDescription::BadCertificate => {
            CLIENT_CERTIFICATE_REMEDY
        }
        AlertDescription::UnrecognisedName => {
            "check the host, and the names that the proxy serves: it does not serve this one"
        }
        _ => "read the log of the server, which ended the handshake",
    };
    StageFailure::new(
        ErrorKind::Upstream,
        format!("the server refused the handshake: {alert:?}"),
        remedy,
    )
}

/// How a server that sent no TLS answers bytes of plain q.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlainAnswer {
    /// The server sends a capability byte, as kdb+ does.
    Capability,
    /// The server closes the connection, as kdb+ with passwords does.
    Close,
    /// The server sends a TLS alert, so it speaks TLS after all.
    TlsAlert,
    /// The server sends nothing, or the connection fails.
    Silence,
}

fn explain_no_tls(
    to: PathAddress<'_>,
    error: Option<&io::Error>,
    answer: PlainAnswer,
) -> StageFailure {
    let cause = match error {
        Some(error) => format!("no TLS handshake: {}", chain(error)),
        None => "no answer to the TLS handshake".into(),
    };
    let without_tls = KdbAddress {
        tls: false,
        ..to.address.clone()
    };
    let plain_kdb_remedy = if to.is_configured {
        format!("start it with -E 1 or 2 for TLS, or write {without_tls} for kdb+ without TLS")
    } else {
        "check which server answers there instead of kdb+, as the connection string promises TLS"
            .into()
    };
    let kind = match (to.is_configured, answer) {
        (true, PlainAnswer::Capability | PlainAnswer::Close) => ErrorKind::Configuration,
        _ => ErrorKind::Upstream,
    };
    let (guess, remedy) = match answer {
        PlainAnswer::Capability => ("kdb+ without TLS listens there", plain_kdb_remedy),
        PlainAnswer::Close => (
            "the server reads a login without TLS and closes, as plain kdb+ with passwords does",
            plain_kdb_remedy,
        ),
        PlainAnswer::TlsAlert => (
            "yet the server speaks TLS to others",
            "look at the log of the server".into(),
        ),
        PlainAnswer::Silence => (
            "the server accepts connections and sends nothing",
            "see what listens there: a proxy without a backend, or a process that hangs".into(),
        ),
    };
    StageFailure::new(kind, format!("{cause}: {guess}"), remedy)
}

/// Sends an empty user, a capability and the final zero byte. That is shorter than a TLS record's
/// header, so a TLS server waits for more, while kdb+ answers or closes. The bytes carry no user name
/// and no password.
async fn send_plain_q(address: &KdbAddress, sockets: &[SocketAddr]) -> PlainAnswer {
    let Ok(mut tcp) = upstream::connect(address, sockets.to_vec()).await else {
        return PlainAnswer::Silence;
    };
    let mut answer = [0];
    if tcp.write_all(b":\x06\0").await.is_err() {
        return PlainAnswer::Silence;
    }
    match tcp.read(&mut answer).await {
        Ok(0) => PlainAnswer::Close,
        Ok(_) if answer[0] == TLS_ALERT => PlainAnswer::TlsAlert,
        Ok(_) => PlainAnswer::Capability,
        Err(_) => PlainAnswer::Silence,
    }
}
