//! Small tools that several layers use. The tools themselves use no layer of this crate.

pub(crate) mod backoff;
pub(crate) mod kernel_sockets;
pub(crate) mod lines;
pub mod log;
pub(crate) mod numbers;
pub mod opening;
pub(crate) mod printable;
pub(crate) mod race;
pub(crate) mod service;
pub(crate) mod share;
pub(crate) mod shared_answers;
pub(crate) mod shown;
pub mod shutdown;
pub(crate) mod socket;
pub(crate) mod workers;
