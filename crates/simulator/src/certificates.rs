//! Certificate authorities and server certificates, generated for one run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::SimError;

/// The names in a cluster's certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The validity of a certificate.
#[derive(Debug, Clone, Copy)]
enum Validity {
    Long,
    Over,
    Ahead,
    EndsSoon,
    Revoked,
}

/// The serial number of the revoked certificate.
const REVOKED: u64 = 4_711;

/// Five days and an hour, so that a count of whole days gives five.
const FIVE_DAYS: Duration = Duration::from_secs(5 * 24 * 60 * 60 + 60 * 60);

/// The flaw of a certificate that a listener presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateFlaw {
    /// An authority signed it that is not in the simulator's CA file.
    OtherAuthority,
    /// It names `elsewhere.example` only.
    OtherHost,
    /// It expired in 2020.
    Expired,
    /// It becomes valid in 2099.
    NotYetValid,
    /// It expires in five days.
    EndsSoon,
    /// The authority's revocation list contains it.
    Revoked,
}

/// The TLS configurations of the listeners.
pub(crate) struct Certificates {
    /// The authority's certificate and its revocation list in PEM, for `ca_file`.
    pub(crate) ca_pem: String,
    /// With a valid certificate.
    pub(crate) good: Arc<ServerConfig>,
    flawed: [(CertificateFlaw, Arc<ServerConfig>); 6],
}

impl Certificates {
    pub(crate) fn generate() -> Result<Self, SimError> {
        let (ca, mut ca_pem) = authority("hopend simulator CA")?;
        ca_pem.push_str(&revoked(&ca)?);
        let (other, _) = authority("another CA")?;
        Ok(Self {
            ca_pem,
            good: server(&ca, &NAMES, Validity::Long)?,
            flawed: [
                (
                    CertificateFlaw::OtherAuthority,
                    server(&other, &NAMES, Validity::Long)?,
                ),
                (
                    CertificateFlaw::OtherHost,
                    server(&ca, &["elsewhere.example"], Validity::Long)?,
                ),
                (
                    CertificateFlaw::Expired,
                    server(&ca, &NAMES, Validity::Over)?,
                ),
                (
                    CertificateFlaw::NotYetValid,
                    server(&ca, &NAMES, Validity::Ahead)?,
                ),
                (
                    CertificateFlaw::EndsSoon,
                    server(&ca, &NAMES, Validity::EndsSoon)?,
                ),
                (
                    CertificateFlaw::Revoked,
                    server(&ca, &NAMES, Validity::Revoked)?,
                ),
            ],
        })
    }

    pub(crate) fn flawed(&self, flaw: CertificateFlaw) -> Arc<ServerConfig> {
        self.flawed
            .iter()
            .find(|(with, _)| *with == flaw)
            .map_or_else(|| self.good.clone(), |(_, config)| config.clone())
    }
}

fn authority(name: &str) -> Result<(Issuer<'static, KeyPair>, String), SimError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}

/// The authority's revocation list in PEM.
fn revoked(authority: &Issuer<'static, KeyPair>) -> Result<String, SimError> {
    let began = date_time_ymd(2025, 1, 1);
    let list = CertificateRevocationListParams {
        this_update: began,
        next_update: date_time_ymd(2099, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: REVOKED.into(),
            revocation_time: began,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(authority)?.pem()?)
}

fn server(
    authority: &Issuer<'static, KeyPair>,
    names: &[&str],
    life: Validity,
) -> Result<Arc<ServerConfig>, SimError> {
    let key = KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let common_name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    match life {
        Validity::Long => {}
        Validity::Over => {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        Validity::Ahead => params.not_before = date_time_ymd(2099, 1, 1),
        Validity::Revoked => params.serial_number = Some(REVOKED.into()),
        Validity::EndsSoon => {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            params.not_after = date_time_ymd(1970, 1, 1) + now + FIVE_DAYS;
        }
    }
    let certificate: CertificateDer<'static> = params.signed_by(&key, authority)?.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}
