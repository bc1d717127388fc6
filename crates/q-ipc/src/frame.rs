//! The 8-byte header of a message, and the message boundaries of a stream that arrives in pieces.
//!
//! A q connection carries one message after the other in each direction. Each message starts with a
//! [`Header`], which states the length of the whole message in bytes.
//!
//! ```
//! use q_ipc::frame::{FrameTracker, HEADER_LEN, MessageType, StreamPart};
//! use q_ipc::message;
//!
//! let stream = message::text(MessageType::Sync, "1+1");
//! let mut tracker = FrameTracker::new(Some(1024)); // refuses messages over 1,024 bytes
//!
//! // Five bytes are too few for a header. Once all bytes have arrived, the tracker reads it.
//! assert_eq!(tracker.next(&stream[..5])?, StreamPart::Incomplete);
//! let StreamPart::Header(header) = tracker.next(&stream)? else {
//!     panic!("a message starts here");
//! };
//! assert_eq!((header.message_type, header.length), (MessageType::Sync, 17));
//!
//! // The body may arrive in pieces.
//! assert_eq!(tracker.next(&stream[HEADER_LEN..12])?, StreamPart::Body(4));
//! assert_eq!(tracker.next(&stream[12..])?, StreamPart::Body(5));
//! assert!(tracker.at_boundary());
//! # Ok::<(), q_ipc::frame::HeaderError>(())
//! ```
//!
//! Source: <https://code.kx.com/q/kb/serialization/>.

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 8;

/// Length of the shortest message, in bytes: a header and one byte of body.
pub const SHORTEST_MESSAGE: u64 = 9;

/// Length of the longest message, in bytes. A header has 40 bits for the length.
pub const LONGEST_MESSAGE: u64 = (1 << 40) - 1;

/// The kind of a message: byte 1 of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 0: the sender expects no response.
    Async,
    /// 1: the sender waits for a response.
    Sync,
    /// 2: the response to a sync message.
    Response,
}

/// The 8 bytes at the start of each message.
///
/// Bytes 4 to 7 hold the length in the sender's byte order. Byte 3 holds the top byte of a 40-bit
/// length: KX's `c.java` writes it for messages over 4 GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Byte 0: 1 if the sender writes numbers in little-endian order, 0 if in big-endian order. It
    /// applies to the length in this header and to the body.
    pub little_endian: bool,
    /// Byte 1: async, sync or response.
    pub message_type: MessageType,
    /// Byte 2: 0 for a plain message, 1 for a compressed one that states its plain length in 4 bytes,
    /// 2 for a compressed one that states it in 8 bytes.
    pub compression: u8,
    /// Length of the whole message in bytes, this header included.
    pub length: u64,
}

/// The reason why 8 bytes are not the header of an acceptable message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Byte 0 is neither 0 nor 1.
    #[error("byte order {0} in a message header (0 and 1 exist)")]
    ByteOrder(u8),
    /// Byte 1 is greater than 2.
    #[error("message type {0} in a message header (0 to 2 exist)")]
    Type(u8),
    /// Byte 2 is greater than 2.
    #[error("compression flag {0} in a message header (0 to 2 exist)")]
    Compression(u8),
    /// The length is below [`SHORTEST_MESSAGE`].
    #[error("a message length of {0} bytes (a message has at least 9)")]
    TooShort(u64),
    /// The length is above the limit of the [`FrameTracker`]. The message text calls the limit
    /// `max_message`, after the key of hopend's configuration that sets it.
    #[error("a message of {length} bytes (max_message of the endpoint is {limit})")]
    TooLong {
        /// Length that the header states, in bytes.
        length: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// The bytes are none that a q process sends: an unknown byte order, message type or compression,
    /// or a length below [`SHORTEST_MESSAGE`].
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let little_endian = match bytes[0] {
            0 => false,
            1 => true,
            other => return Err(HeaderError::ByteOrder(other)),
        };
        let message_type = match bytes[1] {
            0 => MessageType::Async,
            1 => MessageType::Sync,
            2 => MessageType::Response,
            other => return Err(HeaderError::Type(other)),
        };
        if bytes[2] > 2 {
            return Err(HeaderError::Compression(bytes[2]));
        }
        let low = [bytes[4], bytes[5], bytes[6], bytes[7]];
        let low = if little_endian {
            u32::from_le_bytes(low)
        } else {
            u32::from_be_bytes(low)
        };
        let length = u64::from(bytes[3]) << 32 | u64::from(low);
        if length < SHORTEST_MESSAGE {
            return Err(HeaderError::TooShort(length));
        }
        Ok(Self {
            little_endian,
            message_type,
            compression: bytes[2],
            length,
        })
    }

    /// Writes this header. A length above [`LONGEST_MESSAGE`] loses its upper bits.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [_, _, _, top, l3, l2, l1, l0] = self.length.to_be_bytes();
        let low = [l3, l2, l1, l0];
        let low = if self.little_endian {
            u32::from_be_bytes(low).to_le_bytes()
        } else {
            low
        };
        let message_type = match self.message_type {
            MessageType::Async => 0,
            MessageType::Sync => 1,
            MessageType::Response => 2,
        };
        let mut bytes = [
            u8::from(self.little_endian),
            message_type,
            self.compression,
            top,
            0,
            0,
            0,
            0,
        ];
        bytes[4..].copy_from_slice(&low);
        bytes
    }
}

/// Follows the message boundaries of one direction of a connection.
///
/// It reads headers and counts the bytes of bodies. It keeps no bytes, so its memory does not grow
/// with the messages.
#[derive(Debug, Clone, Default)]
pub struct FrameTracker {
    /// Bytes until the end of the current message; 0 between messages.
    body_left: u64,
    /// Length of the longest message that is accepted, in bytes.
    limit: Option<u64>,
}

/// What the bytes given to [`FrameTracker::next`] start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamPart {
    /// The complete header of the next message. The caller skips [`HEADER_LEN`] bytes.
    Header(Header),
    /// Bytes of the current message's body: the caller skips this many.
    Body(usize),
    /// Too few bytes, from 0 to 7: the caller calls again once more bytes have arrived.
    Incomplete,
}

impl FrameTracker {
    /// A tracker at the start of a message. It refuses messages over `limit` bytes; `None` accepts every
    /// length.
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            body_left: 0,
            limit,
        }
    }

    /// A tracker inside a message that ends after `body_left` more bytes. It accepts every length.
    pub fn inside(body_left: u64) -> Self {
        Self {
            body_left,
            limit: None,
        }
    }

    /// Moves the tracker into a message that ends after `body_left` more bytes. The limit stays.
    pub fn resume(&mut self, body_left: u64) {
        self.body_left = body_left;
    }

    /// Whether the stream stands between two messages: no message has started, or the last one is
    /// complete.
    pub fn at_boundary(&self) -> bool {
        self.body_left == 0
    }

    /// Bytes until the end of the current message; 0 between messages.
    pub fn body_left(&self) -> u64 {
        self.body_left
    }

    /// Reads the next part of the stream from the start of `bytes`, and advances past it.
    ///
    /// The caller then skips the same bytes: [`HEADER_LEN`] for a header, the stated count for a body.
    ///
    /// # Errors
    /// [`Header::parse`] refuses the header, or the message is longer than the limit. The tracker does
    /// not advance.
    pub fn next(&mut self, bytes: &[u8]) -> Result<StreamPart, HeaderError> {
        if self.body_left > 0 {
            let left = usize::try_from(self.body_left).unwrap_or(usize::MAX);
            let here = bytes.len().min(left);
            if here == 0 {
                return Ok(StreamPart::Incomplete);
            }
            self.body_left -= here as u64;
            return Ok(StreamPart::Body(here));
        }
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(StreamPart::Incomplete);
        };
        let header = Header::parse(*head)?;
        if let Some(limit) = self.limit.filter(|&limit| header.length > limit) {
            return Err(HeaderError::TooLong {
                length: header.length,
                limit,
            });
        }
        self.body_left = header.length - HEADER_LEN as u64;
        Ok(StreamPart::Header(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_four_gigabytes_uses_byte_three() {
        let bytes = [0x01, 0, 0, 0x01, 0x12, 0xcb, 0x4c, 0x00];
        let header = Header::parse(bytes).unwrap();
        assert_eq!(header.length, 0x01_004c_cb12);
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn both_byte_orders() {
        let little = Header::parse([1, 1, 0, 0, 0x0e, 0, 0, 0]).unwrap();
        let big = Header::parse([0, 1, 0, 0, 0, 0, 0, 0x0e]).unwrap();
        assert_eq!(little.length, 14);
        assert_eq!(big.length, 14);
        assert!(little.little_endian && !big.little_endian);
        let big = Header::parse([0, 2, 2, 0x01, 0, 0, 0, 0]).unwrap();
        assert_eq!(big.length, 1 << 32);
        assert_eq!(big.encode(), [0, 2, 2, 0x01, 0, 0, 0, 0]);
    }

    #[test]
    fn what_no_q_process_sends_is_refused() {
        for (bytes, error) in [
            ([2, 0, 0, 0, 9, 0, 0, 0], HeaderError::ByteOrder(2)),
            ([1, 3, 0, 0, 9, 0, 0, 0], HeaderError::Type(3)),
            ([1, 0, 3, 0, 9, 0, 0, 0], HeaderError::Compression(3)),
            ([1, 0, 0, 0, 8, 0, 0, 0], HeaderError::TooShort(8)),
            ([1, 0, 0, 0, 0, 0, 0, 0], HeaderError::TooShort(0)),
        ] {
            assert_eq!(Header::parse(bytes), Err(error));
        }
        let mut tracker = FrameTracker::new(Some(100));
        assert_eq!(
            tracker.next(&[1, 0, 0, 0, 101, 0, 0, 0]),
            Err(HeaderError::TooLong {
                length: 101,
                limit: 100
            })
        );
    }

    #[test]
    fn a_tracker_walks_from_header_to_header() {
        let mut tracker = FrameTracker::default();
        let stream = [
            1, 0, 0, 0, 10, 0, 0, 0, b'a', b'b', 1, 2, 0, 0, 9, 0, 0, 0, b'c',
        ];
        assert!(matches!(tracker.next(&stream), Ok(StreamPart::Header(h)) if h.length == 10));
        assert!(!tracker.at_boundary());
        assert_eq!(tracker.next(&stream[8..9]), Ok(StreamPart::Body(1)));
        assert_eq!(tracker.next(&[]), Ok(StreamPart::Incomplete));
        assert_eq!(tracker.next(&stream[9..]), Ok(StreamPart::Body(1)));
        assert!(tracker.at_boundary());
        assert_eq!(tracker.next(&stream[10..17]), Ok(StreamPart::Incomplete));
        assert!(
            matches!(tracker.next(&stream[10..]), Ok(StreamPart::Header(h))
            if h.message_type == MessageType::Response)
        );
        assert_eq!(tracker.next(&stream[18..]), Ok(StreamPart::Body(1)));
        assert!(tracker.at_boundary());
    }
}
