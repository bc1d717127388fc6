//! Reads the `keepalive` key of an endpoint.

use std::time::Duration;

use q_relay::relay::{KeepaliveMode, KeepaliveSettings};

use super::document::{Choice, TomlValue};
use super::reported::Reported;

pub(in crate::config) const KEYS: &[&str] = &["every", "message", "mode", "answer_timeout"];

const FORM: &str = "write \"60s\", \"off\" or { every = \"60s\" }";
/// The default interval. The VPC endpoint drops a connection that is silent for 350 s.
const EVERY: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(100);
/// The interval must be shorter than this idle limit of the VPC endpoint.
const IDLE_LIMIT: Duration = Duration::from_secs(350);
/// The default time for an answer. A q process that computes answers no keepalive, and a query may take
/// an hour.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2 * 3600);
const SHORTEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The words of `mode`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ModeWord {
    Async,
    Sync,
}

/// The keepalive of an endpoint without the key.
pub(super) fn default() -> KeepaliveSettings {
    every(EVERY)
}

/// Reads `"60s"`, `"off"` or `{ every, message, mode, answer_timeout }`.
pub(super) fn read(value: &TomlValue<'_>) -> Result<KeepaliveSettings, Reported> {
    if value.raw().as_str() == Some("off") {
        return Ok(KeepaliveSettings::Off);
    }
    if value.raw().is_str() {
        return Ok(every(interval(value)?));
    }
    if !value.raw().is_table() {
        return Err(value.wrong_type("a duration, \"off\" or a table", FORM));
    }
    let table = value.table(FORM)?;
    table.reject_keys_except(KEYS);
    let every = table.with_default("every", EVERY, interval);
    let message = table.with_default("message", "", TomlValue::text);
    let answer_timeout = table.with_default("answer_timeout", ANSWER_TIMEOUT, |timeout| {
        timeout.duration(SHORTEST_ANSWER_TIMEOUT..=LONGEST_ANSWER_TIMEOUT)
    });
    let modes = [
        Choice::new("async", ModeWord::Async),
        Choice::new("sync", ModeWord::Sync),
    ];
    let mode = table.with_default("mode", ModeWord::Async, |mode| mode.one_of(&modes));
    if let (Ok(ModeWord::Async), Some(timeout)) = (mode, table.get("answer_timeout")) {
        return Err(timeout.problem(
            "has no meaning with mode = \"async\", whose keepalives have no answer",
            "remove it, or write mode = \"sync\"",
        ));
    }
    let answer_timeout = answer_timeout?;
    Ok(KeepaliveSettings::On {
        mode: match mode? {
            ModeWord::Async => KeepaliveMode::Async,
            ModeWord::Sync => KeepaliveMode::Sync { answer_timeout },
        },
        every: every?,
        message: message?.to_owned(),
    })
}

/// A keepalive with an interval and the default message and mode.
fn every(every: Duration) -> KeepaliveSettings {
    KeepaliveSettings::On {
        every,
        message: String::new(),
        mode: KeepaliveMode::Async,
    }
}

fn interval(value: &TomlValue<'_>) -> Result<Duration, Reported> {
    let every = value.duration(SHORTEST..=Duration::MAX)?;
    if every >= IDLE_LIMIT {
        return Err(value.problem(
            "is too long: connections end after 350 s without a byte",
            "write less than \"350s\", such as \"60s\"",
        ));
    }
    Ok(every)
}
