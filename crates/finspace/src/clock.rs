//! What time it is for AWS, as the `Date` of its answers tells it, and how far this host's clock is off.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_sts::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::BoxError;
use aws_smithy_types::date_time::{DateTime, Format};

/// A difference that is reported: the margin that the end of a life has for clocks that disagree.
const NOTABLE: Duration = Duration::from_secs(30);

/// AWS's time: what an answer told, and how long ago it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwsTime {
    date: SystemTime,
    came: Instant,
}

/// How far this host's clock is from AWS's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSkew {
    /// This host's clock shows a later time.
    Ahead(Duration),
    /// This host's clock shows an earlier time.
    Behind(Duration),
}

/// The time that the last answer to one environment's clients told.
#[derive(Debug, Clone, Default)]
pub(super) struct AwsClock(Arc<Mutex<Option<AwsTime>>>);

impl AwsTime {
    /// An answer that came now has this `Date`.
    pub fn told(date: SystemTime) -> Self {
        Self {
            date,
            came: Instant::now(),
        }
    }

    /// What time it is for AWS now. No jump of this host's clock changes it.
    pub fn now(&self) -> SystemTime {
        self.date + self.came.elapsed()
    }
}

impl ClockSkew {
    /// What this host's clock shows, beside AWS's.
    pub fn between(host: SystemTime, aws: SystemTime) -> Self {
        match host.duration_since(aws) {
            Ok(ahead) => Self::Ahead(ahead),
            Err(behind) => Self::Behind(behind.duration()),
        }
    }

    /// Whether it is more than two clocks may well differ.
    pub fn is_notable(self) -> bool {
        let (Self::Ahead(skew) | Self::Behind(skew)) = self;
        skew > NOTABLE
    }

    /// Whether another measurement says the same, as far as anybody cares.
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
    /// None until AWS has answered.
    pub(super) fn time(&self) -> Option<AwsTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        // What comes from a cache tells the time of the past.
        if response.headers().get("age").is_some() {
            return Ok(());
        }
        if let Some(date) = response.headers().get("date").and_then(read) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(AwsTime::told(date));
        }
        Ok(())
    }
}

/// As RFC 9110 writes it.
fn read(date: &str) -> Option<SystemTime> {
    let date = DateTime::from_str(date, Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_and_what_is_none_is_not() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(expected));
        for wrong in ["", "now", "1994-11-06T08:49:37Z", "Sun, 06 Nov 1994"] {
            assert_eq!(read(wrong), None, "{wrong}");
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
