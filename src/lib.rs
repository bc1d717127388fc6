//! `hopend` gives q processes plain `hopen` endpoints for kdb+ that sits behind IAM, TLS and
//! credentials that expire.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod q;
pub mod secret;
pub mod sim;
