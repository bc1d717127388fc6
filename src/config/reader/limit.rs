//! Reads limits that `[daemon]`, endpoints and users have in common. `None` means no limit.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{TomlTable, TomlValue};
use super::reported::Reported;
use crate::config::endpoint::OpensPerUser;
use crate::config::max_memory::MaxMemory;

/// The valid numbers of sessions.
const SESSIONS: RangeInclusive<u64> = 1..=1 << 20;
/// The valid numbers of opens per second.
const OPENS: RangeInclusive<u64> = 1..=1 << 20;
const SHORTEST_TIME: Duration = Duration::from_millis(100);
const LONGEST_TIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The least memory, in bytes. Less than this has no room for a few handshakes and sessions.
const LEAST_MEMORY: u64 = 16 << 20;

/// Reads `max_memory`: a number of bytes, or a percentage such as `"40%"`.
pub(super) fn memory(value: &TomlValue<'_>) -> Result<MaxMemory, Reported> {
    let Some(percent) = value.raw().as_str().and_then(|text| text.strip_suffix('%')) else {
        return value.bytes(LEAST_MEMORY..=u64::MAX).map(MaxMemory::Bytes);
    };
    match percent.trim_end().parse() {
        Ok(percent @ 1..=90) => Ok(MaxMemory::Percent(percent)),
        _ => Err(value.problem(
            "is not a share of the memory",
            "write \"1%\" to \"90%\", or a number of bytes such as \"512MB\"",
        )),
    }
}

/// Reads a maximum number of sessions.
pub(super) fn sessions(table: &TomlTable<'_>, key: &str) -> Result<Option<usize>, Reported> {
    table.optional(key, |value| value.count(SESSIONS))
}

/// Reads `max_opens_per_second`.
pub(super) fn opens_per_second(table: &TomlTable<'_>) -> Result<Option<u32>, Reported> {
    table.optional("max_opens_per_second", |value| value.count(OPENS))
}

/// Reads `max_opens_per_second_per_user`: a number, or `"off"`.
pub(super) fn opens_per_user(value: &TomlValue<'_>) -> Result<OpensPerUser, Reported> {
    match value.raw().as_str() {
        Some("off") => Ok(OpensPerUser::Unlimited),
        Some(_) => Err(value.problem(
            "is neither a number nor \"off\"",
            "write a number of opens a second, or \"off\" for no limit",
        )),
        None => value.count(OPENS).map(OpensPerUser::PerSecond),
    }
}

/// Reads `idle_timeout` or `max_session_time`: a duration, or `"off"`.
pub(super) fn time(table: &TomlTable<'_>, key: &str) -> Result<Option<Duration>, Reported> {
    match table.get(key) {
        Some(value) if value.raw().as_str() != Some("off") => {
            value.duration(SHORTEST_TIME..=LONGEST_TIME).map(Some)
        }
        _ => Ok(None),
    }
}
