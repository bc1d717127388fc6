//! Complete messages in little-endian order: a text, an error response, any serialised body.
//!
//! ```
//! use q_ipc::frame::MessageType;
//! use q_ipc::message;
//! use q_ipc::value::Value;
//!
//! // `h "1+1"` in q
//! assert_eq!(message::text(MessageType::Sync, "1+1").len(), 17);
//! // `'rank` as the response
//! assert_eq!(message::error_response("rank")[8..], *b"\x80rank\0");
//! // `2` as the response
//! assert_eq!(message::message(MessageType::Response, &Value::Long(2).encode()).len(), 17);
//! ```

use super::frame::{HEADER_LEN, Header, MessageType};

/// q's type byte of a char vector.
const CHAR_VECTOR: u8 = 10;
/// q's type byte of an error (-128).
const ERROR: u8 = 0x80;

/// A plain little-endian message with this serialised body, as [`Value::encode`] writes one.
///
/// The body has at least one byte: no message is shorter than 9 bytes. Debug builds panic on an empty
/// body.
///
/// [`Value::encode`]: crate::value::Value::encode
pub fn message(message_type: MessageType, body: &[u8]) -> Vec<u8> {
    debug_assert!(!body.is_empty(), "a message has at least one byte of body");
    let header = Header {
        little_endian: true,
        message_type,
        compression: 0,
        length: (HEADER_LEN + body.len()) as u64,
    };
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(body);
    bytes
}

/// A message with `text` as a char vector: `h "text"` in q for a sync one, `(neg h) "text"` for an
/// async one.
///
/// The text is cut after 2^31-1 bytes, the largest count that 4 bytes hold.
pub fn text(message_type: MessageType, text: &str) -> Vec<u8> {
    let bytes = &text.as_bytes()[..text.len().min(i32::MAX as usize)];
    let count = u32::try_from(bytes.len()).unwrap_or_default();
    let mut body = vec![CHAR_VECTOR, 0];
    body.extend_from_slice(&count.to_le_bytes());
    body.extend_from_slice(bytes);
    message(message_type, &body)
}

/// The response that makes the caller's sync request fail with `'reason`.
///
/// A NUL ends the text on the wire, so the reason is cut before its first NUL.
pub fn error_response(reason: &str) -> Vec<u8> {
    let reason = reason.split('\0').next().unwrap_or_default();
    let mut body = vec![ERROR];
    body.extend_from_slice(reason.as_bytes());
    body.push(0);
    message(MessageType::Response, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_async_string_is_the_least_that_does_nothing() {
        assert_eq!(
            text(MessageType::Async, ""),
            [1, 0, 0, 0, 0x0e, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn an_error_is_a_response_that_q_raises() {
        assert_eq!(
            error_response("rank"),
            [1, 2, 0, 0, 14, 0, 0, 0, 0x80, b'r', b'a', b'n', b'k', 0]
        );
        assert_eq!(error_response("a\0b"), error_response("a"));
    }
}
