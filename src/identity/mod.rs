//! Who is on the other end of a connection, and who may they be here.
//!
//! [`Peer`] is what the kernel says about a connection, [`Authenticator::identify`] the rules that
//! make a configured user of it and of what hopen said, [`Penalties`] the price of failing.

pub(crate) mod account_lookup;
mod accounts;
pub mod client_tls;
pub mod holder;
mod identify;
mod origin;
pub mod password;
mod peer;
mod penalty;
pub mod process;

pub use accounts::{AccountName, Accounts, Nameless};
pub use identify::{Authenticator, Denied, Proof, Reason};
pub use origin::Origin;
pub use peer::{Peer, PeerError, is_exposed};
pub use penalty::{Guess, Penalties};
