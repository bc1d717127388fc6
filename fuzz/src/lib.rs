//! Properties of the wire format and of the relay, one a module. They hold for any bytes.
//!
//! The fuzz targets call them with bytes of their own making; `cargo test` calls them with the corpus and
//! changes of it.

pub mod compression;
pub mod frames;
pub mod handshake;
pub mod tls;
pub mod value;

/// A property of bytes. The function panics if the property does not hold.
pub type Property = fn(&[u8]);

/// Every property, by the name of its target and of its corpus.
pub const ALL: [(&str, Property); 5] = [
    ("handshake", handshake::holds),
    ("frames", frames::holds),
    ("value", value::holds),
    ("compression", compression::holds),
    ("tls", tls::holds),
];
