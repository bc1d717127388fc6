//! The relay between a q client and kdb+: TLS streams, buffers within a memory budget, and the two
//! directions of a session with their keepalive.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod budget;
mod buffer;
pub mod crypto;
pub mod histogram;
pub mod relay;
pub mod tls_stream;
