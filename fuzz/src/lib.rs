//! What has to hold for whatever bytes come, one property a module. The fuzz targets call these
//! with bytes of their own making; `cargo test` calls them with the corpus and changes of it.

pub mod configuration;
pub mod connection_string;
pub mod console;
pub mod frames;
pub mod handshake;
pub mod simulator;
pub mod tls;

/// A property over bytes: panics where it does not hold.
pub type Property = fn(&[u8]);

/// Every property by the name of its target and of its corpus.
pub const ALL: [(&str, Property); 7] = [
    ("handshake", handshake::holds),
    ("frames", frames::holds),
    ("connection_string", connection_string::holds),
    ("configuration", configuration::holds),
    ("console", console::holds),
    ("simulator", simulator::holds),
    ("tls", tls::holds),
];
