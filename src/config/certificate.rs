//! What a certificate calls its owner, and the keys of an endpoint's `tls`.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject};

use super::reader::Value;
use super::{ServerTls, TlsVersion, server_tls};
use base::file_access::Protection;
use base::invalid::Invalid;

pub(super) const KEYS: &[&str] = &["cert", "key", "client_ca", "min_version"];

/// One name of a certificate, with its kind: the subject's common name, or an alternative name. A
/// name of one kind never stands for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// `CN=alice`
    Common(String),
    /// `DNS:feed.example`
    Dns(String),
    /// `email:alice@bank.example`
    Email(String),
    /// `URI:spiffe://bank.example/alice`
    Uri(String),
}

impl FromStr for CertificateName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        type Kind = fn(String) -> CertificateName;
        let kinds = [
            ("CN=", Self::Common as Kind),
            ("DNS:", Self::Dns),
            ("email:", Self::Email),
            ("URI:", Self::Uri),
        ];
        let found = kinds.iter().find_map(|(prefix, kind)| {
            let name = text.strip_prefix(prefix)?;
            let fine = (1..=256).contains(&name.len()) && !name.chars().any(char::is_control);
            fine.then(|| kind(name.to_owned()))
        });
        found.ok_or_else(|| {
            Invalid::new(
                "is not a certificate's name",
                "write \"CN=alice\", \"DNS:feed.example\", \"email:alice@bank.example\" or \
                 \"URI:spiffe://bank.example/alice\"",
            )
        })
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Common(name) => ("CN=", name),
            Self::Dns(name) => ("DNS:", name),
            Self::Email(name) => ("email:", name),
            Self::Uri(name) => ("URI:", name),
        };
        // Text from the other side may stand here.
        write!(f, "{kind}{}", name.escape_debug())
    }
}

/// Reads `tls` of an endpoint.
pub(super) fn read(value: &Value<'_>) -> Option<ServerTls> {
    let table = value.table("write { cert = \"/path\", key = \"/path\" }")?;
    table.only(KEYS);
    let cert = table
        .required("cert", "name the PEM file of the certificate")
        .and_then(|value| value.ca_file());
    let key = table
        .required("key", "name the PEM file of the certificate's key")
        .and_then(|value| {
            let (path, _) = value.file(Protection::FromChangeAndReading)?;
            match PrivateKeyDer::from_pem_file(&path) {
                Ok(_) => Some(path),
                Err(pem::Error::Io(error)) => {
                    value.problem(format!("can't be read: {error}"), "let hopend read it");
                    None
                }
                Err(_) => {
                    value.problem(
                        "the file holds no private key",
                        "name a PEM file with a key that no passphrase protects",
                    );
                    None
                }
            }
        });
    let client_ca = table.get("client_ca").map(|value| value.ca_file());
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let min_version = table
        .get("min_version")
        .map_or(Some(TlsVersion::Tls12), |value| value.word(&versions));
    let tls = ServerTls {
        cert: cert?,
        key: key?,
        client_ca: match client_ca {
            Some(path) => Some(path?),
            None => None,
        },
        min_version: min_version?,
    };
    // As it will be used: the key has to be the certificate's.
    if let Err(error) = server_tls::server_config(&tls) {
        value.problem(error.to_string(), "put a certificate and its own key there");
        return None;
    }
    Some(tls)
}
