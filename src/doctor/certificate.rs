//! What a certificate says of itself.

use std::net::IpAddr;
use std::time::SystemTime;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::X509Name;

const DAY: i64 = 24 * 60 * 60;

/// One certificate, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Whose it is.
    pub(super) subject: String,
    /// Who signed it.
    pub(super) issuer: String,
    /// Hosts that it is good for (subject alternative names).
    pub(super) names: Vec<String>,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
}

impl Certificate {
    /// Reads DER; none where it is broken.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            names: names(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    pub(super) fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whole days until it ends; negative when it has ended.
    pub(super) fn days_left(&self, now: SystemTime) -> i64 {
        (self.not_after - seconds(now)).div_euclid(DAY)
    }

    pub(super) fn has_begun(&self, now: SystemTime) -> bool {
        self.not_before <= seconds(now)
    }

    pub(super) fn begins(&self) -> String {
        date(self.not_before)
    }

    pub(super) fn ends(&self) -> String {
        date(self.not_after)
    }

    /// The hosts, in few words.
    pub(super) fn hosts(&self) -> String {
        match &self.names[..] {
            [] => format!("no host (its subject is {})", self.subject),
            names => names.join(", "),
        }
    }
}

/// Today, for people.
pub(super) fn day(now: SystemTime) -> String {
    date(seconds(now))
}

/// The common name, else the whole name.
fn name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next();
    match common.and_then(|common| common.as_str().ok()) {
        Some(common) => format!("CN={common}"),
        None => name.to_string(),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let ip = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
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
        let read = Certificate::read(der.der()).unwrap();
        assert_eq!(read.subject, "CN=kdb");
        assert_eq!(read.hosts(), "kdb.example, 10.0.0.1, ::1");
        assert_eq!(
            (read.begins(), read.ends()),
            ("2020-01-01".into(), "2020-02-01".into())
        );
        assert!(read.is_self_signed());
        let january_31 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_580_428_800);
        assert!(read.has_begun(january_31));
        assert_eq!(read.days_left(january_31), 1);
        assert_eq!(read.days_left(january_31 + Duration::from_secs(86_401)), -1);
        assert_eq!(Certificate::read(b"no certificate"), None);
    }
}
