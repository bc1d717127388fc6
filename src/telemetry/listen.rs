//! Whether hopend listens at an address of `listen`, and why not.

use std::fmt;
use std::io;

use jiff::Timestamp;

use crate::config::ListenAddress;
use crate::identity::holder::SocketHolder;

/// The state of one entry of `listen`. The log, `hopend status`, `/readyz`, the metrics, the status page and
/// the console report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressState {
    /// hopend listens at this address. It contains the port that the system chose for port 0.
    Bound(ListenAddress),
    /// hopend does not listen. It tries to bind the address again at least every 5 seconds.
    Unbound(UnboundAddress),
}

/// An entry of `listen` that hopend could not bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundAddress {
    /// The address as configured.
    pub address: ListenAddress,
    /// When binding first failed.
    pub since: Timestamp,
    /// Why binding fails.
    pub obstacle: BindObstacle,
}

/// Why an address cannot be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindObstacle {
    /// Another process occupies the socket. Clients may reach that process instead of hopend.
    Taken {
        /// The occupied socket. For `localhost`, which stands for two sockets, the occupied one of the
        /// two.
        socket: ListenAddress,
        /// The process, if the kernel reports it.
        holder: Option<SocketHolder>,
    },
    /// The system refuses the address with this error.
    Refused(String),
}

impl AddressState {
    /// The address where hopend listens, if it does.
    pub fn bound(&self) -> Option<&ListenAddress> {
        match self {
            Self::Bound(address) => Some(address),
            Self::Unbound(_) => None,
        }
    }

    /// The address and the obstacle, if hopend does not listen.
    pub fn unbound(&self) -> Option<&UnboundAddress> {
        match self {
            Self::Bound(_) => None,
            Self::Unbound(unbound) => Some(unbound),
        }
    }

    /// Records that the system took the sockets of a bound address away, which only a restart repairs.
    pub(crate) fn set_lost(&mut self, error: &io::Error) {
        if let Self::Bound(address) = self {
            *self = Self::Unbound(UnboundAddress {
                address: address.clone(),
                since: Timestamp::now(),
                obstacle: BindObstacle::Refused(error.to_string()),
            });
        }
    }

    /// Records another failed attempt to bind. Returns whether the obstacle has changed.
    pub(crate) fn set_obstacle(&mut self, obstacle: BindObstacle) -> bool {
        let Self::Unbound(unbound) = self else {
            return false;
        };
        let changed = obstacle != unbound.obstacle;
        unbound.obstacle = obstacle;
        changed
    }
}

impl UnboundAddress {
    /// The socket that another process occupies.
    pub fn socket(&self) -> Option<&ListenAddress> {
        match &self.obstacle {
            BindObstacle::Taken { socket, .. } => Some(socket),
            BindObstacle::Refused(_) => None,
        }
    }

    /// The process that occupies the socket, if the kernel reports it.
    pub fn holder(&self) -> Option<&SocketHolder> {
        match &self.obstacle {
            BindObstacle::Taken { holder, .. } => holder.as_ref(),
            BindObstacle::Refused(_) => None,
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
