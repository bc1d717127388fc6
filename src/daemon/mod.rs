//! The daemon as a process: it confines itself, binds its addresses, accepts connections, reloads and
//! stops.

pub mod app;
pub mod confine;
mod memory;
