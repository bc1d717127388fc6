//! Rust's times as q's timestamps and timespans.
//!
//! Both are nanoseconds in a long: a timestamp since 2000-01-01 00:00 UTC, a timespan without a start.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use q_ipc::time;
//!
//! let start_of_2000 = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
//! assert_eq!(time::timestamp(start_of_2000 + Duration::from_secs(1)), 1_000_000_000);
//! assert_eq!(time::timespan(Some(0.5)), 500_000_000);
//! assert_eq!(time::timespan(None), time::NULL);
//! ```
//!
//! Source: <https://code.kx.com/q/basics/datatypes/>.

use std::time::{Duration, SystemTime};

/// From 1970-01-01, where Unix time starts, to 2000-01-01, where q's time starts.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// The null timestamp and timespan, `0Np` and `0Nn` in q: the least long.
pub const NULL: i64 = i64::MIN;

/// A time as a q timestamp, in nanoseconds since 2000-01-01. [`NULL`] for times before 2000, and for
/// times after the year 2292, which a long can't hold.
pub fn timestamp(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH + EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(NULL)
}

/// Seconds as a q timespan, in nanoseconds. [`NULL`] for `None`, for a negative number, for NaN, and
/// for more than 292 years.
pub fn timespan(seconds: Option<f64>) -> i64 {
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .and_then(|span| i64::try_from(span.as_nanos()).ok())
        .unwrap_or(NULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_counts_from_2000() {
        let start = SystemTime::UNIX_EPOCH + EPOCH;
        assert_eq!(timestamp(start), 0);
        assert_eq!(timestamp(start + Duration::from_nanos(7)), 7);
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH), NULL);
        assert_eq!(timestamp(start + Duration::from_secs(10_000_000_000)), NULL);
    }

    #[test]
    fn a_timespan_that_is_none_is_null() {
        assert_eq!(timespan(Some(1.5)), 1_500_000_000);
        for none in [None, Some(-1.0), Some(f64::NAN), Some(1e300)] {
            assert_eq!(timespan(none), NULL, "{none:?}");
        }
    }
}
