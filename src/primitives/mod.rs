//! Small tools that several layers use. They use no layer of this crate.

pub(crate) mod kernel_sockets;
pub mod lines;
pub mod log;
pub(crate) mod numbers;
pub(crate) mod printable;
pub(crate) mod race;
pub(crate) mod shared_answers;
pub(crate) mod shown;
pub(crate) mod socket;
pub mod stop;
