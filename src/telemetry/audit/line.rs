//! One audit line, as it is written to the log and to the audit file.

use std::fmt::Display;

use jiff::{Timestamp, Unit};
use serde::{Serialize, Serializer};

use super::file::AuditFile;
use crate::identity::Nameless;

/// The event that a line reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AuditEvent {
    Open,
    Refused,
    Ended,
}

/// The fields of a line, in the order in which JSON shows them. README.md describes each. A line leaves out the
/// fields that do not apply or are not known yet.
#[derive(Debug, Clone, Serialize)]
pub(super) struct AuditLine<'a> {
    #[serde(serialize_with = "milliseconds")]
    pub(super) timestamp: Timestamp,
    pub(super) event: AuditEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
    pub(super) session: u64,
    pub(super) endpoint: &'a str,
    pub(super) listen: &'a str,
    pub(super) client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) program: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "displayed")]
    pub(super) account_unknown: Option<Nameless>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hopen_user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role_session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) times: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_session: Option<u64>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "some_milliseconds"
    )]
    pub(super) since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pings: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unacknowledged_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unacknowledged_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'a str>,
}

impl AuditLine<'_> {
    /// Writes the line to the log and to the audit file.
    pub(super) fn write(&self, file: &AuditFile) {
        self.log();
        file.write(self);
    }

    /// Writes the line to the log. The log escapes text that a client may have chosen.
    fn log(&self) {
        macro_rules! log {
            ($level:expr, $($message:tt)*) => {
                tracing::event!(
                    target: "hopend::telemetry::audit",
                    $level,
                    session = self.session,
                    endpoint = self.endpoint,
                    listen = self.listen,
                    client = %self.client,
                    uid = self.uid,
                    pid = self.pid,
                    program = self.program,
                    account = self.account,
                    account_unknown = self.account_unknown.map(|why| why.to_string()),
                    hopen_user = self.hopen_user,
                    certificate = self.certificate,
                    user = self.user,
                    role_session = self.role_session,
                    to = self.to.map(tracing::field::display),
                    node = self.node,
                    warm = self.warm,
                    open_ms = self.open_ms,
                    after_ms = self.after_ms,
                    times = self.times,
                    first_session = self.first_session,
                    since = self.since.map(tracing::field::display),
                    seconds = self.seconds,
                    bytes_up = self.bytes_up,
                    bytes_down = self.bytes_down,
                    messages_up = self.messages_up,
                    messages_down = self.messages_down,
                    pings = self.pings,
                    lost_up = self.lost_up,
                    lost_down = self.lost_down,
                    unacknowledged_up = self.unacknowledged_up,
                    unacknowledged_down = self.unacknowledged_down,
                    kind = self.kind,
                    $($message)*
                )
            };
        }
        let reason = self.reason.unwrap_or_default();
        match self.event {
            AuditEvent::Ended if self.times.is_some() => {
                log!(tracing::Level::INFO, "short sessions ended: {reason}");
            }
            AuditEvent::Open => log!(tracing::Level::INFO, "session open"),
            AuditEvent::Refused => log!(tracing::Level::WARN, "session refused: {reason}"),
            AuditEvent::Ended => log!(tracing::Level::INFO, "session ended: {reason}"),
        }
    }

    /// The line as a JSON object with a newline. `None` if it cannot be serialised, which does not happen.
    pub(super) fn json(&self) -> Option<Vec<u8>> {
        let mut json = serde_json::to_vec(self).ok()?;
        json.push(b'\n');
        Some(json)
    }
}

fn some_milliseconds<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => milliseconds(time, to),
        None => to.serialize_none(),
    }
}

fn displayed<S: Serializer>(value: &Option<impl Display>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

/// A time as RFC 3339 in UTC, with three decimals, so that all have the same length.
pub(super) fn milliseconds<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    let time = time.round(Unit::Millisecond).unwrap_or(*time);
    to.collect_str(&format_args!("{time:.3}"))
}
