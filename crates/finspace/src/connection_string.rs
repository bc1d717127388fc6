//! Connection strings: `:tcps://host:port:user:password`, as GetKxConnectionString and login commands
//! return them.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use base::kdb_address::KdbAddress;
use secret::Secret;

/// The longest string that FinSpace returns, in characters.
const MAX_LENGTH: usize = 2_048;

/// A connection string, split into its parts.
///
/// ```
/// use finspace::connection_string::ConnectionString;
/// let string = ConnectionString::parse(":tcps://hdb.example.com:5000:bob:secret").unwrap();
/// assert_eq!(string.address.to_string(), ":tcps://hdb.example.com:5000");
/// assert_eq!(string.expires(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The host and port to dial, and whether to use TLS.
    pub address: KdbAddress,
    /// The q user.
    pub user: String,
    /// The password: everything after the third colon. FinSpace puts a signed query string here.
    pub password: Secret,
}

/// The reason why a text is no connection string. It never has a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    /// It is longer than 2,048 bytes.
    #[error("it has {0} characters (2,048 at the most)")]
    TooLong(usize),
    /// It begins neither with `:` nor with `:tcps://`.
    #[error("it does not begin with ':' or ':tcps://'")]
    Scheme,
    /// It has fewer than four parts.
    #[error("it is not of the form :tcps://HOST:PORT:USER:PASSWORD")]
    Parts,
    /// The host is empty or has characters that no host has.
    #[error("its host is not a host name")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

impl ConnectionString {
    /// Parses a connection string. It accepts white space around the string, and colons in the password.
    ///
    /// # Errors
    /// The text is too long or has another form.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(ConnectionStringError::TooLong(text.len()));
        }
        let (tls, rest) = match (text.strip_prefix(":tcps://"), text.strip_prefix(':')) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(ConnectionStringError::Scheme),
        };
        let mut parts = rest.splitn(4, ':');
        let (Some(host), Some(port), Some(user), Some(password)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ConnectionStringError::Parts);
        };
        let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || !host.chars().all(plausible) {
            return Err(ConnectionStringError::Host);
        }
        let port = port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or(ConnectionStringError::Port)?;
        Ok(Self {
            address: KdbAddress {
                tls,
                host: host.into(),
                port,
            },
            user: user.into(),
            password: password.into(),
        })
    }

    /// The time at which the signature in the password expires: X-Amz-Date plus X-Amz-Expires seconds, by
    /// the clock of AWS. None if the password is not signed.
    pub fn expires(&self) -> Option<SystemTime> {
        let Signature { made, valid_for } = self.signature()?;
        made.checked_add(valid_for)
    }

    /// The lifetime of the signature in the password: X-Amz-Expires. None if the password is not signed.
    pub fn valid_for(&self) -> Option<Duration> {
        self.signature().map(|signature| signature.valid_for)
    }

    fn signature(&self) -> Option<Signature> {
        let mut date = None;
        let mut life = None;
        for (name, value) in form_urlencoded::parse(self.password.expose()) {
            match name.as_ref() {
                "X-Amz-Date" => date = DateTime::strptime("%Y%m%dT%H%M%SZ", value.as_bytes()).ok(),
                "X-Amz-Expires" => life = value.parse().ok().map(Duration::from_secs),
                _ => {}
            }
        }
        let signed = date?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        Some(Signature {
            made: SystemTime::from(signed),
            valid_for: life?,
        })
    }
}

/// The validity of a signed password.
struct Signature {
    made: SystemTime,
    valid_for: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "Host=vpce-1.finspace.example&Port=5000&User=bob&\
        Action=finspace%3AConnectKxCluster&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
        X-Amz-Date=20230712T205206Z&X-Amz-SignedHeaders=host&X-Amz-Expires=900&X-Amz-Signature=aa";

    #[test]
    fn parts_and_expiry_of_a_signed_string() {
        let text = format!(":tcps://vpce-1.finspace.example:443:bob:{PASSWORD}");
        let string = ConnectionString::parse(&text).unwrap();
        assert_eq!(
            string.address,
            KdbAddress {
                tls: true,
                host: "vpce-1.finspace.example".into(),
                port: 443
            }
        );
        assert_eq!(string.user, "bob");
        assert_eq!(string.password, PASSWORD.into());
        // 2023-07-12T21:07:06Z
        assert_eq!(
            string.expires(),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_689_196_026))
        );
        assert_eq!(string.valid_for(), Some(Duration::from_secs(900)));
    }

    #[test]
    fn the_plain_form_and_a_password_with_colons() {
        let string = ConnectionString::parse(":rdb-a:5011:svc:a:b\n").unwrap();
        assert!(!string.address.tls);
        assert_eq!(string.password, "a:b".into());
        assert_eq!(string.expires(), None);
    }

    #[test]
    fn what_is_refused_and_never_shown() {
        use ConnectionStringError as E;
        for (text, error) in [
            ("tcps://h:1:u:geheim", E::Scheme),
            ("", E::Scheme),
            (":h:1:geheim", E::Parts),
            (":tcps://h:0:u:geheim", E::Port),
            (":tcps://h:70000:u:geheim", E::Port),
            (":tcps://:443:u:geheim", E::Host),
            (":tcps://h/x:443:u:geheim", E::Host),
        ] {
            let found = ConnectionString::parse(text).unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("geheim"));
        }
        let long = format!(":tcps://h:443:u:{}", "x".repeat(2_048));
        assert!(matches!(ConnectionString::parse(&long), Err(E::TooLong(_))));
    }
}
