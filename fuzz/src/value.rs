//! A q value that was read is written in a form that reads as the same value, in both byte orders. Bytes
//! that are no value are an error.

use q_ipc::value::{decode, decode_message};

/// Bit 0 of the first byte selects the byte order; the rest is the body of a message.
pub fn holds(bytes: &[u8]) {
    // A message as a whole, with its own header.
    let _ = decode_message(bytes);
    let Some((first, body)) = bytes.split_first() else {
        return;
    };
    let little_endian = first & 1 == 1;
    let Ok(value) = decode(body, little_endian) else {
        return;
    };
    for order in [true, false] {
        let written = value.encode_in(order);
        let again = decode(&written, order).expect("what hopend writes can be read");
        // Compared as bytes, because a NaN equals nothing.
        assert_eq!(again.encode_in(order), written, "{value:?}");
    }
    assert!(
        value.count() <= body.len().max(1),
        "{value:?} counts more than it has"
    );
}
