//! Refusals that repeat, so that whoever is refused at will can't push the lines of others out of a
//! log: the first few of a minute have a line each, all that follow one together.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{AuditFile, Record};
use crate::auth::Origin;
use crate::error::ErrorKind;

/// From the first of them to the line of all that had none.
const MINUTE: Duration = Duration::from_secs(60);
/// Lines of their own in that time.
const EACH: u64 = 10;
/// Of how many origins, endpoints and kinds it is known; the others count as one origin.
const MOST: usize = 1024;

/// What counts together: whose, where and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    origin: Option<Origin>,
    endpoint: String,
    kind: ErrorKind,
}

#[derive(Debug)]
struct Repeats {
    since: Instant,
    lines: u64,
    /// Those that had none, and the last of them.
    more: u64,
    last: Option<(Record, String)>,
}

/// What becomes of a refusal's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// It is written.
    Now,
    /// It has none of its own: one is written with the others. Where it is the first of them, after
    /// this time.
    Together(Option<Duration>),
}

/// Refusals of the last minute.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<Key, Repeats>>);

impl Refusals {
    pub(super) fn count(&self, record: &Record, kind: ErrorKind, reason: &str) -> Said {
        let mut all = self.lock();
        let now = Instant::now();
        let key = |origin| Key {
            origin,
            endpoint: record.endpoint.clone(),
            kind,
        };
        let mut whose = key(record.met().map(Origin::of));
        if all.len() >= MOST && !all.contains_key(&whose) {
            all.retain(|_, repeats| repeats.more > 0 || now - repeats.since < MINUTE);
            if all.len() >= MOST {
                whose = key(None);
            }
        }
        let fresh = || Repeats {
            since: now,
            lines: 0,
            more: 0,
            last: None,
        };
        let repeats = all.entry(whose).or_insert_with(fresh);
        if repeats.more == 0 && now - repeats.since >= MINUTE {
            *repeats = fresh();
        }
        if repeats.lines < EACH {
            repeats.lines += 1;
            return Said::Now;
        }
        repeats.more += 1;
        repeats.last = Some((record.clone(), reason.to_owned()));
        let left = || MINUTE.saturating_sub(now - repeats.since);
        Said::Together((repeats.more == 1).then(left))
    }

    /// Writes the lines that are due.
    pub fn tell(&self, file: &AuditFile) {
        let now = Instant::now();
        self.write(file, |repeats| now - repeats.since >= MINUTE);
    }

    /// Writes all that there are, due or not.
    pub fn tell_all(&self, file: &AuditFile) {
        self.write(file, |_| true);
    }

    fn write(&self, file: &AuditFile, is_due: impl Fn(&Repeats) -> bool) {
        let due: Vec<_> = self
            .lock()
            .extract_if(|_, repeats| is_due(repeats))
            .collect();
        for (key, repeats) in due {
            if let Some((record, reason)) = &repeats.last {
                record.write_refusal(key.kind, reason, Some(repeats.more), file);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Repeats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Peer;

    fn record(uid: u32) -> Record {
        let mut record = Record::new(1, "hdb", &"127.0.0.1:5010".parse().unwrap());
        let peer = Peer::Local {
            uid,
            pid: None,
            address: None,
        };
        record.peer(&peer, None, None);
        record
    }

    #[tokio::test(start_paused = true)]
    async fn ten_a_minute_have_a_line_each_and_the_others_one() {
        let refusals = Refusals::default();
        let count = |uid, kind| refusals.count(&record(uid), kind, "no");
        for _ in 0..EACH {
            assert_eq!(count(7, ErrorKind::Denied), Said::Now);
        }
        tokio::time::advance(Duration::from_secs(20)).await;
        let first = Some(Duration::from_secs(40));
        assert_eq!(count(7, ErrorKind::Denied), Said::Together(first));
        assert_eq!(count(7, ErrorKind::Denied), Said::Together(None));
        // Neither others nor other reasons.
        assert_eq!(count(8, ErrorKind::Denied), Said::Now);
        assert_eq!(count(7, ErrorKind::Limit), Said::Now);
        let more = || -> u64 { refusals.lock().values().map(|repeats| repeats.more).sum() };
        refusals.tell(&AuditFile::default());
        assert_eq!(more(), 2, "told too early");
        tokio::time::advance(Duration::from_secs(40)).await;
        refusals.tell(&AuditFile::default());
        assert_eq!(more(), 0);
        assert_eq!(count(7, ErrorKind::Denied), Said::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_without_a_flood_begins_anew() {
        let refusals = Refusals::default();
        let count = || refusals.count(&record(7), ErrorKind::Denied, "no");
        for _ in 0..EACH {
            assert_eq!(count(), Said::Now);
        }
        tokio::time::advance(MINUTE).await;
        assert_eq!(count(), Said::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn of_very_many_those_beyond_count_as_one() {
        let refusals = Refusals::default();
        for uid in 0..100_000 {
            refusals.count(&record(uid), ErrorKind::Denied, "no");
        }
        let known = refusals.lock().len();
        assert!(known <= MOST + 1, "{known}");
        let more: u64 = refusals.lock().values().map(|repeats| repeats.more).sum();
        assert_eq!(more, 100_000 - MOST as u64 - EACH);
    }
}
