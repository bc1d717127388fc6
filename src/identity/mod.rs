//! Identifies the client of a connection.
//!
//! - [`Peer`] holds the kernel's information about the client.
//! - [`Authenticator::identify`] applies the rules that find the configured user.
//! - [`Penalties`] delay a client that guesses passwords.

pub(crate) mod account_lookup;
mod accounts;
mod attempt_queue;
pub mod client_tls;
mod denied;
#[cfg(test)]
mod fixtures;
pub mod holder;
mod identify;
mod origin;
pub mod password;
mod peer;
mod penalty;
pub(crate) mod process;
mod rules;

pub use accounts::{AccountName, Nameless};
pub use denied::{Denied, Reason};
pub use identify::{Authenticator, Proof};
pub use origin::Origin;
pub use peer::{Peer, PeerError, is_exposed};
pub use penalty::{Guess, Penalties};
