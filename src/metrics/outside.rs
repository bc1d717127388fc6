//! What comes from outside: logins, and how AWS answers.

use std::collections::HashSet;
use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{About, Families};
use crate::config::{LeftOut, PartKind};
use crate::finspace::CallCount;
use crate::status::CredentialRow;

/// By user and what it is: both bounded by the configuration and the nodes of its clusters.
pub(super) fn credentials(families: &mut Families<'_, '_>, rows: &[CredentialRow]) -> fmt::Result {
    // For a while after a reload an old one may go by the same name as the one that is used.
    let mut seen = HashSet::new();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| ([("user", &*row.user), ("credential", &*row.what)], row))
        .filter(|(labels, _)| seen.insert(*labels))
        .collect();
    let about = About::new(
        "hopend_credential_left",
        "How long the credential may still be used; 0 without one",
    );
    let left = rows
        .iter()
        .map(|(labels, row)| (*labels, row.left_s.unwrap_or_default()));
    families.gauge(about.in_unit(&Unit::Seconds), left)?;
    let about = About::new(
        "hopend_credential_fetches",
        "Times that the credential was fetched",
    );
    let fetches = rows.iter().map(|(labels, row)| (*labels, row.fetches));
    families.counter(about, fetches)?;
    let about = About::new(
        "hopend_credential_failures",
        "Times that it could not be fetched",
    );
    let failures = rows.iter().map(|(labels, row)| (*labels, row.failures));
    families.counter(about, failures)
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
