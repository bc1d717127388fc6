//! Small tools that several layers use. They use no layer of this crate.

pub(crate) mod backoff;
pub(crate) mod lines;
pub(crate) mod lock;
pub mod log;
pub(crate) mod numbers;
pub(crate) mod race;
pub(crate) mod shared_answers;
pub(crate) mod shown;
pub mod shutdown;
pub(crate) mod socket;
