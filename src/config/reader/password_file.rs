//! Password files of q, in the format of its options `-u` and `-U`.

use base::invalid_value::InvalidValue;
use secret::Secret;

use crate::config::user::PasswordVerifier;

/// The reason why a password file has no usable password for a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoPassword {
    /// The file has no line for the user, or the line has no password. Somebody may have revoked it.
    Gone(InvalidValue),
    /// The file has several lines for the user.
    Ambiguous(InvalidValue),
}

/// Finds the line `user:password` in the content of a password file. The password is plain, or an MD5 or
/// SHA-1 digest in hexadecimal.
///
/// A plain password of 32 or 40 hexadecimal digits looks like a digest. As q does, this function treats it
/// as a digest.
///
/// # Errors
/// The file has no line for the user, several lines, or a line without a password.
pub(super) fn verifier(file: &[u8], user: &str) -> Result<PasswordVerifier, NoPassword> {
    let mut lines = file
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter_map(|line| line.strip_prefix(user.as_bytes())?.strip_prefix(b":"));
    let Some(password) = lines.next() else {
        return Err(NoPassword::Gone(InvalidValue::new(
            format!("the file has no line of {user:?}"),
            format!("add a line \"{user}:\" with the password behind the colon"),
        )));
    };
    if lines.next().is_some() {
        return Err(NoPassword::Ambiguous(InvalidValue::new(
            format!("the file has several lines of {user:?}"),
            "leave one of them",
        )));
    }
    if password.is_empty() {
        // A q process that gives no password to hopen sends an empty one, so everybody would match.
        return Err(NoPassword::Gone(InvalidValue::new(
            format!("the password of {user:?} in the file is empty"),
            "write a password behind the colon",
        )));
    }
    Ok(if let Some(digest) = hex(password) {
        PasswordVerifier::Md5(digest)
    } else if let Some(digest) = hex(password) {
        PasswordVerifier::Sha1(digest)
    } else {
        PasswordVerifier::Plain(Secret::new(password))
    })
}

/// Decodes `N` bytes of hexadecimal digits. The type of the result decides which digest is meant.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"alice:pa:ss word\r\n\nbob:5f4dcc3b5aa765d61d8327deb882cf99\n\
        carol:5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8\nempty:\ntwice:a\ntwice:b\nali:x";

    #[test]
    fn a_line_is_plain_md5_or_sha1() {
        assert_eq!(
            verifier(FILE, "alice"),
            Ok(PasswordVerifier::Plain(Secret::from("pa:ss word")))
        );
        assert_eq!(
            verifier(FILE, "ali"),
            Ok(PasswordVerifier::Plain(Secret::from("x")))
        );
        let Ok(PasswordVerifier::Md5(md5)) = verifier(FILE, "bob") else {
            panic!("not MD5")
        };
        assert_eq!(md5[..3], [0x5f, 0x4d, 0xcc]);
        let Ok(PasswordVerifier::Sha1(sha1)) = verifier(FILE, "carol") else {
            panic!("not SHA-1")
        };
        assert_eq!(sha1[..3], [0x5b, 0xaa, 0x61]);
    }

    #[test]
    fn a_line_that_proves_nothing_is_refused() {
        for user in ["nobody", "empty", "twice", ""] {
            assert!(verifier(FILE, user).is_err(), "{user}");
        }
    }
}
