//! The way from an endpoint to kdb+: chooses an address, logs in, and hands the connection to a session.
//!
//! - [`PreparedTarget`] is an endpoint's target, ready for sessions. `target` has a type for each kind.
//! - `pool`, `health` and `pace` choose among several addresses. `attempt` tries them, and `probe` finds
//!   out when an address that has failed works again.
//! - `issued` and `password` supply the login, and `dialer` presents it to kdb+.
//! - `nodes` lists the nodes of FinSpace clusters, and `host_zone` tells which of them are near.
//! - `warm` keeps connections logged in for sessions to come.

mod attempt;
mod backoff;
mod capability;
mod connection;
mod context;
mod dialer;
mod error;
mod failures;
mod health;
mod host_zone;
mod issued;
pub mod nodes;
mod pace;
mod password;
mod pool;
mod probe;
mod target;
mod view;
mod warm;

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Endpoint, User};
use crate::credential::{Credentials, Recipe};
use crate::primitives::opening::Laps;
use crate::telemetry::status::{AddressRow, WarmRow};
use crate::upstream::DialledEndpoints;
pub use connection::KdbConnection;
use connection::{LoggedInConnection, PreferredAddresses};
use context::{DialContext, DialPurpose};
pub use error::OpenError;
pub use failures::AllAddressesFailed;
use nodes::NodeListing;
pub(crate) use password::read_password;
use q_ipc::handshake::Hello;
use target::RouteTarget;
pub use target::{ConsoleTarget, PreparedTarget};
use warm::{WarmPools, WarmRequest};

/// The route from an endpoint to kdb+, which all sessions of the endpoint share.
#[derive(Debug)]
pub struct Route {
    endpoint: Arc<Endpoint>,
    target: RouteTarget,
    /// None if the endpoint keeps no connections warm.
    warm: Option<Arc<WarmPools>>,
    /// Closes the warm pools and ends all probes.
    closing: CancellationToken,
}

impl Route {
    /// Must be called within a tokio runtime, on which the warm pools run.
    fn new(endpoint: Arc<Endpoint>, target: RouteTarget, closing: CancellationToken) -> Self {
        Self {
            warm: WarmPools::new(&endpoint, closing.clone()).map(Arc::new),
            endpoint,
            target,
            closing,
        }
    }

    /// Opens kdb+ for a session of `user`. The handshake of the client decides the capability, and the
    /// login if the endpoint has `login = "client"`. `laps` measures each stage.
    pub async fn open(
        self: &Arc<Self>,
        user: &Arc<User>,
        hello: &Hello,
        credentials: &Credentials,
        laps: &Arc<Laps>,
        trail: &Arc<DialledEndpoints>,
    ) -> Result<KdbConnection, OpenError> {
        if let Some(kept) = self.take_warm(user, hello, credentials).await {
            return Ok(kept.into_kdb_connection(true));
        }
        let context = Arc::new(DialContext {
            user: Arc::clone(user),
            hello: hello.clone(),
            credentials: credentials.clone(),
            purpose: DialPurpose::Session,
            laps: Arc::clone(laps),
            trail: Arc::clone(trail),
        });
        let opened = self.target.open(&context).await?;
        Ok(opened.into_kdb_connection(false))
    }

    /// Tells the route that a session of `user` has opened. If the endpoint keeps connections warm, the route
    /// prepares some for the user's next sessions, with the capability of this session.
    pub fn keep_warm(
        self: &Arc<Self>,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) {
        if let Some(warm) = &self.warm {
            warm.session_opened(self, user, capability, credentials);
        }
    }

    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn node_listing(&self) -> Option<&NodeListing> {
        self.target.node_listing()
    }

    fn recipes(&self, user: &User) -> Vec<Recipe> {
        self.target.recipes(user)
    }

    fn address_rows(&self) -> Vec<AddressRow> {
        self.target.address_rows()
    }

    fn warm_rows(&self) -> Vec<WarmRow> {
        self.warm.as_ref().map_or_else(Vec::new, |warm| warm.rows())
    }

    fn guard(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    async fn closed(&self) {
        if let Some(prober) = self.target.prober() {
            prober.ended().await;
        }
        if let Some(warm) = &self.warm {
            warm.closed().await;
        }
    }

    /// Takes a connection from the warm pool of `user`. None if the pool has no connection with the address,
    /// the login and the capability that this session would get if it dialled now.
    async fn take_warm(
        &self,
        user: &User,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Option<LoggedInConnection> {
        let warm = self.warm.as_ref()?;
        if !warm.may_have(&user.name, hello.capability) {
            return None;
        }
        // If hopend cannot read the password, the session dials and is told why.
        let password = self.target.current_password().await.ok()?;
        let login_status = |kept: &LoggedInConnection| {
            kept.login.generation_status(password.as_ref(), credentials)
        };
        let request = WarmRequest {
            capability: hello.capability,
            addresses: self.target.preferred_for_warm(&user.name),
            login_status: &login_status,
        };
        warm.take(&user.name, &request)
    }

    /// The addresses that a session of `user` would try first.
    fn preferred(&self, user: &str) -> PreferredAddresses {
        self.target.preferred(user)
    }

    /// Opens a connection for the warm pool of `user`.
    async fn open_for_warm_pool(
        &self,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) -> Result<LoggedInConnection, OpenError> {
        let context = DialContext::of_warm_pool(&self.endpoint, user, capability, credentials);
        self.target.open(&Arc::new(context)).await
    }
}

#[cfg(test)]
mod tests;
