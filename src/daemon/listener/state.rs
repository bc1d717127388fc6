//! Whether clients reach hopend at an address, and what keeps them from it.

use std::fmt;
use std::io;

use jiff::Timestamp;

use super::socket::BindError;
use crate::config::ListenAddress;
use crate::identity::holder::SocketHolder;

/// The state of one entry of `listen`. The log, `hopend status`, `/readyz`, the metrics, the status page
/// and the console are made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressState {
    /// hopend listens here, at the port that the system chose for port 0.
    Bound(ListenAddress),
    /// hopend does not listen here, and tries again, every [`super::BIND_EVERY`] at the least.
    Unbound(UnboundAddress),
}

/// An address where hopend does not listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundAddress {
    /// As configured.
    pub address: ListenAddress,
    /// When it could not be bound for the first time.
    pub since: Timestamp,
    /// What keeps hopend from it.
    pub obstacle: Obstacle,
}

/// What keeps an address from being bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Another socket has it: clients may reach another account instead of hopend.
    Taken {
        /// The socket: for `localhost`, the one of either family.
        socket: ListenAddress,
        /// Who has it, where the kernel tells.
        holder: Option<SocketHolder>,
    },
    /// The system refuses it.
    Refused(String),
}

impl AddressState {
    /// Where clients reach hopend.
    pub fn bound(&self) -> Option<&ListenAddress> {
        match self {
            Self::Bound(address) => Some(address),
            Self::Unbound(_) => None,
        }
    }

    /// What is wrong, where clients do not.
    pub fn unbound(&self) -> Option<&UnboundAddress> {
        match self {
            Self::Bound(_) => None,
            Self::Unbound(unbound) => Some(unbound),
        }
    }

    /// The system took the sockets of a bound address away. Returns true: nothing brings them back.
    pub(crate) fn is_lost(&mut self, error: &io::Error) -> bool {
        if let Self::Bound(address) = self {
            *self = Self::Unbound(UnboundAddress {
                address: address.clone(),
                since: Timestamp::now(),
                obstacle: Obstacle::Refused(error.to_string()),
            });
        }
        true
    }

    /// Takes in another failure. Returns whether the obstacle is another one than before.
    pub(super) fn fails_still(&mut self, error: &BindError) -> bool {
        let Self::Unbound(unbound) = self else {
            return false;
        };
        let obstacle = Obstacle::of(error);
        let changed = obstacle != unbound.obstacle;
        unbound.obstacle = obstacle;
        changed
    }
}

impl UnboundAddress {
    /// Could not be bound just now.
    pub fn now(error: &BindError) -> Self {
        Self {
            address: error.address.clone(),
            since: Timestamp::now(),
            obstacle: Obstacle::of(error),
        }
    }

    /// The socket that another process has.
    pub fn socket(&self) -> Option<&ListenAddress> {
        match &self.obstacle {
            Obstacle::Taken { socket, .. } => Some(socket),
            Obstacle::Refused(_) => None,
        }
    }

    /// Who has it, where another process does and the kernel tells.
    pub fn holder(&self) -> Option<&SocketHolder> {
        match &self.obstacle {
            Obstacle::Taken { holder, .. } => holder.as_ref(),
            Obstacle::Refused(_) => None,
        }
    }
}

impl Obstacle {
    fn of(error: &BindError) -> Self {
        if error.is_taken() {
            Self::Taken {
                socket: error.socket.clone(),
                holder: error.holder.as_deref().cloned(),
            }
        } else {
            Self::Refused(error.error.to_string())
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken {
                socket,
                holder: Some(holder),
            } => write!(f, "{holder} holds {socket}"),
            Self::Taken {
                socket,
                holder: None,
            } => write!(f, "another process holds {socket}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}
