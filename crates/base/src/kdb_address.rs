//! The TCP address of a kdb+ process, in the form that q uses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::invalid_value::InvalidValue;

/// The TCP address that hopend dials to reach a kdb+ process: `:tcps://host:port` or `:host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KdbAddress {
    /// Whether the connection is TLS.
    pub tls: bool,
    /// A host name or an IP address. An IPv6 address has no brackets here.
    pub host: String,
    /// The TCP port, never 0.
    pub port: u16,
}

impl fmt::Display for KdbAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { ":tcps://" } else { ":" };
        if self.host.contains(':') {
            write!(f, "{scheme}[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}{}:{}", self.host, self.port)
        }
    }
}

/// Parses `:tcps://host:port` or `:host:port`. The leading colon is optional. An IPv6 address needs
/// brackets.
///
/// An error never repeats the text, because a user may have written a whole connection string with its
/// password here by mistake.
impl FromStr for KdbAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let rest = text.strip_prefix(':').unwrap_or(text);
        if rest.starts_with("unix:") {
            return Err(InvalidValue::new(
                "is a Unix socket, which hopend does not dial",
                "write \":host:port\", such as \":localhost:5010\"; a host named unix needs its domain or IP address",
            ));
        }
        let (tls, rest) = match rest.split_once("://") {
            Some(("tcps", rest)) => (true, rest),
            Some(_) => {
                return Err(InvalidValue::new(
                    "has a scheme other than tcps",
                    "write \":tcps://host:port\", or \":host:port\" without TLS",
                ));
            }
            None => (false, rest),
        };
        let (host, rest) = split_host(rest)?;
        let mut parts = rest.split(':');
        let port = parts.next().unwrap_or("");
        if parts.next().is_some() {
            return Err(InvalidValue::new(
                "holds more than a host and a port",
                "write \":tcps://host:port\" here, and the user and password file into `login`",
            ));
        }
        match port.parse::<u16>() {
            Ok(port @ 1..) if !host.is_empty() => Ok(Self {
                tls,
                host: host.to_owned(),
                port,
            }),
            _ => Err(InvalidValue::new(
                "is not a host and a port",
                "write \":tcps://host:port\", or \":host:port\" without TLS",
            )),
        }
    }
}

/// Splits `host:port` into the host and the text after the first colon that is not in brackets.
fn split_host(host_and_port: &str) -> Result<(&str, &str), InvalidValue> {
    if let Some(rest) = host_and_port.strip_prefix('[') {
        return match rest.split_once("]:") {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => Ok((host, port)),
            _ => Err(InvalidValue::new(
                "holds brackets without an IPv6 address and a port",
                "write \":tcps://[2001:db8::1]:5010\"",
            )),
        };
    }
    let (host, port) = host_and_port.split_once(':').unwrap_or((host_and_port, ""));
    let is_host_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.len() > 253 || !host.chars().all(is_host_character) {
        return Err(InvalidValue::new(
            "has a host that is neither a name nor an IP address",
            "write \":tcps://host:port\"; an IPv6 address stands in brackets",
        ));
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialled_addresses_may_leave_the_first_colon_out() {
        for (text, shown) in [
            (":tcps://rdb-a.internal:5011", ":tcps://rdb-a.internal:5011"),
            ("tcps://rdb-a.internal:5011", ":tcps://rdb-a.internal:5011"),
            (":10.0.0.1:5011", ":10.0.0.1:5011"),
            ("localhost:5011", ":localhost:5011"),
            (":tcps://[::1]:5011", ":tcps://[::1]:5011"),
        ] {
            assert_eq!(text.parse::<KdbAddress>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_unix_socket_is_not_taken_for_a_host() {
        for text in ["unix:5000", ":unix:5000", ":unix://5000", "unix:/run/q"] {
            let invalid = text.parse::<KdbAddress>().unwrap_err();
            assert!(invalid.message.contains("Unix socket"), "{text}: {invalid}");
        }
        assert!("unix.example:5000".parse::<KdbAddress>().is_ok());
    }

    #[test]
    fn a_connection_string_is_refused_and_not_repeated() {
        for text in [
            ":tcps://host:5011:bob:hunter2",
            ":host:hunter2",
            "hunter2",
            "hunter2://host:1",
            "::5011",
            ":host:0",
            ":[::1]5011",
            ":hun ter2:5011",
            "",
        ] {
            let invalid = text.parse::<KdbAddress>().unwrap_err();
            assert!(!invalid.to_string().contains("hunter2"), "{invalid}");
        }
    }
}
