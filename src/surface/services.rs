//! Gives the administrators' interfaces their narrow view of the services that all sessions share.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::admin::AdminView;
use super::control::ControlView;
use super::metrics::MetricsSnapshot;
use super::{StatusSnapshot, StatusSource};
use crate::config::{Endpoint, LeftOutPart};
use crate::session::Services;
use crate::telemetry::live::{
    DaemonTotals, EndingSessions, EndpointReadiness, Grants, GrantsPreview, NoSuchSession,
    SessionSelection,
};

impl StatusSource for Services {
    fn snapshot(self: Arc<Self>) -> StatusSnapshot {
        Box::pin(self.look())
    }
}

impl AdminView for Services {
    fn readiness(&self) -> Vec<EndpointReadiness> {
        self.live.readiness()
    }

    fn endpoints_left_out(&self) -> Vec<LeftOutPart> {
        self.live.endpoints_left_out()
    }

    fn totals(&self) -> DaemonTotals {
        self.live.totals(&self.credentials)
    }

    fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            totals: self.totals(),
            audit_lines_lost: self.audit.lost(),
            log_lines_lost: self.lost_log_lines.count(),
            left_out: self.live.left_out(),
            memory: self.memory(),
        }
    }
}

impl ControlView for Services {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let bound = self.live.endpoints().into_iter();
        bound.map(|bound| bound.endpoint).collect()
    }

    fn kill(&self, session: u64, uid: u32) -> BoxFuture<'_, Result<(), NoSuchSession>> {
        Box::pin(self.live.kill(session, uid))
    }

    fn kill_all(&self, selection: &SessionSelection, uid: u32) -> EndingSessions {
        self.live.kill_all(selection, uid)
    }

    fn preview_grants(&self, grants: &Grants) -> GrantsPreview {
        self.live.preview_grants(grants)
    }

    fn is_of_earlier_run(&self, session: u64) -> bool {
        self.sessions.is_earlier(session)
    }
}
