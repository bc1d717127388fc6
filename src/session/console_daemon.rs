//! Gives a console session access to the parts of the daemon that it shows.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinError;

use super::Services;
use crate::console::{ConsoleDaemon, ConsoleEndpoint};
use crate::telemetry::audit::AuditRecord;
use crate::telemetry::status::Status;
use base::error::ErrorKind;

/// The daemon's [`ConsoleDaemon`] for one console session. It adds the session's audit record to each
/// failure.
pub(super) struct SessionDaemon<'s> {
    pub(super) services: &'s Arc<Services>,
    pub(super) record: &'s AuditRecord,
}

impl ConsoleDaemon for SessionDaemon<'_> {
    fn endpoints(&self) -> Vec<ConsoleEndpoint> {
        let served = self.services.live.endpoints().into_iter();
        served
            .map(|served| ConsoleEndpoint {
                endpoint: served.endpoint,
                listen: served.listen,
            })
            .collect()
    }

    fn status(&self) -> BoxFuture<'_, Result<Arc<Status>, JoinError>> {
        Box::pin(Arc::clone(self.services).look())
    }

    fn record_failure(&self, kind: ErrorKind, message: &str) {
        self.services.live.failed(self.record, kind, message);
    }
}
