//! The daemon as a process: it starts, binds its addresses, reloads, confines itself and stops.

pub mod app;
pub mod confine;
pub mod listener;
pub mod memory;
pub mod service;
pub mod workers;
