//! Converts failures to bind an address of `listen` into the states that the telemetry shows.

use jiff::Timestamp;

use super::bind_error::BindError;
use crate::telemetry::listen::BindObstacle;
pub(crate) use crate::telemetry::listen::{AddressState, UnboundAddress};

impl UnboundAddress {
    /// The state of an address that the daemon has just failed to bind.
    pub fn now(error: &BindError) -> Self {
        Self {
            address: error.address.clone(),
            since: Timestamp::now(),
            obstacle: error.into(),
        }
    }
}

impl From<&BindError> for BindObstacle {
    fn from(error: &BindError) -> Self {
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
