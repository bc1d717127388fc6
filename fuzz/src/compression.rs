//! A message that was compressed is the same one after it was decompressed. Decompression of any bytes ends,
//! and never returns more than its limit.

use q_ipc::compress::{compress, decompress};
use q_ipc::frame::MessageType;
use q_ipc::message::message;

/// Bytes of the largest message that is decompressed.
const LIMIT: usize = 1 << 16;

/// Bit 0 of the first byte selects: a compressed message as it arrives, or the body of one to compress. A
/// body is repeated by the other bits, because short messages are never compressed.
pub fn holds(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    if first & 1 == 1 {
        if let Ok(plain) = decompress(rest, LIMIT) {
            assert!(plain.len() <= LIMIT, "{} bytes", plain.len());
        }
        return;
    }
    if rest.is_empty() {
        return;
    }
    let plain = message(
        MessageType::Response,
        &rest.repeat(usize::from(first >> 1) + 1),
    );
    if let Some(compressed) = compress(&plain) {
        assert!(compressed.len() < plain.len(), "it has grown");
        assert_eq!(decompress(&compressed, plain.len()), Ok(plain));
    }
}
