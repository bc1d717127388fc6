//! Properties of the daemon, of FinSpace's connection strings and of the simulator, one a module. They hold
//! for any bytes.

pub mod configuration;
pub mod connection_string;
pub mod console;
pub mod simulator;

/// A property of bytes. The function panics if the property does not hold.
pub type Property = fn(&[u8]);

/// Every property, by the name of its target and of its corpus.
pub const ALL: [(&str, Property); 4] = [
    ("connection_string", connection_string::holds),
    ("configuration", configuration::holds),
    ("console", console::holds),
    ("simulator", simulator::holds),
];
