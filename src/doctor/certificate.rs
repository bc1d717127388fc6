//! Reads the fields of an X.509 certificate that a report names.

use std::net::IpAddr;
use std::time::SystemTime;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::X509Name;

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

/// The fields of a certificate that a report names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateSummary {
    /// `CN=` and the common name, or the whole distinguished name if it has no common name.
    pub(super) subject: String,
    /// The name of the authority that signed the certificate, in the same form.
    pub(super) issuer: String,
    /// The host names and IP addresses that the certificate covers (subject alternative names).
    pub(super) hosts: Vec<String>,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
}

impl CertificateSummary {
    /// Reads a certificate in DER form. Returns `None` if it is malformed.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: common_name(certificate.subject()),
            issuer: common_name(certificate.issuer()),
            hosts: host_names(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Whether subject and issuer have the same name.
    pub(super) fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whole days until the certificate expires; negative if it has expired.
    pub(super) fn days_left(&self, now: SystemTime) -> i64 {
        (self.not_after - seconds(now)).div_euclid(DAY)
    }

    /// Whether its validity has started at `now`.
    pub(super) fn has_started(&self, now: SystemTime) -> bool {
        self.not_before <= seconds(now)
    }

    /// The first day of its validity, as `2026-11-28`.
    pub(super) fn first_day(&self) -> String {
        date(self.not_before)
    }

    /// The last day of its validity, as `2026-11-28`.
    pub(super) fn last_day(&self) -> String {
        date(self.not_after)
    }

    /// The covered hosts, separated by commas.
    pub(super) fn host_list(&self) -> String {
        match &self.hosts[..] {
            [] => format!("no host (its subject is {})", self.subject),
            hosts => hosts.join(", "),
        }
    }
}

/// The day of `now` in UTC, as `2026-11-28`.
pub(super) fn day(now: SystemTime) -> String {
    date(seconds(now))
}

/// `CN=` and the common name, or the whole distinguished name if it has no common name.
fn common_name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next();
    match common.and_then(|common| common.as_str().ok()) {
        Some(common) => format!("CN={common}"),
        None => name.to_string(),
    }
}

fn host_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let ipv4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let ip = ipv4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                ip.ok().map(|ip| ip.to_string())
            }
            _ => None,
        })
        .collect()
}

fn seconds(time: SystemTime) -> i64 {
    Timestamp::try_from(time).map_or(0, Timestamp::as_second)
}

fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .map_or_else(|_| "?".into(), |time| time.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn names_and_days_are_read() {
        let hosts = ["kdb.example", "10.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, "kdb");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = CertificateSummary::parse(der.der()).unwrap();
        assert_eq!(certificate.subject, "CN=kdb");
        assert_eq!(certificate.host_list(), "kdb.example, 10.0.0.1, ::1");
        assert_eq!(
            (certificate.first_day(), certificate.last_day()),
            ("2020-01-01".into(), "2020-02-01".into())
        );
        assert!(certificate.is_self_signed());
        let january_31 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_580_428_800);
        assert!(certificate.has_started(january_31));
        assert_eq!(certificate.days_left(january_31), 1);
        assert_eq!(
            certificate.days_left(january_31 + Duration::from_secs(86_401)),
            -1
        );
        assert_eq!(CertificateSummary::parse(b"no certificate"), None);
    }
}
