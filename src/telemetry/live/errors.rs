//! The most recent failures of sessions, in bounded memory. Failures with the same endpoint, user and message
//! share one entry.

use std::cmp::Reverse;
use std::collections::HashMap;

use jiff::Timestamp;

use crate::primitives::printable::printable;
use crate::telemetry::audit::AuditRecord;
use crate::telemetry::status::ErrorRow;
use base::error::ErrorKind;

/// The most entries for identified users, and separately for clients that hopend has not identified.
/// Otherwise unidentified clients could displace the failures of users.
const MAX_ENTRIES: usize = 50;
/// The most characters of a message that an entry keeps.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// The most recent failures.
#[derive(Debug, Default)]
pub(super) struct RecentErrors {
    of_users: HashMap<FailureKey, Failures>,
    of_unidentified: HashMap<FailureKey, Failures>,
    /// The number of failures added so far.
    added: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FailureKey {
    endpoint: String,
    user: Option<String>,
    message: String,
}

/// All occurrences of one failure.
#[derive(Debug)]
struct Failures {
    last: Timestamp,
    /// The last occurrence's number among all failures. It orders entries that have the same time.
    last_number: u64,
    side: &'static str,
    count: u64,
}

impl RecentErrors {
    pub(super) fn add(
        &mut self,
        time: Timestamp,
        record: &AuditRecord,
        kind: ErrorKind,
        message: &str,
    ) {
        self.added += 1;
        let entries = match record.user_name() {
            Some(_) => &mut self.of_users,
            None => &mut self.of_unidentified,
        };
        let key = FailureKey {
            endpoint: record.endpoint().to_owned(),
            user: record.user_name().map(str::to_owned),
            message: message
                .chars()
                .take(MAX_MESSAGE_CHARS)
                .map(printable)
                .collect(),
        };
        let count = entries.get(&key).map_or(0, |before| before.count) + 1;
        let failures = Failures {
            last: time,
            last_number: self.added,
            side: kind.name(),
            count,
        };
        entries.insert(key, failures);
        if entries.len() > MAX_ENTRIES
            && let Some(oldest) = oldest_of_largest_user(entries)
        {
            entries.retain(|_, failures| failures.last_number != oldest);
        }
    }

    /// The failures, newest first.
    pub(super) fn rows(&self) -> Vec<ErrorRow> {
        let mut all: Vec<_> = self.of_users.iter().chain(&self.of_unidentified).collect();
        all.sort_by_key(|(_, failures)| Reverse(failures.last_number));
        all.into_iter()
            .map(|(key, failures)| ErrorRow {
                time: failures.last,
                endpoint: key.endpoint.clone(),
                user: key.user.clone(),
                side: failures.side.to_owned(),
                message: key.message.clone(),
                count: failures.count,
            })
            .collect()
    }
}

/// The number of the oldest entry of the user who has the most entries. So a user whose failures all differ
/// displaces only their own.
fn oldest_of_largest_user(entries: &HashMap<FailureKey, Failures>) -> Option<u64> {
    let mut of_user: HashMap<_, (usize, Reverse<u64>)> = HashMap::new();
    for (key, failures) in entries {
        let number = failures.last_number;
        let (count, Reverse(oldest)) = of_user.entry(&key.user).or_insert((0, Reverse(number)));
        *count += 1;
        *oldest = number.min(*oldest);
    }
    // With equally many entries, the user of the oldest entry.
    let largest = of_user.into_values().max();
    largest.map(|(_, Reverse(oldest))| oldest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenAddress;

    fn add(errors: &mut RecentErrors, user: Option<&str>, message: &str) {
        let mut record = AuditRecord::new(1, "hdb", &ListenAddress::Abstract(5010));
        if let Some(user) = user {
            record.set_user_name(user);
        }
        errors.add(Timestamp::UNIX_EPOCH, &record, ErrorKind::Upstream, message);
    }

    #[test]
    fn the_last_of_each_newest_first_with_its_count() {
        let mut errors = RecentErrors::default();
        for message in ["one", "two", "one"] {
            add(&mut errors, Some("alice"), message);
        }
        add(&mut errors, Some("bob"), "two");
        let rows = errors.rows();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.user.as_deref().unwrap(), &*row.message, row.count))
            .collect();
        assert_eq!(
            shown,
            [("bob", "two", 1), ("alice", "one", 2), ("alice", "two", 1)]
        );
    }

    #[test]
    fn what_a_terminal_obeys_is_not_kept() {
        let mut errors = RecentErrors::default();
        add(&mut errors, None, "a\n\u{9b}2Jb\u{202e}c");
        assert_eq!(errors.rows()[0].message, "a??2Jb?c");
    }

    #[test]
    fn a_user_who_fails_in_many_ways_pushes_out_only_that_user_s() {
        let mut errors = RecentErrors::default();
        add(&mut errors, Some("alice"), "the cluster is gone");
        for nth in 0..1_000 {
            add(&mut errors, Some("bob"), &format!("failure {nth}"));
        }
        let rows = errors.rows();
        assert_eq!(rows.len(), MAX_ENTRIES);
        assert_eq!(rows[0].message, "failure 999");
        assert_eq!(rows[MAX_ENTRIES - 1].message, "the cluster is gone");
    }

    #[test]
    fn clients_that_nobody_knows_push_nothing_else_out() {
        let mut errors = RecentErrors::default();
        add(&mut errors, Some("alice"), "the cluster is gone");
        for nth in 0..1_000 {
            add(&mut errors, None, &format!("no user guess{nth}"));
        }
        let rows = errors.rows();
        assert_eq!(rows.len(), MAX_ENTRIES + 1);
        assert_eq!(rows[0].message, "no user guess999");
        assert_eq!(rows[MAX_ENTRIES].message, "the cluster is gone");
        for nth in 0..1_000 {
            add(&mut errors, Some("alice"), &format!("failure {nth}"));
        }
        assert_eq!(errors.rows().len(), 2 * MAX_ENTRIES);
    }
}
