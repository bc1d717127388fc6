//! q's inter-process protocol as pure functions over bytes: no socket, no clock.
//!
//! Source: <https://code.kx.com/q/basics/ipc/> and
//! <https://code.kx.com/q/kb/serialization/>.

pub mod compress;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod time;
pub mod value;
