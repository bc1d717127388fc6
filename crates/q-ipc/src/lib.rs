#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod compress;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod time;
pub mod value;
