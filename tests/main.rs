//! The behaviours of hopend, one file each, in one program: real sockets, real TLS, the real AWS SDK
//! against the simulator.

// A test that can't go on stops with what it found.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]
// Each module uses its own part of the support.
#![allow(dead_code, unreachable_pub, missing_docs)]

mod support;

mod aws_troubles;
mod bad_input;
mod boto3_judges_the_simulator;
mod credentials;
mod identity;
mod keepalive;
mod real_clients;
mod upstream_troubles;
