//! Durations, sizes, names and URLs.

use std::net::IpAddr;
use std::time::Duration;

use jiff::SignedDuration;

use super::reader::Value;
use base::invalid::Invalid;

impl Value<'_> {
    /// A duration such as `"60s"` or `"1m 30s"`.
    pub(super) fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        if self.raw().is_integer() {
            self.wrong_type("a duration", "write the unit too, such as \"60s\"");
            return None;
        }
        self.check(duration(self.text()?, least, most))
    }

    /// A number of bytes, such as `1048576`, `"1MiB"` or `"1GB"`.
    pub(super) fn bytes(&self, least: u64, most: u64) -> Option<u64> {
        let number = if self.raw().is_str() {
            self.check(bytes(self.text()?))?
        } else {
            self.whole_number("a number of bytes", "write 65536 or \"64KiB\"")?
        };
        self.within(number, least, most)
    }

    /// A whole number.
    pub(super) fn count(&self, least: u64, most: u64) -> Option<u64> {
        let number = self.whole_number("a whole number", "write digits, without quotes")?;
        self.within(number, least, most)
    }

    /// Text of so many characters, all of which `allowed` accepts. It is not repeated.
    pub(super) fn made_of(
        &self,
        lengths: std::ops::RangeInclusive<usize>,
        allowed: fn(char) -> bool,
        remedy: &str,
    ) -> Option<String> {
        let text = self.text()?;
        if lengths.contains(&text.chars().count()) && text.chars().all(allowed) {
            return Some(text.to_owned());
        }
        self.problem("is not valid", remedy);
        None
    }

    /// `http://…` or `https://…`. The text is not repeated: a URL can hold a password.
    pub(super) fn url(&self) -> Option<String> {
        let text = self.text()?;
        let uri: Option<http::Uri> = text.parse().ok();
        let fine = uri.as_ref().is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri
                    .authority()
                    .is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'))
        });
        if !fine {
            self.problem(
                "is not a URL of an HTTP server",
                "write \"https://host\" or \"http://host:port\"",
            );
            return None;
        }
        let uri = uri?;
        if uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback) {
            self.problem(
                "sends AWS credentials over a network without TLS",
                "write \"https://host\"; \"http://\" is for 127.0.0.0/8, [::1] and localhost only",
            );
            return None;
        }
        Some(text.to_owned())
    }

    fn whole_number(&self, expected: &str, remedy: &str) -> Option<u64> {
        let Some(integer) = self.raw().as_integer() else {
            self.wrong_type(expected, remedy);
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if number.is_none() {
            self.problem(format!("must be {expected} and is out of range"), remedy);
        }
        number
    }

    fn within(&self, number: u64, least: u64, most: u64) -> Option<u64> {
        if number < least {
            self.problem("is too small", format!("write at least {least}"));
        } else if number > most {
            self.problem("is too large", format!("write at most {most}"));
        } else {
            return Some(number);
        }
        None
    }
}

/// Whether the host of a URL is this host's loopback, whatever the name service says.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address: Result<IpAddr, _> = address.parse();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Checks a name that stands in logs, metrics and command lines.
pub(super) fn name(text: &str) -> Result<(), Invalid> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&text.len()) && text.chars().all(fine) {
        return Ok(());
    }
    Err(Invalid::new(
        "is not a name",
        "write 1 to 64 letters, digits, dots, hyphens and underscores",
    ))
}

fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, Invalid> {
    let duration = text
        .parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            Invalid::new(
                "is not a duration",
                "write a number and a unit, such as \"60s\", \"15m\" or \"1m 30s\"",
            )
        })?;
    if duration < least {
        Err(Invalid::new(
            "is too short",
            format!("write at least \"{least:?}\""),
        ))
    } else if duration > most {
        Err(Invalid::new(
            "is too long",
            format!("write at most \"{most:?}\""),
        ))
    } else {
        Ok(duration)
    }
}

fn bytes(text: &str) -> Result<u64, Invalid> {
    let wrong = || {
        Invalid::new(
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
        _ => return Err(wrong()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_several_units() {
        let any = |text| duration(text, Duration::ZERO, Duration::MAX).ok();
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
