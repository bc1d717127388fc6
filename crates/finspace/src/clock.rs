//! The clock of AWS, as the `Date` headers of its answers tell it, and the skew of this host's clock.

use base::mutex::locked;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_sts::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::BoxError;
use aws_smithy_types::date_time::{DateTime, Format};

/// A larger skew is reported. It is the margin by which credentials are renewed before they expire, so a
/// smaller skew does no harm.
const NOTABLE: Duration = Duration::from_secs(30);

/// A reading of AWS's clock. It advances with this host's monotonic clock, so a jump of the wall clock does
/// not affect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwsTime {
    date: SystemTime,
    received: Instant,
}

/// The difference between this host's clock and AWS's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSkew {
    /// This host's clock is ahead by this much.
    Ahead(Duration),
    /// This host's clock is behind by this much.
    Behind(Duration),
}

/// The last reading of AWS's clock by the clients of one environment.
#[derive(Debug, Clone, Default)]
pub(super) struct AwsClock(Arc<Mutex<Option<AwsTime>>>);

impl AwsTime {
    /// A reading from the `Date` of an answer that was received just now.
    pub fn from_date(date: SystemTime) -> Self {
        Self {
            date,
            received: Instant::now(),
        }
    }

    /// The current time by AWS's clock. A jump of this host's clock does not change it.
    pub fn now(&self) -> SystemTime {
        self.date + self.received.elapsed()
    }
}

impl ClockSkew {
    /// The skew between two readings at the same moment.
    pub fn between(host: SystemTime, aws: SystemTime) -> Self {
        match host.duration_since(aws) {
            Ok(ahead) => Self::Ahead(ahead),
            Err(behind) => Self::Behind(behind.duration()),
        }
    }

    /// Whether the skew is large enough to report: more than 30 seconds.
    pub fn is_notable(self) -> bool {
        let (Self::Ahead(skew) | Self::Behind(skew)) = self;
        skew > NOTABLE
    }

    /// Whether two measurements differ by 30 seconds at most, and so need no second report.
    pub fn is_like(self, other: Self) -> bool {
        let seconds = |skew: Self| match skew {
            Self::Ahead(skew) => skew.as_secs_f64(),
            Self::Behind(skew) => -skew.as_secs_f64(),
        };
        (seconds(self) - seconds(other)).abs() <= NOTABLE.as_secs_f64()
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (skew, which) = match self {
            Self::Ahead(skew) => (skew, "ahead of"),
            Self::Behind(skew) => (skew, "behind"),
        };
        let seconds = skew.as_secs();
        match seconds {
            0..600 => write!(f, "{seconds} s {which} AWS's"),
            _ => write!(f, "{} min {which} AWS's", seconds / 60),
        }
    }
}

impl AwsClock {
    /// None until AWS has answered once.
    pub(super) fn time(&self) -> Option<AwsTime> {
        *locked(&self.0)
    }
}

impl Intercept for AwsClock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(response) = context.response() else {
            return Ok(());
        };
        // An answer from a cache has the time at which the cache received it.
        if response.headers().get("age").is_some() {
            return Ok(());
        }
        if let Some(date) = response.headers().get("date").and_then(parse_date) {
            *locked(&self.0) = Some(AwsTime::from_date(date));
        }
        Ok(())
    }
}

/// Parses a date as RFC 9110 writes it.
fn parse_date(date: &str) -> Option<SystemTime> {
    let date = DateTime::from_str(date, Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_and_what_is_none_is_not() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(expected));
        for wrong in ["", "now", "1994-11-06T08:49:37Z", "Sun, 06 Nov 1994"] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_skew_says_which_way_and_how_far() {
        let aws = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let skew = |seconds: i64| {
            let shift = Duration::from_secs(seconds.unsigned_abs());
            let host = if seconds < 0 {
                aws - shift
            } else {
                aws + shift
            };
            ClockSkew::between(host, aws)
        };
        assert_eq!(skew(3_660).to_string(), "61 min ahead of AWS's");
        assert_eq!(skew(-90).to_string(), "90 s behind AWS's");
        assert!(skew(-90).is_notable() && !skew(20).is_notable());
        assert!(skew(10).is_like(skew(-10)) && !skew(40).is_like(skew(-40)));
    }
}
