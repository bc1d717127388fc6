//! The metrics of credentials, AWS calls, lost lines and the parts of the configuration that are left out.

use std::collections::HashSet;
use std::fmt;

use prometheus_client::registry::Unit;

use super::UserNames;
use super::families::{MetricFamilies, MetricInfo};
use crate::config::{ConfigPartKind, LeftOutPart};
use crate::telemetry::status::CredentialRow;
use finspace::CallCount;

/// All credentials together, without user names.
#[derive(Debug, Default)]
struct CredentialSums {
    /// The shortest remaining life, in seconds.
    left_s: Option<f64>,
    fetches: u64,
    failures: u64,
}

/// Writes one sample for each user and credential. Their number is bounded by the configuration and by the nodes of
/// its clusters. Without user names, it writes the shortest life and the sums.
pub(super) fn credentials(
    families: &mut MetricFamilies<'_, '_>,
    rows: &[CredentialRow],
    names: UserNames,
) -> fmt::Result {
    match names {
        UserNames::Shown => {
            // After a reload an old credential may have the same labels as the current one, which comes first.
            let mut known = HashSet::new();
            let rows: Vec<_> = rows
                .iter()
                .map(|row| ([("user", &*row.user), ("credential", &*row.what)], row))
                .filter(|(labels, _)| known.insert(*labels))
                .collect();
            let rows = || rows.iter().map(|(labels, row)| (*labels, row));
            let left = rows().map(|(labels, row)| (labels, row.left_s.unwrap_or_default()));
            families.gauge(left_info(), left)?;
            let fetches = rows().map(|(labels, row)| (labels, row.fetches));
            families.counter(FETCHES, fetches)?;
            let failures = rows().map(|(labels, row)| (labels, row.failures));
            families.counter(FAILURES, failures)
        }
        UserNames::Withheld => {
            let mut sums = CredentialSums::default();
            for row in rows {
                let left = row.left_s.unwrap_or_default();
                let shortest = sums.left_s.map_or(left, |shortest| shortest.min(left));
                sums.left_s = Some(shortest);
                sums.fetches += row.fetches;
                sums.failures += row.failures;
            }
            let unlabelled: [(&str, &str); 0] = [];
            families.gauge(left_info(), sums.left_s.map(|left| (unlabelled, left)))?;
            families.counter(FETCHES, [(unlabelled, sums.fetches)])?;
            families.counter(FAILURES, [(unlabelled, sums.failures)])
        }
    }
}

const FETCHES: MetricInfo = MetricInfo::new(
    "hopend_credential_fetches",
    "Successful fetches of the credential",
);
const FAILURES: MetricInfo = MetricInfo::new(
    "hopend_credential_failures",
    "Failed fetches of the credential",
);

fn left_info() -> MetricInfo {
    let help = "Time until the credential expires; 0 without one";
    MetricInfo::new("hopend_credential_left", help).in_unit(&Unit::Seconds)
}

/// Writes the calls of AWS by environment, operation and outcome.
pub(super) fn calls(families: &mut MetricFamilies<'_, '_>, calls: &[CallCount]) -> fmt::Result {
    let info = MetricInfo::new(
        "hopend_aws_calls",
        "Calls of AWS by outcome. Each attempt counts",
    );
    let samples = calls.iter().map(|call| {
        let labels = [
            ("environment", &*call.environment),
            ("operation", &*call.operation),
            ("outcome", call.outcome.name()),
        ];
        (labels, call.count)
    });
    families.counter(info, samples)
}

/// Lines that were lost because their queue was full. No session waits for a disk or for the reader of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinesLost {
    pub(super) audit: u64,
    pub(super) log: u64,
}

pub(super) fn lines(families: &mut MetricFamilies<'_, '_>, lost: LinesLost) -> fmt::Result {
    let unlabelled: [(&str, &str); 0] = [];
    let info = MetricInfo::new(
        "hopend_audit_lines_lost",
        "Lines that are missing in the audit file",
    );
    families.counter(info, [(unlabelled, lost.audit)])?;
    let info = MetricInfo::new(
        "hopend_log_lines_lost",
        "Lines that are missing in the log, because standard error was not read",
    );
    families.counter(info, [(unlabelled, lost.log)])
}

/// Writes the number of parts of the configuration that the daemon does not serve as written.
pub(super) fn left_out(
    families: &mut MetricFamilies<'_, '_>,
    left_out: &[LeftOutPart],
) -> fmt::Result {
    let info = MetricInfo::new(
        "hopend_left_out",
        "Parts of the configuration that are left out because of an error, or kept as they were",
    );
    let kinds = [
        ConfigPartKind::Environment,
        ConfigPartKind::User,
        ConfigPartKind::Endpoint,
        ConfigPartKind::Viewer,
    ];
    let samples = kinds.map(|kind| {
        let count = left_out.iter().filter(|one| one.part.kind == kind).count();
        ([("kind", kind.name())], count as u64)
    });
    families.gauge(info, samples)
}
