//! Reads the `tls` key of an endpoint and of the admin address.

use std::path::PathBuf;

use base::file_access::Protection;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject};

use super::document::{Choice, TomlValue};
use super::reported::Reported;
use crate::config::server_tls::{ServerTls, TlsVersion, server_config};

pub(in crate::config) const KEYS: &[&str] = &["cert", "key", "client_ca", "min_version"];

/// Reads the table, and checks that TLS can use the files.
pub(super) fn read(value: &TomlValue<'_>) -> Result<ServerTls, Reported> {
    let table = value.table("write { cert = \"/path\", key = \"/path\" }")?;
    table.reject_keys_except(KEYS);
    let cert = table
        .required("cert", "name the PEM file of the certificate")
        .and_then(|value| value.ca_file());
    let key = table
        .required("key", "name the PEM file of the certificate's key")
        .and_then(|value| key_file(&value));
    let client_ca = table.optional("client_ca", TomlValue::ca_file);
    let versions = [
        Choice::new("1.2", TlsVersion::Tls12),
        Choice::new("1.3", TlsVersion::Tls13),
    ];
    let min_version = table.with_default("min_version", TlsVersion::Tls12, |version| {
        version.one_of(&versions)
    });
    let tls = ServerTls {
        cert: cert?,
        key: key?,
        client_ca: client_ca?,
        min_version: min_version?,
    };
    // Only a complete TLS configuration shows whether the key belongs to the certificate.
    match server_config(&tls) {
        Ok(_) => Ok(tls),
        Err(error) => Err(value.problem(error.to_string(), "name a certificate and its own key")),
    }
}

fn key_file(value: &TomlValue<'_>) -> Result<PathBuf, Reported> {
    let path = value.file(Protection::FromChangeAndReading)?;
    match PrivateKeyDer::from_pem_file(&path) {
        Ok(_) => Ok(path),
        Err(pem::Error::Io(error)) => {
            Err(value.problem(format!("can't be read: {error}"), "let hopend read it"))
        }
        Err(_) => Err(value.problem(
            "the file holds no private key",
            "name a PEM file with a key that no passphrase protects",
        )),
    }
}
