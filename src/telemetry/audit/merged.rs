//! Lines that are not written when their event happens: merged lines, and withheld lines of opened sessions.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::file::AuditFile;
use super::line::{AuditEvent, AuditLine};
use super::record::AuditRecord;
use super::totals::SessionTotals;
use base::error::ErrorKind;

/// A session that ends earlier is short.
pub(super) const SHORT: Duration = Duration::from_secs(10);

/// One line for several events.
#[derive(Debug, Clone)]
pub(super) struct MergedLine {
    pub(super) times: u64,
    pub(super) first_session: u64,
    /// When the first refusal happened, or the first session opened.
    pub(super) since: Timestamp,
    /// The session of the last event.
    pub(super) last: AuditRecord,
    /// The reason of the last event.
    pub(super) reason: String,
    /// The traffic of all sessions. Zero for refusals.
    pub(super) totals: SessionTotals,
}

/// The line of an opened session, withheld until it is known whether the session is short.
#[derive(Debug, Clone)]
pub(super) struct WithheldOpen {
    pub(super) record: AuditRecord,
    pub(super) open_ms: u64,
    pub(super) timestamp: Timestamp,
    pub(super) opened: Instant,
}

impl MergedLine {
    /// Merges a later event. The line shows the record and the reason of the last one.
    pub(super) fn add(&mut self, event: Self) {
        *self = Self {
            times: self.times + event.times,
            first_session: self.first_session,
            since: self.since,
            last: event.last,
            reason: event.reason,
            totals: self.totals + event.totals,
        };
    }

    pub(super) fn write_refusals(&self, kind: ErrorKind, file: &AuditFile) {
        self.write(kind.name(), self.last.line(AuditEvent::Refused), file);
    }

    pub(super) fn write_short_sessions(&self, kind: Option<ErrorKind>, file: &AuditFile) {
        let line = self.totals.fill(self.last.line(AuditEvent::Ended));
        self.write(kind.map_or("none", ErrorKind::name), line, file);
    }

    fn write(&self, kind: &str, line: AuditLine<'_>, file: &AuditFile) {
        let line = AuditLine {
            reason: Some(&self.reason),
            kind: Some(kind),
            times: Some(self.times),
            first_session: Some(self.first_session),
            since: Some(self.since),
            ..line
        };
        line.write(file);
    }
}

impl WithheldOpen {
    pub(super) fn has_lasted(&self, now: Instant) -> bool {
        now - self.opened >= SHORT
    }

    pub(super) fn write(&self, file: &AuditFile) {
        self.record.write_open(self.open_ms, self.timestamp, file);
    }
}
