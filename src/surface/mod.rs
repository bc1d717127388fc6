//! Where a running daemon shows its state and takes orders: HTTP, the control socket, metrics and the
//! status page.

pub mod admin;
pub mod control;
pub mod metrics;
pub mod page;
pub mod status;
pub mod visitors;
