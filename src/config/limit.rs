//! Limits that the daemon, an endpoint and a user have alike. Each is `None` where a value is wrong,
//! and `Some(None)` where there is no limit.

use std::time::Duration;

use super::OpensPerUser;
use super::reader::Table;
use crate::config::MaxMemory;

const MOST_SESSIONS: u64 = 1 << 20;
const MOST_OPENS: u64 = 1 << 20;
const SHORTEST_IDLE: Duration = Duration::from_millis(100);
const LONGEST_IDLE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// With less there is no room for a few handshakes and sessions, in bytes.
const LEAST_MEMORY: u64 = 16 << 20;

/// `max_memory`: a number of bytes, or a share such as `"40%"`.
pub(super) fn memory(table: &Table<'_>) -> Option<MaxMemory> {
    let value = table.get("max_memory")?;
    let Some(percent) = value.raw().as_str().and_then(|text| text.strip_suffix('%')) else {
        return value.bytes(LEAST_MEMORY, u64::MAX).map(MaxMemory::Bytes);
    };
    match percent.trim_end().parse() {
        Ok(percent @ 1..=90) => Some(MaxMemory::Percent(percent)),
        _ => {
            value.problem(
                "is not a share of the memory",
                "write \"1%\" to \"90%\", or a number of bytes such as \"512MB\"",
            );
            None
        }
    }
}

/// A number of sessions.
pub(super) fn sessions(table: &Table<'_>, key: &str) -> Option<Option<usize>> {
    let Some(value) = table.get(key) else {
        return Some(None);
    };
    let count = value.count(1, MOST_SESSIONS)?;
    usize::try_from(count).ok().map(Some)
}

/// `max_opens_per_second`.
pub(super) fn rate(table: &Table<'_>) -> Option<Option<u32>> {
    let Some(value) = table.get("max_opens_per_second") else {
        return Some(None);
    };
    let count = value.count(1, MOST_OPENS)?;
    u32::try_from(count).ok().map(Some)
}

/// `max_opens_per_second_per_user`: a number, or `"off"`.
pub(super) fn rate_per_user(table: &Table<'_>) -> Option<OpensPerUser> {
    let Some(value) = table.get("max_opens_per_second_per_user") else {
        return Some(OpensPerUser::Default);
    };
    match value.raw().as_str() {
        Some("off") => return Some(OpensPerUser::Unlimited),
        Some(_) => {
            value.problem(
                "is neither a number nor \"off\"",
                "write a number of opens a second, or \"off\" for no limit",
            );
            return None;
        }
        None => {}
    }
    let count = value.count(1, MOST_OPENS)?;
    u32::try_from(count).ok().map(OpensPerUser::PerSecond)
}

/// `idle_timeout` or `max_session_time`: a duration, or `"off"`.
pub(super) fn time(table: &Table<'_>, key: &str) -> Option<Option<Duration>> {
    let Some(value) = table.get(key) else {
        return Some(None);
    };
    if value.raw().as_str() == Some("off") {
        return Some(None);
    }
    value.duration(SHORTEST_IDLE, LONGEST_IDLE).map(Some)
}
