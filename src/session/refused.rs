//! The end of a connection whose client gets no session.

use std::time::Duration;

use base::error::chain;
use tokio::time::timeout;

use super::opening::{Caller, Connection};
use super::refusal::{Refusal, turn_away};
use super::write_repeats_later;
use crate::config::OnOpenFailure;
use crate::limits::{HandshakePermit, SessionPermit};
use crate::session::explain::Explanation;
use crate::telemetry::audit::AuditRefusal;

/// A client that gets no session.
pub(super) struct Refused {
    pub(super) connection: Connection,
    pub(super) refusal: Refusal,
    pub(super) client: RefusedClient,
}

/// Whether hopend knows a client that gets no session.
pub(super) enum RefusedClient {
    /// It has not proven who it is, and never learns a reason. Its permit lasts until the connection is closed,
    /// so that the limits also count clients that hopend has refused and that do not close. None where nobody
    /// limits such clients.
    #[expect(dead_code, reason = "its drop gives the permit back")]
    Unknown(Option<HandshakePermit>),
    /// It is a user of the endpoint, who may learn the reason.
    User { caller: Caller, share: LimitShare },
}

/// The share of the limits that a refused user keeps until it has received the reason.
pub(super) enum LimitShare {
    /// The permit of a client that hopend has not identified. Other clients may wait for it. None if the
    /// number of such clients has no limit.
    Handshake(Option<HandshakePermit>),
    /// A session's share.
    #[expect(dead_code, reason = "its drop gives the share back")]
    Session(SessionPermit),
}

impl LimitShare {
    /// How long the user may keep the share.
    fn limit(&self, handshake_timeout: Duration) -> Duration {
        match self {
            Self::Handshake(Some(_)) => handshake_timeout,
            Self::Handshake(None) | Self::Session(_) => Duration::MAX,
        }
    }
}

impl Refused {
    /// Records the refusal and ends the connection. On an endpoint with `errors = "explain"` a user learns
    /// the reason first.
    pub(super) async fn end(self) {
        let reason = self.record();
        let Self {
            connection,
            refusal,
            client,
        } = self;
        let endpoint = connection.session.target.endpoint();
        let is_explained = endpoint.errors == OnOpenFailure::Explain
            && matches!(refusal, Refusal::Open(_) | Refusal::Limit(_));
        match client {
            RefusedClient::User { caller, share } if is_explained => {
                let explanation = Explanation {
                    capability: caller.capability,
                    early: &caller.early,
                    max_message: endpoint.max_message,
                    reason: &reason,
                };
                let limit = share.limit(endpoint.handshake_timeout);
                let mut draining = connection.session.stopping.clone();
                let mut client = connection.client;
                let given = tokio::select! {
                    given = timeout(limit, explanation.give(&mut client)) => given.unwrap_or(Ok(())),
                    () = draining.draining() => Ok(()),
                };
                if let Err(error) = given {
                    tracing::debug!("the client did not receive the reason: {error}");
                }
                client.close().await;
            }
            client @ (RefusedClient::User { .. } | RefusedClient::Unknown(_)) => {
                turn_away(connection.client, &refusal).await;
                drop(client);
            }
        }
    }

    /// Writes the log line and the audit line. Returns the reason.
    fn record(&self) -> String {
        let Connection {
            session, record, ..
        } = &self.connection;
        let (kind, noise) = (self.refusal.kind(), self.refusal.is_noise());
        let reason = chain(&self.refusal);
        let services = &session.services;
        let refused = AuditRefusal {
            kind,
            reason: &reason,
            noise,
        };
        let due = record.refused(refused, &services.repeats, &services.audit);
        write_repeats_later(services, due);
        if !noise {
            services.live.refused(record, kind, &reason);
        }
        reason
    }
}
