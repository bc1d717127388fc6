//! The behaviours of hopend, one file each, in one program: real sockets, real TLS, the real AWS SDK
//! against the simulator.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on stops with what it found"
)]
#![allow(
    clippy::print_stdout,
    reason = "figures and skipped steps are for whoever runs the tests"
)]
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "this is a program, not a library"
)]

mod support;

mod addresses;
mod admin;
mod attacks;
mod audit;
mod aws_troubles;
mod bad_input;
mod big_messages;
mod boto3_judges_the_simulator;
mod callbacks;
mod client_tls;
mod command;
mod confine;
mod console;
mod credentials;
mod delivery;
#[cfg(feature = "demo")]
mod demo;
mod discovery;
mod doctor;
mod explain;
mod failover;
mod faults;
mod fuzz;
mod hanging_reload;
mod identity;
mod keepalive;
mod layers;
mod left_out;
mod limits;
mod logins;
mod man;
mod memory;
mod nodes;
mod policies;
#[cfg(feature = "demo")]
mod readme;
mod real_clients;
mod reload;
mod removal;
mod restart;
mod secrets;
mod service;
mod status;
mod status_page;
mod stopping;
mod telemetry;
mod tls;
mod warm;
