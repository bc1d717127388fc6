//! Who is on the other end of a connection, and who may they be here.

pub mod password;
mod peer;
mod penalty;
mod proc_net;
mod sock_diag;
mod socket;

pub use peer::{Peer, PeerError, is_exposed};
pub use penalty::Penalties;
