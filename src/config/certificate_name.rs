//! The name in a client certificate that identifies a user.

use std::fmt;
use std::str::FromStr;

use base::invalid_value::InvalidValue;

/// One name of a certificate, with its kind: the common name of the subject, or a subject alternative
/// name. Names of different kinds never match, even if their text is the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// The common name, such as `CN=alice`.
    Common(String),
    /// A DNS name, such as `DNS:feed.example`.
    Dns(String),
    /// An email address, such as `email:alice@bank.example`.
    Email(String),
    /// A URI, such as `URI:spiffe://bank.example/alice`.
    Uri(String),
}

/// Parses a prefix that gives the kind, and a name of 1 to 256 bytes without control characters.
impl FromStr for CertificateName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let name = if let Some(name) = text.strip_prefix("CN=") {
            Self::Common(name.to_owned())
        } else if let Some(name) = text.strip_prefix("DNS:") {
            Self::Dns(name.to_owned())
        } else if let Some(name) = text.strip_prefix("email:") {
            Self::Email(name.to_owned())
        } else if let Some(name) = text.strip_prefix("URI:") {
            Self::Uri(name.to_owned())
        } else {
            return Err(invalid());
        };
        let bare = name.bare();
        if (1..=256).contains(&bare.len()) && !bare.chars().any(char::is_control) {
            Ok(name)
        } else {
            Err(invalid())
        }
    }
}

impl CertificateName {
    /// The name without the prefix of its kind.
    fn bare(&self) -> &str {
        match self {
            Self::Common(name) | Self::Dns(name) | Self::Email(name) | Self::Uri(name) => name,
        }
    }
}

fn invalid() -> InvalidValue {
    InvalidValue::new(
        "is not a certificate's name",
        "write \"CN=alice\", \"DNS:feed.example\", \"email:alice@bank.example\" or \
         \"URI:spiffe://bank.example/alice\"",
    )
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self {
            Self::Common(_) => "CN=",
            Self::Dns(_) => "DNS:",
            Self::Email(_) => "email:",
            Self::Uri(_) => "URI:",
        };
        // The name may come from a client, so control characters are escaped.
        write!(f, "{prefix}{}", self.bare().escape_debug())
    }
}
