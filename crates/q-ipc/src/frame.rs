//! Message headers, and where in a stream they stand.

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;

/// The shortest message there is: a header and one byte of body.
pub const SHORTEST_MESSAGE: u64 = 9;

/// The longest message that 40 bits of length can say, in bytes.
pub const LONGEST_MESSAGE: u64 = (1 << 40) - 1;

/// Byte 1 of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// No answer is expected.
    Async,
    /// An answer is expected.
    Sync,
    /// The answer to a sync message.
    Response,
}

/// The 8 bytes before each message.
///
/// Source: <https://code.kx.com/q/kb/serialization/>; byte 3 as the top byte of a 40-bit length is
/// what KX's own library writes beyond 4 GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the sender is little-endian (byte 0 is 1).
    pub little_endian: bool,
    /// Byte 1.
    pub message_type: MessageType,
    /// Byte 2: 0 plain, 1 compressed with a 4-byte size, 2 compressed with an 8-byte size.
    pub compression: u8,
    /// Bytes of the whole message, this header included.
    pub length: u64,
}

/// Why 8 bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Byte 0 is neither 0 nor 1.
    #[error("byte order {0} in a message header (0 and 1 exist)")]
    ByteOrder(u8),
    /// Byte 1 is over 2.
    #[error("message type {0} in a message header (0 to 2 exist)")]
    Type(u8),
    /// Byte 2 is over 2.
    #[error("compression flag {0} in a message header (0 to 2 exist)")]
    Compression(u8),
    /// Shorter than any message.
    #[error("a message length of {0} bytes (a message has at least 9)")]
    TooShort(u64),
    /// Longer than the endpoint takes.
    #[error("a message of {length} bytes (max_message of the endpoint is {limit})")]
    TooLong {
        /// Bytes the header promised.
        length: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl Header {
    /// Reads a header, refusing what no q process sends.
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

    /// The 8 bytes of this header.
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

/// Where one direction of a connection stands: between messages, or inside one.
///
/// It looks at headers only; bodies are counted, never kept.
#[derive(Debug, Clone, Default)]
pub struct Tracker {
    body_left: u64,
    limit: Option<u64>,
}

/// The next piece of a stream, as [`Tracker::next`] cuts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A message starts here; its header is complete in the bytes at hand.
    Header(Header),
    /// This many bytes belong to the body of the message that has started.
    Body(usize),
    /// Fewer than 8 bytes of a header are at hand (none, perhaps): wait for more.
    Partial,
}

impl Tracker {
    /// A tracker that refuses messages over `limit` bytes, if one is given.
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            body_left: 0,
            limit,
        }
    }

    /// A tracker without a limit, `body_left` bytes before the end of a message.
    pub fn inside(body_left: u64) -> Self {
        Self {
            body_left,
            limit: None,
        }
    }

    /// Goes on `body_left` bytes before the end of a message, with the same limit.
    pub fn resume(&mut self, body_left: u64) {
        self.body_left = body_left;
    }

    /// Whether everything so far ends exactly at the end of a message.
    pub fn at_boundary(&self) -> bool {
        self.body_left == 0
    }

    /// Bytes of body still to come.
    pub fn body_left(&self) -> u64 {
        self.body_left
    }

    /// What the bytes at hand start with. A header counts as passed once it was returned.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, HeaderError> {
        if self.body_left > 0 {
            let left = usize::try_from(self.body_left).unwrap_or(usize::MAX);
            let here = bytes.len().min(left);
            if here == 0 {
                return Ok(Piece::Partial);
            }
            self.body_left -= here as u64;
            return Ok(Piece::Body(here));
        }
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(Piece::Partial);
        };
        let header = Header::parse(*head)?;
        if let Some(limit) = self.limit.filter(|&limit| header.length > limit) {
            return Err(HeaderError::TooLong {
                length: header.length,
                limit,
            });
        }
        self.body_left = header.length - HEADER_LEN as u64;
        Ok(Piece::Header(header))
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
        let mut tracker = Tracker::new(Some(100));
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
        let mut tracker = Tracker::default();
        let stream = [
            1, 0, 0, 0, 10, 0, 0, 0, b'a', b'b', 1, 2, 0, 0, 9, 0, 0, 0, b'c',
        ];
        assert!(matches!(tracker.next(&stream), Ok(Piece::Header(h)) if h.length == 10));
        assert!(!tracker.at_boundary());
        assert_eq!(tracker.next(&stream[8..9]), Ok(Piece::Body(1)));
        assert_eq!(tracker.next(&[]), Ok(Piece::Partial));
        assert_eq!(tracker.next(&stream[9..]), Ok(Piece::Body(1)));
        assert!(tracker.at_boundary());
        assert_eq!(tracker.next(&stream[10..17]), Ok(Piece::Partial));
        assert!(matches!(tracker.next(&stream[10..]), Ok(Piece::Header(h))
            if h.message_type == MessageType::Response));
        assert_eq!(tracker.next(&stream[18..]), Ok(Piece::Body(1)));
        assert!(tracker.at_boundary());
    }
}
