//! The daemon's records about itself: open sessions, counters, recent failures and audit lines.
//!
//! Sessions and routes write these records. [`crate::surface`] shows them.

pub mod audit;
pub mod listen;
pub mod live;
pub mod status;
