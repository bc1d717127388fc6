//! Reads single values: durations, sizes, numbers, restricted texts and URLs.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use base::invalid_value::InvalidValue;
use jiff::SignedDuration;

use super::document::TomlValue;
use super::reported::Reported;

impl TomlValue<'_> {
    /// A duration such as `"60s"` or `"1m 30s"`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, Reported> {
        if self.raw().is_integer() {
            return Err(self.wrong_type("a duration", "write the unit too, such as \"60s\""));
        }
        self.check(duration(self.text()?, range))
    }

    /// A number of bytes, such as `1048576`, `"1MiB"` or `"1GB"`.
    pub(super) fn bytes(&self, range: RangeInclusive<u64>) -> Result<u64, Reported> {
        let number = if self.raw().is_str() {
            self.check(bytes(self.text()?))?
        } else {
            self.whole_number("a number of bytes", "write 65536 or \"64KiB\"")?
        };
        self.in_range(number, range)
    }

    /// A whole number.
    pub(super) fn count<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Result<T, Reported> {
        let remedy = "write digits, without quotes";
        let number = self.whole_number("a whole number", remedy)?;
        let number = self.in_range(number, range)?;
        T::try_from(number).map_err(|_| self.problem("is out of range", remedy))
    }

    /// A text with a number of characters in `lengths`, all of which are allowed. An error does not repeat
    /// the text.
    pub(super) fn restricted_text(
        &self,
        lengths: RangeInclusive<usize>,
        is_allowed: fn(char) -> bool,
        remedy: &str,
    ) -> Result<String, Reported> {
        let text = self.text()?;
        if lengths.contains(&text.chars().count()) && text.chars().all(is_allowed) {
            return Ok(text.to_owned());
        }
        Err(self.problem("is not valid", remedy))
    }

    /// The URL of an HTTP server, without TLS only on this host's loopback. An error does not repeat the
    /// URL, which can contain a password.
    pub(super) fn url(&self) -> Result<String, Reported> {
        let text = self.text()?;
        let Some(uri) = http_server(text) else {
            return Err(self.problem(
                "is not a URL of an HTTP server",
                "write \"https://host\" or \"http://host:port\"",
            ));
        };
        if uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback) {
            return Err(self.problem(
                "sends AWS credentials over a network without TLS",
                "write \"https://host\"; \"http://\" is for 127.0.0.0/8, [::1] and localhost only",
            ));
        }
        Ok(text.to_owned())
    }

    fn whole_number(&self, expected: &str, remedy: &str) -> Result<u64, Reported> {
        let Some(integer) = self.raw().as_integer() else {
            return Err(self.wrong_type(expected, remedy));
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| self.problem(format!("must be {expected} and is out of range"), remedy))
    }

    fn in_range(&self, number: u64, range: RangeInclusive<u64>) -> Result<u64, Reported> {
        let (least, most) = range.into_inner();
        if number < least {
            Err(self.problem("is too small", format!("write at least {least}")))
        } else if number > most {
            Err(self.problem("is too large", format!("write at most {most}")))
        } else {
            Ok(number)
        }
    }
}

/// Parses a URL with the scheme `http` or `https`, a host, and no user or password.
fn http_server(text: &str) -> Option<http::Uri> {
    let uri: http::Uri = text.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority()?;
    let is_host = !authority.host().is_empty() && !authority.as_str().contains('@');
    (is_http && is_host).then_some(uri)
}

/// Whether the host of a URL is this host's loopback. The result does not depend on the name service.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address: Result<IpAddr, _> = address.parse();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Parses a duration, and checks its range.
fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, InvalidValue> {
    let duration = text
        .parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            InvalidValue::new(
                "is not a duration",
                "write a number and a unit, such as \"60s\", \"15m\" or \"1m 30s\"",
            )
        })?;
    let (least, most) = range.into_inner();
    if duration < least {
        Err(InvalidValue::new(
            "is too short",
            format!("write at least \"{least:?}\""),
        ))
    } else if duration > most {
        Err(InvalidValue::new(
            "is too long",
            format!("write at most \"{most:?}\""),
        ))
    } else {
        Ok(duration)
    }
}

/// Parses digits and a unit. Without a unit the number is one of bytes.
fn bytes(text: &str) -> Result<u64, InvalidValue> {
    let invalid = || {
        InvalidValue::new(
            "is not a number of bytes",
            "write 65536, \"64KiB\", \"64MiB\" or \"1GB\"",
        )
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(invalid()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_several_units() {
        let any = |text| duration(text, Duration::ZERO..=Duration::MAX).ok();
        assert_eq!(any("60s"), Some(Duration::from_secs(60)));
        assert_eq!(any("15m"), Some(Duration::from_secs(900)));
        assert_eq!(any("1m 30s"), Some(Duration::from_secs(90)));
        assert_eq!(any("100ms"), Some(Duration::from_millis(100)));
        for wrong in ["", "60", "-5s", "5s ago", "soon", "1 month"] {
            assert_eq!(any(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_loopback_is_reached_without_tls() {
        for host in ["127.0.0.1", "127.9.8.7", "[::1]", "localhost", "LocalHost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "10.0.0.1",
            "[::]",
            "0.0.0.0",
            "localhost.example",
            "127.0.0.1.example",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn sizes_take_units_of_both_kinds() {
        assert_eq!(bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(bytes("64MiB"), Ok(67_108_864));
        assert_eq!(bytes("64 kib"), Ok(65_536));
        assert_eq!(bytes("12"), Ok(12));
        for wrong in ["", "GB", "1.5GB", "-1", "99999999999TB", "1 furlong"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
