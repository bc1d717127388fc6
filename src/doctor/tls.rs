//! The TLS stage: the daemon's own verdict, and where that is no, which part of the handshake it is.
//!
//! The second look records the certificates that a verifier has refused, and the third finds out
//! whether plain kdb+ listens there. Neither sends anything but a handshake.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::certificate::{Certificate, day};
use super::recorder::Recorder;
use super::stage::{Finding, Trouble};
use crate::upstream::tls::TlsError;
use crate::upstream::{self, UpstreamError};
use base::address::Address;
use base::error::{ErrorKind, chain};
use q_relay::tls_stream::TlsStream;

/// A certificate that ends sooner wants attention.
const SOON_DAYS: i64 = 14;
/// Names of authorities that are listed.
const LISTED: usize = 3;
/// The record type of an alert: how TLS answers what is no TLS.
const ALERT: u8 = 0x15;

/// Who is believed, and where that is written.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) config: Result<Arc<ClientConfig>, TlsError>,
    pub(super) ca_file: Option<PathBuf>,
    /// Where `ca_file` stands: `[environment.prod]`, `endpoint "rdb"`.
    pub(super) table: String,
}

/// Where to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination<'a> {
    pub(super) address: &'a Address,
    /// Whether it stands in the configuration, and not in a connection string.
    pub(super) written: bool,
    pub(super) trust: &'a Trust,
}

/// One handshake, and what the certificate says.
pub(super) async fn examine(
    to: Destination<'_>,
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<Finding<()>, Trouble> {
    let tls = to
        .trust
        .config
        .as_ref()
        .map_err(|error| Trouble::new(ErrorKind::Configuration, error.to_string(), ""))?;
    match timeout(limit, shake_hands(to.address, tls, addresses)).await {
        Ok(Ok(stream)) => Ok(describe(&stream)),
        Ok(Err(error)) => Err(diagnose(to, addresses, limit, Some(&error)).await),
        Err(_) => Err(diagnose(to, addresses, limit, None).await),
    }
}

async fn shake_hands(
    address: &Address,
    tls: &Arc<ClientConfig>,
    addresses: &[SocketAddr],
) -> Result<TlsStream, UpstreamError> {
    let tcp = upstream::connect(address, addresses.to_vec()).await?;
    let mut stream = upstream::shake_hands(address, tls, tcp).await?;
    // That it was only a look matters to nobody but the peer's log.
    let _ = stream.shutdown().await;
    Ok(stream)
}

fn describe(stream: &TlsStream) -> Finding<()> {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let cipher = session
        .negotiated_cipher_suite()
        .map_or_else(String::new, |suite| format!(", {:?}", suite.suite()));
    let shown = session.peer_certificates().unwrap_or_default();
    let shown: Vec<_> = shown
        .iter()
        .filter_map(|der| Certificate::read(der))
        .collect();
    let now = SystemTime::now();
    let Some(first) = shown.first() else {
        return Finding::new((), format!("{version}{cipher}"));
    };
    // The chain ends with the first of its certificates that does.
    let ends = shown
        .iter()
        .min_by_key(|certificate| certificate.days_left(now));
    let ends = ends.unwrap_or(first);
    let days = ends.days_left(now);
    let said = format!(
        "{version}{cipher}; for {}, by {}, until {}",
        first.hosts(),
        first.issuer,
        ends.ends()
    );
    let found = Finding::new((), said);
    if days >= SOON_DAYS {
        return found;
    }
    found.but(format!(
        "renew the certificate of {} there: {days} days are left",
        ends.subject
    ))
}

/// Which part of the handshake fails. No error means that it took too long.
async fn diagnose(
    to: Destination<'_>,
    addresses: &[SocketAddr],
    limit: Duration,
    error: Option<&UpstreamError>,
) -> Trouble {
    let source = match error {
        Some(UpstreamError::Tls { source, .. }) => Some(source),
        Some(other) => return Trouble::new(other.kind(), chain(other), ""),
        None => None,
    };
    let inner = source.and_then(|source| source.get_ref()?.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => {
            let shown = timeout(limit, certificates(to.address, addresses)).await;
            of_certificate(to, why, &shown.unwrap_or_default())
        }
        Some(Error::AlertReceived(alert)) => of_alert(*alert),
        Some(Error::PeerIncompatible(why)) => Trouble::new(
            ErrorKind::Upstream,
            format!("no TLS in common: {why:?}"),
            "the other side has to offer TLS 1.2 or 1.3, with a cipher of today",
        ),
        Some(Error::NoApplicationProtocol) => of_alert(AlertDescription::NoApplicationProtocol),
        _ => {
            let spoken = timeout(
                limit.min(Duration::from_secs(2)),
                speak_q(to.address, addresses),
            );
            of_no_tls(to, source, spoken.await.unwrap_or(Plain::Silent))
        }
    }
}

fn of_certificate(to: Destination<'_>, why: &CertificateError, shown: &[Certificate]) -> Trouble {
    let now = SystemTime::now();
    let trouble = |kind, said: String, remedy: String| Trouble::new(kind, said, remedy);
    let Some(first) = shown.first() else {
        return trouble(
            ErrorKind::Upstream,
            format!("the certificate is not accepted: {why}"),
            "have one made that is valid".into(),
        );
    };
    let host = &to.address.host;
    match why {
        CertificateError::UnknownIssuer => untrusted(to, first, shown),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let said = format!("the certificate is for {}, not for {host}", first.hosts());
            if to.written {
                let remedy = format!(
                    "write one of its names in connect, or have a certificate made for {host}"
                );
                trouble(ErrorKind::Configuration, said, remedy)
            } else {
                let remedy = format!(
                    "something else answers for {host}: check this host's DNS and /etc/hosts, and \
                     what stands between"
                );
                trouble(ErrorKind::Upstream, said, remedy)
            }
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let ended = shown.iter().find(|shown| shown.days_left(now) < 0);
            let ended = ended.unwrap_or(first);
            trouble(
                ErrorKind::Upstream,
                format!(
                    "the certificate of {} expired on {}",
                    ended.subject,
                    ended.ends()
                ),
                format!(
                    "renew it there; if today is not {}, set this host's clock",
                    day(now)
                ),
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let early = shown.iter().find(|shown| !shown.has_begun(now));
            let early = early.unwrap_or(first);
            trouble(
                ErrorKind::Upstream,
                format!(
                    "the certificate of {} is valid from {}",
                    early.subject,
                    early.begins()
                ),
                format!(
                    "wait, or, if today is not {}, set this host's clock",
                    day(now)
                ),
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            trouble(
                ErrorKind::Upstream,
                format!("the certificate of {} is not for servers", first.subject),
                "have one made with extendedKeyUsage serverAuth".into(),
            )
        }
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => trouble(
            ErrorKind::Upstream,
            format!("the certificate of {} is an authority's own", first.subject),
            "have it sign one for the server (CA:FALSE), and show that there".into(),
        ),
        other => trouble(
            ErrorKind::Upstream,
            format!(
                "the certificate of {} is not accepted: {other}",
                first.subject
            ),
            "have another one made".into(),
        ),
    }
}

fn untrusted(to: Destination<'_>, first: &Certificate, shown: &[Certificate]) -> Trouble {
    let last = shown.last().unwrap_or(first);
    let issuer = &last.issuer;
    let Trust { ca_file, table, .. } = to.trust;
    let (store, remedy) = match ca_file {
        Some(file) => (
            format!(
                "ca_file of {table} ({}) holds {}",
                file.display(),
                authorities(file)
            ),
            format!(
                "put the PEM certificate of {issuer} into {}, or set ca_file of {table} to its file",
                file.display()
            ),
        ),
        None => (
            "it is none of the system's roots".into(),
            format!("set ca_file of {table} to the PEM file of {issuer}"),
        ),
    };
    let who = if first.is_self_signed() {
        format!("the certificate {} is signed by itself", first.subject)
    } else {
        format!(
            "the certificate of {} leads to {issuer}, who is not trusted",
            first.subject
        )
    };
    Trouble::new(ErrorKind::Configuration, format!("{who}: {store}"), remedy)
}

/// Whom a file of authorities holds.
fn authorities(file: &std::path::Path) -> String {
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|der| Certificate::read(&der))
        .map(|certificate| certificate.subject)
        .collect();
    match all.len() {
        0 => "nobody".into(),
        count if count > LISTED => {
            format!("{} and {} more", all[..LISTED].join(", "), count - LISTED)
        }
        _ => all.join(", "),
    }
}

fn of_alert(alert: AlertDescription) -> Trouble {
    let remedy = match alert {
        AlertDescription::ProtocolVersion => "have the other side offer TLS 1.2 or 1.3",
        AlertDescription::NoApplicationProtocol => {
            "have the proxy there pass TCP through, as it wants ALPN, which q has none of"
        }
        AlertDescription::CertificateRequired | AlertDescription::BadCertificate => {
            "let the other side ask for no client's certificate, as hopend has none"
        }
        AlertDescription::UnrecognisedName => {
            "check the host, and the proxy's names, as nobody there answers to this name"
        }
        _ => "read the log of the other side, as it ended the handshake",
    };
    Trouble::new(
        ErrorKind::Upstream,
        format!("the other side refused the handshake: {alert:?}"),
        remedy,
    )
}

/// How a peer that shows no TLS takes a login of nobody, without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    /// It answers with a capability byte.
    Answers,
    /// It closes.
    Closes,
    /// An alert: it is TLS after all.
    Alerts,
    /// It waits for more.
    Silent,
}

fn of_no_tls(to: Destination<'_>, error: Option<&io::Error>, plain: Plain) -> Trouble {
    let what = match error {
        Some(error) => format!("no TLS handshake: {}", chain(error)),
        None => "no answer to the TLS handshake".into(),
    };
    let bare = Address {
        tls: false,
        ..to.address.clone()
    };
    let plain_kdb = if to.written {
        format!("start it with -E 1 or 2 for TLS, or write {bare} for kdb+ without")
    } else {
        "check what answers there in place of kdb+, as the connection string promises TLS".into()
    };
    let kind = match (to.written, plain) {
        (true, Plain::Answers | Plain::Closes) => ErrorKind::Configuration,
        _ => ErrorKind::Upstream,
    };
    let (guess, remedy) = match plain {
        Plain::Answers => ("kdb+ without TLS listens there", plain_kdb),
        Plain::Closes => (
            "it takes a login without TLS and closes, as plain kdb+ does that refuses nobody's",
            plain_kdb,
        ),
        Plain::Alerts => (
            "yet it speaks TLS to others",
            "look at the log of the other side".into(),
        ),
        Plain::Silent => (
            "it takes connections and says nothing",
            "see what listens there: a proxy without a backend, or a process that hangs".into(),
        ),
    };
    Trouble::new(kind, format!("{what}: {guess}"), remedy)
}

/// `:` and a capability: shorter than a TLS record's head, so that TLS waits for more where q
/// answers or closes. It is no login of anybody's.
async fn speak_q(address: &Address, addresses: &[SocketAddr]) -> Plain {
    let Ok(mut tcp) = upstream::connect(address, addresses.to_vec()).await else {
        return Plain::Silent;
    };
    let mut answer = [0];
    if tcp.write_all(b":\x06\0").await.is_err() {
        return Plain::Silent;
    }
    match tcp.read(&mut answer).await {
        Ok(0) => Plain::Closes,
        Ok(_) if answer[0] == ALERT => Plain::Alerts,
        Ok(_) => Plain::Answers,
        Err(_) => Plain::Silent,
    }
}

/// The certificates that are shown, whoever signed them.
async fn certificates(address: &Address, addresses: &[SocketAddr]) -> Vec<Certificate> {
    let provider = q_relay::crypto::provider();
    let recorder = Arc::new(Recorder::new(Arc::clone(&provider)));
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let Ok(config) = config else {
        return Vec::new();
    };
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as _)
        .with_no_client_auth();
    // It ends before anything but the handshake is sent.
    let _ = shake_hands(address, &Arc::new(config), addresses).await;
    let shown = recorder.shown();
    let shown = shown.iter();
    shown.filter_map(|der| Certificate::read(der)).collect()
}
