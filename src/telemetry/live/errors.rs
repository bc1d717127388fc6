//! The last failures, one of each kind, in bounded memory.

use std::cmp::Reverse;
use std::collections::HashMap;

use jiff::Timestamp;

use crate::surface::status::{ErrorRow, printable};
use base::error::ErrorKind;

/// Most failures that are kept of known users, and as many of clients that nobody knew: those could
/// otherwise push everything else out.
const KEPT: usize = 50;
/// Most characters that are kept of a reason.
const LONGEST: usize = 1_000;

/// The last of each endpoint, user and reason.
#[derive(Debug, Default)]
pub(super) struct LastErrors {
    known: HashMap<Key, Seen>,
    unknown: HashMap<Key, Seen>,
    added: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    endpoint: String,
    user: Option<String>,
    message: String,
}

#[derive(Debug)]
struct Seen {
    time: Timestamp,
    /// Orders what falls on one time.
    nth: u64,
    side: &'static str,
    count: u64,
}

impl LastErrors {
    pub(super) fn add(
        &mut self,
        time: Timestamp,
        endpoint: &str,
        user: Option<&str>,
        kind: ErrorKind,
        message: &str,
    ) {
        self.added += 1;
        let kept = match user {
            Some(_) => &mut self.known,
            None => &mut self.unknown,
        };
        let key = Key {
            endpoint: endpoint.to_owned(),
            user: user.map(str::to_owned),
            message: message.chars().take(LONGEST).map(printable).collect(),
        };
        let count = kept.get(&key).map_or(0, |seen| seen.count) + 1;
        let seen = Seen {
            time,
            nth: self.added,
            side: kind.name(),
            count,
        };
        kept.insert(key, seen);
        if kept.len() > KEPT
            && let Some(oldest) = oldest_of_most(kept)
        {
            kept.retain(|_, seen| seen.nth != oldest);
        }
    }

    /// Newest first.
    pub(super) fn rows(&self) -> Vec<ErrorRow> {
        let mut all: Vec<_> = self.known.iter().chain(&self.unknown).collect();
        all.sort_by_key(|(_, seen)| Reverse(seen.nth));
        all.into_iter()
            .map(|(key, seen)| ErrorRow {
                time: seen.time,
                endpoint: key.endpoint.clone(),
                user: key.user.clone(),
                side: seen.side.to_owned(),
                message: key.message.clone(),
                count: seen.count,
            })
            .collect()
    }
}

/// The oldest failure of the user who has the most: one who fails in ever new ways does not push out
/// what others met.
fn oldest_of_most(kept: &HashMap<Key, Seen>) -> Option<u64> {
    let mut of_user: HashMap<_, (usize, Reverse<u64>)> = HashMap::new();
    for (key, seen) in kept {
        let (count, Reverse(oldest)) = of_user.entry(&key.user).or_insert((0, Reverse(seen.nth)));
        *count += 1;
        *oldest = seen.nth.min(*oldest);
    }
    let most = of_user.into_values().max();
    most.map(|(_, Reverse(oldest))| oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(errors: &mut LastErrors, user: Option<&str>, message: &str) {
        let time = Timestamp::UNIX_EPOCH;
        errors.add(time, "hdb", user, ErrorKind::Upstream, message);
    }

    #[test]
    fn the_last_of_each_newest_first_with_its_count() {
        let mut errors = LastErrors::default();
        for message in ["one", "two", "one"] {
            add(&mut errors, Some("alice"), message);
        }
        add(&mut errors, Some("bob"), "two");
        let rows = errors.rows();
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.user.as_deref().unwrap(), &*row.message, row.count))
            .collect();
        assert_eq!(
            told,
            [("bob", "two", 1), ("alice", "one", 2), ("alice", "two", 1)]
        );
    }

    #[test]
    fn what_a_terminal_obeys_is_not_kept() {
        let mut errors = LastErrors::default();
        add(&mut errors, None, "a\n\u{9b}2Jb\u{202e}c");
        assert_eq!(errors.rows()[0].message, "a??2Jb?c");
    }

    #[test]
    fn a_user_who_fails_in_many_ways_pushes_out_only_that_user_s() {
        let mut errors = LastErrors::default();
        add(&mut errors, Some("alice"), "the cluster is gone");
        for nth in 0..1_000 {
            add(&mut errors, Some("bob"), &format!("failure {nth}"));
        }
        let rows = errors.rows();
        assert_eq!(rows.len(), KEPT);
        assert_eq!(rows[0].message, "failure 999");
        assert_eq!(rows[KEPT - 1].message, "the cluster is gone");
    }

    #[test]
    fn clients_that_nobody_knows_push_nothing_else_out() {
        let mut errors = LastErrors::default();
        add(&mut errors, Some("alice"), "the cluster is gone");
        for nth in 0..1_000 {
            add(&mut errors, None, &format!("no user guess{nth}"));
        }
        let rows = errors.rows();
        assert_eq!(rows.len(), KEPT + 1);
        assert_eq!(rows[0].message, "no user guess999");
        assert_eq!(rows[KEPT].message, "the cluster is gone");
        for nth in 0..1_000 {
            add(&mut errors, Some("alice"), &format!("failure {nth}"));
        }
        assert_eq!(errors.rows().len(), 2 * KEPT);
    }
}
