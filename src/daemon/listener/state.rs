//! The state of a listen address: bound, or not bound and why.

use std::fmt;
use std::io;

use jiff::Timestamp;

use super::bind_error::BindError;
use crate::config::ListenAddress;
use crate::identity::holder::Holder;

/// The state of one entry of `listen`, as the log, `hopend status`, `/readyz`, the metrics, the status
/// page and the console show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressState {
    /// hopend listens at this address. For port 0 it holds the port that the system chose.
    Bound(ListenAddress),
    /// hopend does not listen, and tries again: at least every [`super::LONGEST_BIND_PAUSE`].
    Unbound(UnboundAddress),
}

/// A configured address that is not bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundAddress {
    /// The address as configured.
    pub address: ListenAddress,
    /// The time of the first failure.
    pub since: Timestamp,
    /// The reason.
    pub obstacle: BindObstacle,
}

/// The reason why an address could not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindObstacle {
    /// Another socket has the address, so clients may reach another account instead of hopend.
    Taken {
        /// The address of that socket. For `localhost` it is an IPv4 or IPv6 address.
        socket: ListenAddress,
        /// The process that has the socket. None if the kernel does not tell.
        holder: Option<Holder>,
    },
    /// The system refused the bind, for this reason.
    Refused(String),
}

impl AddressState {
    /// The address at which clients reach hopend, if it is bound.
    pub fn bound(&self) -> Option<&ListenAddress> {
        match self {
            Self::Bound(address) => Some(address),
            Self::Unbound(_) => None,
        }
    }

    /// The details of the failure, if the address is not bound.
    pub fn unbound(&self) -> Option<&UnboundAddress> {
        match self {
            Self::Bound(_) => None,
            Self::Unbound(unbound) => Some(unbound),
        }
    }

    /// Records that the sockets of a bound address failed. Only a restart brings them back.
    pub(crate) fn set_lost(&mut self, error: &io::Error) {
        if let Self::Bound(address) = self {
            *self = Self::Unbound(UnboundAddress {
                address: address.clone(),
                since: Timestamp::now(),
                obstacle: BindObstacle::Refused(error.to_string()),
            });
        }
    }

    /// Records another failed bind. Returns whether the obstacle has changed.
    pub(super) fn record_failure(&mut self, error: &BindError) -> bool {
        let Self::Unbound(unbound) = self else {
            return false;
        };
        let obstacle = BindObstacle::of(error);
        let changed = obstacle != unbound.obstacle;
        unbound.obstacle = obstacle;
        changed
    }
}

impl UnboundAddress {
    /// Records a bind that failed at this moment.
    pub fn now(error: &BindError) -> Self {
        Self {
            address: error.address.clone(),
            since: Timestamp::now(),
            obstacle: BindObstacle::of(error),
        }
    }

    /// The socket of another process that has the address.
    pub fn socket(&self) -> Option<&ListenAddress> {
        match &self.obstacle {
            BindObstacle::Taken { socket, .. } => Some(socket),
            BindObstacle::Refused(_) => None,
        }
    }

    /// The process that has the address, if the kernel tells.
    pub fn holder(&self) -> Option<&Holder> {
        match &self.obstacle {
            BindObstacle::Taken { holder, .. } => holder.as_ref(),
            BindObstacle::Refused(_) => None,
        }
    }
}

impl BindObstacle {
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

impl fmt::Display for BindObstacle {
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
