//! A connection to a kdb+ that has accepted a login, and the facts that decide which sessions may have it.

use crate::credential::{Credentials, GenerationStatus, Recipe};
use crate::upstream::Upstream;
use q_ipc::handshake::Hello;
use secret::Secret;

/// The connection to kdb+ that a session is given.
#[derive(Debug)]
pub struct KdbConnection {
    /// The connection.
    pub upstream: Upstream,
    /// The id of the node that hopend has chosen. None if hopend does not choose the node.
    pub node: Option<String>,
    /// Whether the connection was logged in before the session began, and waited in a warm pool.
    pub warm: bool,
}

/// A connection with the address and the login that it was made with.
#[derive(Debug)]
pub(super) struct LoggedInConnection {
    pub(super) upstream: Upstream,
    pub(super) address: DialedAddress,
    pub(super) login: LoginSource,
}

/// Which of a target's addresses a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DialedAddress {
    /// hopend had no choice: the connection string named the address.
    FromLogin,
    /// The node of this id, which hopend has chosen.
    Node(String),
    /// This address of `connect`.
    Configured(String),
}

/// The addresses to which a session would go if it was opened now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PreferredAddresses {
    /// hopend has no choice: the connection string names the address.
    FromLogin,
    /// One of these. Empty if all addresses rest.
    OneOf(Vec<String>),
}

/// The login that hopend presents to kdb+.
#[derive(Debug, Clone)]
pub(super) struct PresentedLogin {
    pub(super) hello: Hello,
    pub(super) source: LoginSource,
}

/// Where a login came from.
#[derive(Debug, Clone)]
pub(super) enum LoginSource {
    /// The client sent it.
    Client,
    /// The endpoint has a login of its own. This is the password that its file held.
    Fixed(Secret),
    /// The credential cache issued it.
    IssuedCredential {
        /// The cache's key.
        recipe: Recipe,
        /// Counts the fetches for that key.
        generation: u64,
    },
}

impl LoggedInConnection {
    /// Hands the connection to a session. `warm` tells whether it comes from a warm pool.
    pub(super) fn into_kdb_connection(self, warm: bool) -> KdbConnection {
        let node = match self.address {
            DialedAddress::Node(id) => Some(id),
            DialedAddress::FromLogin | DialedAddress::Configured(_) => None,
        };
        KdbConnection {
            upstream: self.upstream,
            node,
            warm,
        }
    }
}

impl PreferredAddresses {
    /// Whether a session would go to the address that a connection leads to.
    pub(super) fn include(&self, dialed: &DialedAddress) -> bool {
        match (self, dialed) {
            (Self::FromLogin, DialedAddress::FromLogin) => true,
            (Self::OneOf(names), DialedAddress::Node(name) | DialedAddress::Configured(name)) => {
                names.contains(name)
            }
            (Self::FromLogin, _) | (Self::OneOf(_), DialedAddress::FromLogin) => false,
        }
    }

    /// Whether all addresses rest.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::FromLogin => false,
            Self::OneOf(names) => names.is_empty(),
        }
    }

    /// Keeps only the addresses for which `keep` is true.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        match self {
            Self::FromLogin => {}
            Self::OneOf(names) => names.retain(|name| keep(name)),
        }
    }
}

impl LoginSource {
    /// Whether a session that begins now could have logged in with this login. `password` is the
    /// present password of the endpoint's own login. Without it, that login counts as unchanged.
    pub(super) fn generation_status(
        &self,
        password: Option<&Secret>,
        credentials: &Credentials,
    ) -> GenerationStatus {
        match self {
            Self::Fixed(given) => match password {
                Some(password) if password != given => GenerationStatus::Invalid,
                _ => GenerationStatus::Current,
            },
            Self::IssuedCredential { recipe, generation } => {
                credentials.generation_status(recipe, *generation)
            }
            // Each client brings its own login: no two sessions may share a connection.
            Self::Client => GenerationStatus::Invalid,
        }
    }
}
