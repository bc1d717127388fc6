//! Leaves: what several layers use, and what uses no layer of this crate.

pub mod lines;
pub mod log;
pub(crate) mod numbers;
pub mod opening;
pub(crate) mod printable;
pub(crate) mod race;
pub(crate) mod share;
pub(crate) mod shared_answers;
pub(crate) mod shown;
pub(crate) mod socket;
pub mod stop;
