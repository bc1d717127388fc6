//! The first bytes of a connection: the client's login, and the server's answer of one byte.
//!
//! The client sends `user:password`, a capability byte and a NUL. The capability byte states what the
//! client supports:
//!
//! | byte | messages may contain |
//! |---|---|
//! | 0 | neither compression nor timestamps, timespans and guids |
//! | 1, 2 | compression, timestamps and timespans |
//! | 3 | guids as well |
//! | 5 | more than 2 GB as well |
//! | 6 | vectors of more than 2^31-1 items as well |
//!
//! A server that accepts the login answers with the lower of the two capabilities, and both sides
//! keep to it. A server that refuses the login closes the connection without an answer.
//!
//! ```
//! use q_ipc::handshake::{Hello, common_capability};
//!
//! // The client's side.
//! let hello = Hello {
//!     user: "bob".into(),
//!     password: "secret".into(),
//!     capability: Some(6),
//! };
//! let sent = hello.encode();
//! assert_eq!(sent.expose(), b"bob:secret\x06\0");
//!
//! // The server's side. Half a login asks for more bytes.
//! let limit = 1024; // bytes of the longest login
//! assert_eq!(Hello::parse(b"bob:sec", limit)?, None);
//! let (received, used) = Hello::parse(sent.expose(), limit)?.expect("the login is complete");
//! assert_eq!((received, used), (hello, 12));
//! assert_eq!(common_capability(Some(6), 3), 3);
//! # Ok::<(), q_ipc::handshake::HelloError>(())
//! ```
//!
//! Source: <https://code.kx.com/q/basics/ipc/#handshake>.

use secret::Secret;

/// A capability byte is below this. A last byte from here on belongs to the credentials.
const CAPABILITY_LIMIT: u8 = 0x20;

/// Length of the longest HTTP method that is recognised, in bytes, with the space after it.
const LONGEST_METHOD: usize = 8;

/// The login that a client sends when it opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The user name: the text before the first colon. It may be empty.
    pub user: String,
    /// The password: the bytes after the first colon. It may contain colons, and may be empty.
    pub password: Secret,
    /// The capability byte, from 0 to 31. `None` is the form of clients before kdb+ 2.6, which send
    /// none.
    pub capability: Option<u8>,
}

/// The reason why the first bytes of a connection are not a q login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The client sends a TLS ClientHello.
    #[error("the client speaks TLS to a plain port. Fix: dial it without TLS, as :host:port.")]
    Tls,
    /// The client sends an HTTP or WebSocket request.
    #[error("the client speaks HTTP to a q port. Fix: dial it with hopen.")]
    Http,
    /// The login is longer than the limit. The message text names `max_handshake`, the key of hopend's
    /// configuration that sets the limit.
    #[error(
        "the handshake has no NUL within {limit} bytes. Fix: dial this port with hopen, or raise \
         max_handshake."
    )]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The user name is not UTF-8.
    #[error("the user name of the handshake is not UTF-8. Fix: dial this port with hopen.")]
    UserNotUtf8,
}

impl Hello {
    /// A login with this capability and another user and password.
    pub fn with_login(&self, user: &str, password: Secret) -> Self {
        Self {
            user: user.to_owned(),
            password,
            capability: self.capability,
        }
    }

    /// Reads a login of at most `limit` bytes, its NUL included, from the start of `bytes`.
    ///
    /// Returns the login and its length in bytes. The bytes after it belong to the client's first
    /// message: a client may send it before the server answers. `Ok(None)` asks for more bytes.
    ///
    /// # Errors
    /// The bytes can't become a login, however many follow.
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<(Self, usize)>, HelloError> {
        if bytes.starts_with(&[0x16, 0x03]) {
            return Err(HelloError::Tls);
        }
        let window = &bytes[..bytes.len().min(limit)];
        let nul = window.iter().position(|&b| b == 0);
        // An HTTP request may contain a NUL after its first lines.
        if speaks_http(&window[..nul.unwrap_or(window.len())]) {
            return Err(HelloError::Http);
        }
        let Some(nul) = nul else {
            if bytes.len() >= limit {
                return Err(HelloError::TooLong { limit });
            }
            return Ok(None);
        };
        let (credentials, capability) = match bytes[..nul].split_last() {
            Some((&last, rest)) if last < CAPABILITY_LIMIT => (rest, Some(last)),
            _ => (&bytes[..nul], None),
        };
        let (user, password) = match credentials.iter().position(|&b| b == b':') {
            Some(colon) => (&credentials[..colon], &credentials[colon + 1..]),
            None => (credentials, &[][..]),
        };
        let user = std::str::from_utf8(user).map_err(|_| HelloError::UserNotUtf8)?;
        let hello = Self {
            user: user.to_owned(),
            password: Secret::new(password),
            capability,
        };
        Ok(Some((hello, nul + 1)))
    }

    /// The bytes that a client sends, NUL included.
    pub fn encode(&self) -> Secret {
        let mut bytes = Vec::with_capacity(self.user.len() + self.password.expose().len() + 3);
        bytes.extend_from_slice(self.user.as_bytes());
        bytes.push(b':');
        bytes.extend_from_slice(self.password.expose());
        bytes.extend(self.capability);
        bytes.push(0);
        Secret::new(bytes)
    }
}

/// The capability byte that a server answers with: the lower of the client's and its own. It is 0 for
/// a client that sent none.
pub fn common_capability(client: Option<u8>, server: u8) -> u8 {
    client.unwrap_or(0).min(server)
}

fn speaks_http(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(LONGEST_METHOD)];
    let method = [
        "GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ",
    ]
    .iter()
    .any(|method| head.starts_with(method.as_bytes()));
    method && bytes.windows(2).any(|pair| pair == b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<(Hello, usize)>, HelloError> {
        Hello::parse(bytes, 1024)
    }

    fn hello(user: &str, password: &str, capability: Option<u8>) -> Hello {
        Hello {
            user: user.into(),
            password: password.into(),
            capability,
        }
    }

    #[test]
    fn the_forms_that_real_clients_send() {
        for (bytes, expected) in [
            (&b"bob:secret\x03\0"[..], hello("bob", "secret", Some(3))),
            (b":\x06\0", hello("", "", Some(6))),
            (b"\x03\0", hello("", "", Some(3))),
            (b"anonymous\x03\0", hello("anonymous", "", Some(3))),
            (b"bob:secret\0", hello("bob", "secret", None)),
            (b"bob\0", hello("bob", "", None)),
            (b"\0", hello("", "", None)),
            (b"bob:a:b:c\x06\0", hello("bob", "a:b:c", Some(6))),
            (
                "zoë:pässwörd\x03\0".as_bytes(),
                hello("zoë", "pässwörd", Some(3)),
            ),
        ] {
            assert_eq!(parse(bytes), Ok(Some((expected, bytes.len()))), "{bytes:?}");
        }
    }

    #[test]
    fn what_follows_the_handshake_is_left_alone() {
        let (_, used) = parse(b"bob:x\x03\0\x01\x01\0\0").unwrap().unwrap();
        assert_eq!(used, 7);
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let bytes = b"bob:secret\x03\0";
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn a_long_password_passes_and_a_longer_one_is_refused() {
        let mut bytes = b"bob:".to_vec();
        bytes.resize(2_000, b'x');
        bytes.extend_from_slice(b"\x03\0");
        assert!(Hello::parse(&bytes, 4_096).unwrap().is_some());
        assert_eq!(parse(&bytes), Err(HelloError::TooLong { limit: 1024 }));
    }

    #[test]
    fn tls_and_http_clients_are_recognised() {
        assert_eq!(parse(&[0x16, 0x03, 0x01, 0, 5, 1]), Err(HelloError::Tls));
        assert_eq!(
            parse(b"GET / HTTP/1.1\r\nHost: x\r\n"),
            Err(HelloError::Http)
        );
        assert_eq!(parse(b"GET / HT"), Ok(None));
        // A NUL in the same read changes nothing.
        assert_eq!(parse(b"GET /\r\n\0"), Err(HelloError::Http));
    }

    #[test]
    fn a_user_that_is_not_utf8_is_refused() {
        assert_eq!(parse(b"\xff:x\x03\0"), Err(HelloError::UserNotUtf8));
    }

    #[test]
    fn encoding_is_what_parsing_reads() {
        for original in [
            hello("bob", "a:b", Some(6)),
            hello("", "", Some(3)),
            hello("bob", "x", None),
        ] {
            let bytes = original.encode();
            let (read, used) = parse(bytes.expose()).unwrap().unwrap();
            assert_eq!((read, used), (original, bytes.expose().len()));
        }
    }

    #[test]
    fn the_answer_is_never_more_than_either_side_has() {
        assert_eq!(common_capability(Some(3), 6), 3);
        assert_eq!(common_capability(Some(6), 3), 3);
        assert_eq!(common_capability(None, 6), 0);
    }
}
