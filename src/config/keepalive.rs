//! `keepalive` of an endpoint.

use std::time::Duration;

use super::reader::Value;
use q_relay::relay::{KeepaliveMode, KeepaliveSettings};

pub(super) const KEYS: &[&str] = &["every", "message", "mode", "answer_timeout"];

/// Far within the 350 s after which the VPC endpoint drops a silent connection.
const EVERY: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(350);
/// Longer than the hour that a query may take: a q that computes answers no keepalive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2 * 3600);
const SHORTEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The keepalive of an endpoint that sets none.
pub(super) fn default() -> KeepaliveSettings {
    KeepaliveSettings::On {
        every: EVERY,
        message: String::new(),
        mode: KeepaliveMode::Async,
    }
}

/// Reads `"60s"`, `"off"` or `{ every, message, mode, answer_timeout }`.
pub(super) fn read(value: &Value<'_>) -> Option<KeepaliveSettings> {
    let how = "write \"60s\", \"off\" or { every = \"60s\" }";
    if value.raw().as_str() == Some("off") {
        return Some(KeepaliveSettings::Off);
    }
    if value.raw().is_str() {
        return Some(KeepaliveSettings::On {
            every: interval(value)?,
            message: String::new(),
            mode: KeepaliveMode::Async,
        });
    }
    if !value.raw().is_table() {
        value.wrong_type("a duration, \"off\" or a table", how);
        return None;
    }
    let table = value.table(how)?;
    table.only(KEYS);
    let every = table.get("every").map_or(Some(EVERY), |v| interval(&v));
    let message = table
        .get("message")
        .map_or(Some(""), |message| message.text());
    let limit = table.get("answer_timeout");
    let answer_timeout = limit.as_ref().map_or(Some(ANSWER_TIMEOUT), |limit| {
        limit.duration(SHORTEST_ANSWER_TIMEOUT, LONGEST_ANSWER_TIMEOUT)
    });
    let modes = [("async", false), ("sync", true)];
    let mode = table.get("mode");
    let is_sync = mode.map_or(Some(false), |mode| mode.word(&modes));
    if let (Some(false), Some(limit)) = (is_sync, &limit) {
        limit.problem(
            "has no meaning with mode = \"async\", whose keepalives have no answer",
            "remove it, or write mode = \"sync\"",
        );
        return None;
    }
    let mode = match (is_sync?, answer_timeout?) {
        (true, answer_timeout) => KeepaliveMode::Sync { answer_timeout },
        (false, _) => KeepaliveMode::Async,
    };
    Some(KeepaliveSettings::On {
        every: every?,
        message: message?.to_owned(),
        mode,
    })
}

fn interval(value: &Value<'_>) -> Option<Duration> {
    let every = value.duration(SHORTEST, Duration::MAX)?;
    if every >= LONGEST {
        value.problem(
            "is too long: connections end after 350 s without a byte",
            "write less than \"350s\", such as \"60s\"",
        );
        return None;
    }
    Some(every)
}
