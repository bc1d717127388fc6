//! `hopend` gives q processes plain `hopen` endpoints for kdb+ that sits behind IAM, TLS and
//! credentials that expire.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod accounts;
pub mod admin;
pub mod app;
pub mod audit;
pub mod auth;
pub mod budget;
pub mod buffer;
pub mod cli;
pub mod client;
pub mod client_tls;
pub mod config;
pub mod confine;
pub mod connection_string;
pub mod console;
pub mod control;
pub mod credential;
pub mod crypto;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod file_access;
pub mod finspace;
pub mod histogram;
pub mod limits;
pub mod lines;
pub mod listener;
pub mod live;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod nodes;
pub mod numbers;
pub mod opening;
pub mod page;
pub mod policy;
mod race;
pub mod relay;
pub mod route;
pub mod service;
pub mod session;
pub(crate) mod shared_answers;
pub mod shown;
pub mod socket;
pub mod status;
pub mod stop;
pub mod upstream;
mod user_namespace;
pub mod visitors;
pub mod watch;
pub mod workers;
