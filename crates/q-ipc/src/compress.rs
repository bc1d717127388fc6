//! The compression that kdb+ applies to messages for peers on other hosts.
//!
//! ```
//! use q_ipc::compress::{compress, decompress};
//! use q_ipc::frame::MessageType;
//! use q_ipc::message::message;
//! use q_ipc::value::Value;
//!
//! let plain = message(MessageType::Response, &Value::Longs(vec![7; 1000]).encode());
//! let small = compress(&plain).expect("equal items shrink");
//! assert_eq!(plain.len(), 8014);
//! assert!(small.len() < 250);
//!
//! let limit = 1 << 20; // bytes of the longest plain message to accept
//! assert_eq!(decompress(&small, limit)?, plain);
//! # Ok::<(), q_ipc::compress::DecompressError>(())
//! ```
//!
//! # Format
//!
//! A compressed message starts with a header whose byte 2 is 1 or 2. The length of the plain message
//! follows in 4 or 8 bytes, in the sender's byte order. Then groups follow, each of a control byte and
//! eight items. A bit of the control byte, lowest first, states the form of an item:
//!
//! - 0: one literal byte.
//! - 1: two bytes, a slot and a count. The item stands for 2 + count bytes, copied from the position
//!   that the slot holds.
//!
//! A slot is the exclusive or of two neighbouring bytes. It holds the position in the plain message
//! where such a pair occurred last.
//!
//! Source: <https://code.kx.com/q/kb/serialization/>, and KX's `c.java` for the 8-byte length.

use super::frame::{HEADER_LEN, Header, HeaderError};

/// Length of the longest message that kdb+ always sends plain, in bytes.
pub const THRESHOLD: usize = 2_000;

/// The greatest ratio of plain to compressed bytes, rounded up: 17 bytes hold eight copies of 257 bytes.
const MOST_EXPANSION: u64 = 128;

/// The reason why a message could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The message does not start with a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The message is plain: byte 2 of its header is 0.
    #[error("the message is not compressed")]
    Plain,
    /// The message ends before the plain message is complete.
    #[error("a compressed message ends too early")]
    Truncated,
    /// The stated plain length, in bytes, is less than 9 or more than 128 times the compressed length.
    /// No compressed message of that length can hold it.
    #[error("a compressed message promises {0} bytes, which its length can't hold")]
    Size(u64),
    /// The stated plain length is above the caller's limit.
    #[error("a compressed message of {size} bytes (at most {limit} are taken)")]
    TooLong {
        /// Plain length that the message states, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A copy starts after the bytes that are already decompressed, or ends after the plain length.
    #[error("a compressed message refers to what it does not hold")]
    Reference,
}

/// Compresses a complete plain message.
///
/// `None` if the message would not shrink to half its length, which is kdb+'s own condition, and for
/// bytes that are not one plain message. The caller compares with [`THRESHOLD`].
pub fn compress(message: &[u8]) -> Option<Vec<u8>> {
    let head = Header::parse(*message.first_chunk::<HEADER_LEN>()?).ok()?;
    let total = message.len();
    if head.compression != 0 || head.length != total as u64 {
        return None;
    }
    let (flag, size) = match u32::try_from(total) {
        Ok(size) => (1, size.to_le_bytes().to_vec()),
        Err(_) => (2, (total as u64).to_le_bytes().to_vec()),
    };
    let mut out = vec![0; HEADER_LEN];
    out.extend(size);
    if !head.little_endian {
        out[HEADER_LEN..].reverse();
    }
    // Up to here there is room for one more group: a control byte and eight pairs are 17 bytes.
    let most = (total / 2).checked_sub(17)?;
    let mut slots = [0usize; 256];
    let mut pending = None;
    let mut control = out.len();
    let mut bit = 0u8;
    let mut at = HEADER_LEN;
    while at < total {
        if bit == 0 {
            if out.len() > most {
                return None;
            }
            bit = 1;
            control = out.len();
            out.push(0);
        }
        let slot = (at + 2 < total).then(|| usize::from(message[at] ^ message[at + 1]));
        let seen = slot
            .map(|slot| slots[slot])
            .filter(|&seen| seen != 0 && message[seen] == message[at]);
        if let Some((slot, position)) = pending.take() {
            slots[slot] = position;
        }
        match (slot, seen) {
            (Some(slot), Some(seen)) => {
                slots[slot] = at;
                let more = message[seen + 2..]
                    .iter()
                    .zip(&message[at + 2..])
                    .take(255)
                    .take_while(|(a, b)| a == b)
                    .count();
                out[control] |= bit;
                out.push(u8::try_from(slot).unwrap_or_default());
                out.push(u8::try_from(more).unwrap_or_default());
                at += 2 + more;
            }
            _ => {
                pending = slot.map(|slot| (slot, at));
                out.push(message[at]);
                at += 1;
            }
        }
        bit <<= 1;
    }
    let header = Header {
        compression: flag,
        length: out.len() as u64,
        ..head
    };
    out[..HEADER_LEN].copy_from_slice(&header.encode());
    Some(out)
}

/// Decompresses a complete message whose plain length is at most `limit` bytes.
///
/// It allocates memory for the plain length only after it has checked it against `limit` and against
/// the length of `message`.
///
/// # Errors
/// The bytes are not a compressed message, are damaged, or are too long.
pub fn decompress(message: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    let head = message
        .first_chunk::<HEADER_LEN>()
        .ok_or(DecompressError::Truncated)?;
    let head = Header::parse(*head)?;
    let mut input = message[HEADER_LEN..].iter().copied();
    let width = match head.compression {
        0 => return Err(DecompressError::Plain),
        1 => 4,
        _ => 8,
    };
    let mut size = [0; 8];
    for slot in &mut size[..width] {
        *slot = input.next().ok_or(DecompressError::Truncated)?;
    }
    if !head.little_endian {
        size[..width].reverse();
    }
    let size = u64::from_le_bytes(size);
    let longest = (message.len() as u64).saturating_mul(MOST_EXPANSION);
    if size <= HEADER_LEN as u64 || size > longest {
        return Err(DecompressError::Size(size));
    }
    let total = usize::try_from(size)
        .ok()
        .filter(|&total| total <= limit)
        .ok_or(DecompressError::TooLong { size, limit })?;

    let mut out = Vec::with_capacity(total);
    let plain = Header {
        compression: 0,
        length: size,
        ..head
    };
    out.extend_from_slice(&plain.encode());
    let mut slots = [0usize; 256];
    let mut noted = HEADER_LEN;
    let (mut control, mut bit) = (0u8, 0u8);
    while out.len() < total {
        let mut next = || input.next().ok_or(DecompressError::Truncated);
        if bit == 0 {
            control = next()?;
            bit = 1;
        }
        let copy = control & bit != 0;
        let mut more = 0;
        let mut from = 0;
        if copy {
            from = slots[usize::from(next()?)];
            more = usize::from(next()?);
            if from < HEADER_LEN || from + 1 >= out.len() || out.len() + 2 + more > total {
                return Err(DecompressError::Reference);
            }
            out.push(out[from]);
            out.push(out[from + 1]);
            from += 2;
        } else {
            out.push(next()?);
        }
        while noted + 1 < out.len() {
            slots[usize::from(out[noted] ^ out[noted + 1])] = noted;
            noted += 1;
        }
        if copy {
            for step in 0..more {
                out.push(out[from + step]);
            }
            noted = out.len();
        }
        bit <<= 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::MessageType;
    use crate::message::message;

    #[test]
    fn equal_items_shrink() {
        let plain = message(
            MessageType::Response,
            &crate::value::Value::Longs(vec![7; 1000]).encode(),
        );
        let small = compress(&plain).unwrap();
        assert_eq!(small[..4], [1, 2, 1, 0]);
        assert_eq!(small[8..12], 8014u32.to_le_bytes());
        assert!(small.len() < 250, "{}", small.len());
        assert_eq!(decompress(&small, 8014), Ok(plain));
        assert_eq!(
            decompress(&small, 8013),
            Err(DecompressError::TooLong {
                size: 8014,
                limit: 8013
            })
        );
    }

    #[test]
    fn what_does_not_shrink_stays_plain() {
        let mut random = fastrand::Rng::with_seed(1);
        let body: Vec<u8> = (0..4000).map(|_| random.u8(..)).collect();
        assert_eq!(compress(&message(MessageType::Async, &body)), None);
        assert_eq!(compress(b"short"), None);
    }

    #[test]
    fn eight_bytes_of_size_are_read_in_both_orders() {
        let plain = message(MessageType::Sync, &[9; 3000]);
        let small = compress(&plain).unwrap();
        for little in [true, false] {
            let mut long = Header {
                little_endian: little,
                message_type: MessageType::Sync,
                compression: 2,
                length: small.len() as u64 + 4,
            }
            .encode()
            .to_vec();
            let size = 3008u64;
            long.extend(if little {
                size.to_le_bytes()
            } else {
                size.to_be_bytes()
            });
            long.extend_from_slice(&small[12..]);
            let out = decompress(&long, 1 << 20).unwrap();
            assert_eq!(out[8..], plain[8..]);
            assert_eq!(
                Header::parse(*out.first_chunk().unwrap()).unwrap().length,
                3008
            );
        }
    }

    #[test]
    fn a_promise_that_can_not_be_kept_allocates_nothing() {
        let bytes = [1, 2, 2, 0, 18, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(
            decompress(&bytes, usize::MAX),
            Err(DecompressError::Size(1 << 32))
        );
    }

    proptest! {
        #[test]
        fn decompressing_undoes_compressing(
            items in proptest::collection::vec((0u8..6, 1u16..600), 1..40)
        ) {
            let body: Vec<u8> = items.iter().flat_map(|&(b, n)| (0..n).map(move |i| {
                if n % 3 == 0 { b } else { b.wrapping_add(u8::try_from(i % 7).unwrap()) }
            })).collect();
            let plain = message(MessageType::Response, &body);
            if let Some(small) = compress(&plain) {
                prop_assert!(small.len() <= plain.len() / 2);
                prop_assert_eq!(decompress(&small, plain.len()), Ok(plain));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            size in 0u32..5000, rest in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let mut bytes = vec![1, 2, 1, 0, 255, 0, 0, 0];
            bytes.extend(size.to_le_bytes());
            bytes.extend(rest);
            if let Ok(plain) = decompress(&bytes, 10_000) {
                prop_assert_eq!(plain.len(), size as usize);
            }
        }
    }
}
