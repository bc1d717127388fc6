//! What comes from outside: logins, and how AWS answers.

use std::collections::HashSet;
use std::fmt;

use prometheus_client::registry::Unit;

use super::Names;
use super::families::{About, Families};
use crate::config::{LeftOut, PartKind};
use crate::surface::status::CredentialRow;
use finspace::CallCount;

/// Left of all credentials together, where users are not named.
#[derive(Debug, Default)]
struct Together {
    /// The one that ends first.
    left_s: Option<f64>,
    fetches: u64,
    failures: u64,
}

/// By user and what it is, both bounded by the configuration and the nodes of its clusters. Without the
/// names: the shortest life and the sums.
pub(super) fn credentials(
    families: &mut Families<'_, '_>,
    rows: &[CredentialRow],
    names: Names,
) -> fmt::Result {
    match names {
        Names::Shown => {
            // For a while after a reload an old one may go by the same name as the one that is used.
            let mut seen = HashSet::new();
            let rows: Vec<_> = rows
                .iter()
                .map(|row| ([("user", &*row.user), ("credential", &*row.what)], row))
                .filter(|(labels, _)| seen.insert(*labels))
                .collect();
            let rows = || rows.iter().map(|(labels, row)| (*labels, row));
            let left = rows().map(|(labels, row)| (labels, row.left_s.unwrap_or_default()));
            families.gauge(left_about(), left)?;
            let fetches = rows().map(|(labels, row)| (labels, row.fetches));
            families.counter(FETCHES, fetches)?;
            let failures = rows().map(|(labels, row)| (labels, row.failures));
            families.counter(FAILURES, failures)
        }
        Names::Withheld => {
            let mut together = Together::default();
            for row in rows {
                let left = row.left_s.unwrap_or_default();
                let shortest = together.left_s.map_or(left, |shortest| shortest.min(left));
                together.left_s = Some(shortest);
                together.fetches += row.fetches;
                together.failures += row.failures;
            }
            let alone: [(&str, &str); 0] = [];
            families.gauge(left_about(), together.left_s.map(|left| (alone, left)))?;
            families.counter(FETCHES, [(alone, together.fetches)])?;
            families.counter(FAILURES, [(alone, together.failures)])
        }
    }
}

const FETCHES: About = About::new(
    "hopend_credential_fetches",
    "Times that the credential was fetched",
);
const FAILURES: About = About::new(
    "hopend_credential_failures",
    "Times that it could not be fetched",
);

fn left_about() -> About {
    let help = "How long the credential may still be used; 0 without one";
    About::new("hopend_credential_left", help).in_unit(&Unit::Seconds)
}

/// By environment, operation and outcome.
pub(super) fn calls(families: &mut Families<'_, '_>, calls: &[CallCount]) -> fmt::Result {
    let about = About::new(
        "hopend_aws_calls",
        "Calls of AWS, each attempt on its own, by what became of it",
    );
    let samples = calls.iter().map(|call| {
        let labels = [
            ("environment", &*call.environment),
            ("operation", &*call.operation),
            ("outcome", call.outcome.name()),
        ];
        (labels, call.count)
    });
    families.counter(about, samples)
}

/// Lines that found no room: no session waits for a disk or for the log's reader.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinesLost {
    pub(super) audit: u64,
    pub(super) log: u64,
}

pub(super) fn lines(families: &mut Families<'_, '_>, lost: LinesLost) -> fmt::Result {
    let once: [(&str, &str); 0] = [];
    let about = About::new(
        "hopend_audit_lines_lost",
        "Lines that are missing in the audit file",
    );
    families.counter(about, [(once, lost.audit)])?;
    let about = About::new(
        "hopend_log_lines_lost",
        "Lines that are missing in the log, because standard error was not read",
    );
    families.counter(about, [(once, lost.log)])
}

/// Parts of the configuration that are not served as the file has them.
pub(super) fn left_out(families: &mut Families<'_, '_>, left_out: &[LeftOut]) -> fmt::Result {
    let about = About::new(
        "hopend_left_out",
        "Parts of the configuration that are left out for an error, or stay as they were",
    );
    let kinds = [
        PartKind::Environment,
        PartKind::User,
        PartKind::Endpoint,
        PartKind::Viewer,
    ];
    let samples = kinds.map(|kind| {
        let count = left_out.iter().filter(|one| one.part.kind == kind).count();
        ([("kind", kind.name())], count as u64)
    });
    families.gauge(about, samples)
}
