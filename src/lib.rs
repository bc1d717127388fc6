//! `hopend` gives q processes plain `hopen` endpoints for kdb+ that sits behind IAM, TLS and
//! credentials that expire.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
pub mod config;
pub mod console;
pub mod credential;
pub mod daemon;
mod doctor;
pub mod identity;
pub mod limits;
mod listener;
pub(crate) mod policy;
pub mod primitives;
pub mod route;
pub mod session;
pub mod surface;
pub mod telemetry;
pub mod upstream;
