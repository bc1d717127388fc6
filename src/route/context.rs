//! For whom and why hopend dials kdb+.

use std::sync::Arc;

use crate::config::{Endpoint, User};
use crate::credential::Credentials;
use crate::primitives::opening::Laps;
use crate::upstream::DialledEndpoints;
use q_ipc::handshake::Hello;
use secret::Secret;

/// For whom and why hopend dials kdb+. All attempts of one opening share it.
#[derive(Debug)]
pub(super) struct DialContext {
    pub(super) user: Arc<User>,
    /// The client's handshake. Without a client it holds the capability alone.
    pub(super) hello: Hello,
    pub(super) credentials: Credentials,
    pub(super) purpose: DialPurpose,
    /// Measures each stage of the opening.
    pub(super) laps: Arc<Laps>,
    /// The endpoints that the session has come through. Keeps hopend from dialling itself in a loop.
    pub(super) trail: Arc<DialledEndpoints>,
}

/// Why hopend dials kdb+.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialPurpose {
    /// A session waits for the connection. If no other address is left, hopend tries resting ones too.
    Session,
    /// The connection goes into a warm pool, for a later session.
    WarmPool,
}

impl DialContext {
    /// For a connection that goes into the warm pool of `user`, for clients of this capability.
    pub(super) fn of_warm_pool(
        endpoint: &Arc<Endpoint>,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) -> Self {
        Self {
            user: Arc::clone(user),
            hello: Hello {
                user: String::new(),
                password: Secret::default(),
                capability,
            },
            credentials: credentials.clone(),
            purpose: DialPurpose::WarmPool,
            laps: Arc::default(),
            trail: DialledEndpoints::of_none(endpoint),
        }
    }
}
