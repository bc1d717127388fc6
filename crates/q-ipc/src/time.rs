//! Times as q counts them: nanoseconds in a long, of which the least stands for none.

use std::time::{Duration, SystemTime};

/// 2000-01-01 in seconds since 1970.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// Of a timestamp or timespan that is not known: `0Np`, `0Nn`.
pub const NULL: i64 = i64::MIN;

/// A timestamp: nanoseconds since 2000. Null before that, and from 2292 on.
pub fn timestamp(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH + EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(NULL)
}

/// A timespan of so many seconds. Null for what is none, or less than none.
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
