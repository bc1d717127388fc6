//! The traffic that an audit line reports.

use std::ops::Add;
use std::time::Duration;

use super::line::AuditLine;
use q_relay::relay::Meters;

/// The duration and traffic of one session, or of several sessions together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SessionTotals {
    pub(super) lasted: Duration,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) messages_up: u64,
    pub(super) messages_down: u64,
    pub(super) pings: u64,
    pub(super) lost_up: u64,
    pub(super) lost_down: u64,
    pub(super) unacknowledged_up: u64,
    pub(super) unacknowledged_down: u64,
}

impl SessionTotals {
    /// The totals of a session that lasted for `lasted` since its connection was accepted.
    pub(super) fn new(lasted: Duration, meters: &Meters) -> Self {
        let (up, down) = (&meters.to_kdb, &meters.to_client);
        Self {
            lasted,
            bytes_up: up.bytes(),
            bytes_down: down.bytes(),
            messages_up: up.messages(),
            messages_down: down.messages(),
            pings: meters.pings(),
            lost_up: up.lost(),
            lost_down: down.lost(),
            unacknowledged_up: up.unacknowledged(),
            unacknowledged_down: down.unacknowledged(),
        }
    }

    /// Fills the totals in. Losses appear in a line only if there are any, which is rare.
    pub(super) fn fill(self, line: AuditLine<'_>) -> AuditLine<'_> {
        let unless_zero = |count: u64| Some(count).filter(|&count| count > 0);
        AuditLine {
            seconds: Some(self.lasted.as_secs()),
            bytes_up: Some(self.bytes_up),
            bytes_down: Some(self.bytes_down),
            messages_up: Some(self.messages_up),
            messages_down: Some(self.messages_down),
            pings: Some(self.pings),
            lost_up: unless_zero(self.lost_up),
            lost_down: unless_zero(self.lost_down),
            unacknowledged_up: unless_zero(self.unacknowledged_up),
            unacknowledged_down: unless_zero(self.unacknowledged_down),
            ..line
        }
    }
}

impl Add for SessionTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lasted: self.lasted + other.lasted,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
            messages_up: self.messages_up + other.messages_up,
            messages_down: self.messages_down + other.messages_down,
            pings: self.pings + other.pings,
            lost_up: self.lost_up + other.lost_up,
            lost_down: self.lost_down + other.lost_down,
            unacknowledged_up: self.unacknowledged_up + other.unacknowledged_up,
            unacknowledged_down: self.unacknowledged_down + other.unacknowledged_down,
        }
    }
}
