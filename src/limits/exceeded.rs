//! The errors of the limits, with the names that their messages use.

use std::fmt;

use crate::primitives::shown::bytes;
use q_relay::budget::OverBudget;

/// A limit that a connection or a session would exceed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// The owner has as many sessions as it may have.
    #[error("{owner} has {count} sessions, which is {key}. Fix: close some, or raise it.")]
    Sessions {
        /// The party that the limit applies to.
        owner: LimitOwner,
        /// The number of its open sessions.
        count: usize,
        /// The key of the configuration that sets the limit.
        key: &'static str,
    },
    /// The owner opens sessions too fast.
    #[error(
        "{owner} opens more than {rate} sessions a second ({key}). Fix: keep handles open, or raise it."
    )]
    Opens {
        /// The party that the limit applies to.
        owner: LimitOwner,
        /// The limit, in sessions a second.
        rate: u32,
        /// The key of the configuration that sets the limit.
        key: &'static str,
    },
    /// The memory budget is used up, or the part of it that this user or all handshakes may use.
    #[error(
        "hopend has no memory for {user}: {} of {} (max_memory of [daemon]) are in use{}. Fix: find the \
         clients that read nothing (`hopend status`), or raise max_memory.",
        shown(.over.used), shown(.over.limit), share(.user, .over)
    )]
    Memory {
        /// The part of the daemon that needs memory.
        user: MemoryUser,
        /// The state of the budget, in bytes.
        over: OverBudget,
    },
    /// One account or host, or all other hosts together, have too many connections whose clients have not
    /// identified themselves.
    #[error(
        "{peer} has {count} connections that have not said who they are, and may have no more. Fix: find \
         out what opens them."
    )]
    Unidentified {
        /// The account or host.
        peer: String,
        /// The number of its connections.
        count: usize,
    },
}

/// The party that a limit applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitOwner {
    /// The daemon as a whole.
    Daemon,
    /// The endpoint of this name.
    Endpoint(String),
    /// The user of this name, at all endpoints.
    User(String),
    /// A user at one endpoint.
    UserAtEndpoint {
        /// The user's name.
        user: String,
        /// The endpoint's name.
        endpoint: String,
    },
}

/// The part of the daemon that needs memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryUser {
    /// The handshake of a client that has not identified itself yet.
    Handshake,
    /// A session of the user of this name.
    Session(String),
}

impl fmt::Display for LimitOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str("hopend"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::User(name) => write!(f, "user {name}"),
            Self::UserAtEndpoint { user, endpoint } => {
                write!(f, "user {user} at endpoint {endpoint}")
            }
        }
    }
}

impl fmt::Display for MemoryUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake => f.write_str("a handshake"),
            Self::Session(user) => write!(f, "a session of user {user}"),
        }
    }
}

/// A number of bytes for people.
fn shown(count: usize) -> String {
    bytes(count as u64)
}

/// The part of the used memory that the limited party holds.
fn share(user: &MemoryUser, over: &OverBudget) -> String {
    let held = shown(over.held);
    match user {
        MemoryUser::Handshake => format!(", {held} of them by handshakes"),
        MemoryUser::Session(_) => format!(", {held} of them by the sessions of this user"),
    }
}
