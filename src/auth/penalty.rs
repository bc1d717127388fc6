//! A growing delay for those who guess passwords.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Origin, Peer};

/// After the first failure.
const FIRST: Duration = Duration::from_millis(100);

/// After many.
const LONGEST: Duration = Duration::from_secs(5);

/// Without a failure for this long all is forgotten.
const QUIET: Duration = Duration::from_secs(60);

/// Peers that are remembered; past this the one that failed longest ago is forgotten.
const CAPACITY: usize = 4096;

/// Who failed, how often, and what it costs them: 100 ms, doubling to 5 s.
///
/// Peers are told apart by their [`Origin`].
#[derive(Debug, Default)]
pub struct Penalties {
    table: Mutex<HashMap<Origin, Record>>,
    names: RandomState,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Instant,
    tried: Tried,
}

/// Which users a peer failed to be, by a hash of what hopen gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    One(u64),
    Several,
}

impl Penalties {
    /// How long the next attempt of `peer` has to wait before it is looked at: what is left of the
    /// delay that began with its last failure.
    pub fn delay(&self, peer: &Peer, now: Instant) -> Duration {
        self.table()
            .get(&Origin::of(peer))
            .filter(|record| !record.is_forgotten(now))
            .map_or(Duration::ZERO, |record| {
                record
                    .delay()
                    .saturating_sub(now.saturating_duration_since(record.last))
            })
    }

    /// Records that `peer` was refused as `user` (what hopen gave), and returns how long to hold
    /// back the refusal.
    pub fn failed(&self, peer: &Peer, user: &str, now: Instant) -> Duration {
        let tried = Tried::One(self.names.hash_one(user));
        let origin = Origin::of(peer);
        let mut table = self.table();
        if table.len() >= CAPACITY && !table.contains_key(&origin) {
            make_room(&mut table, now);
        }
        let record = table
            .entry(origin)
            .and_modify(|record| {
                if record.is_forgotten(now) {
                    record.failures = 0;
                    record.tried = tried;
                }
            })
            .or_insert(Record {
                failures: 0,
                last: now,
                tried,
            });
        record.failures = record.failures.saturating_add(1);
        record.last = record.last.max(now);
        if record.tried != tried {
            record.tried = Tried::Several;
        }
        record.delay()
    }

    /// Records that `peer` was let in as `user` (what hopen gave). Its failures are forgotten if
    /// they were all for that user: being oneself now and then must not make it cheap to guess
    /// another's password.
    pub fn succeeded(&self, peer: &Peer, user: &str) {
        let tried = Tried::One(self.names.hash_one(user));
        let origin = Origin::of(peer);
        let mut table = self.table();
        if table
            .get(&origin)
            .is_some_and(|record| record.tried == tried)
        {
            table.remove(&origin);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Origin, Record>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn delay(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        FIRST.saturating_mul(1 << doublings).min(LONGEST)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= QUIET
    }
}

fn make_room(table: &mut HashMap<Origin, Record>, now: Instant) {
    table.retain(|_, record| !record.is_forgotten(now));
    if table.len() >= CAPACITY {
        let oldest = table
            .iter()
            .min_by_key(|(_, record)| record.last)
            .map(|(&origin, _)| origin);
        if let Some(origin) = oldest {
            table.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn local(uid: u32) -> Peer {
        Peer::Local {
            uid,
            pid: None,
            address: None,
        }
    }

    fn remote(address: &str) -> Peer {
        Peer::Remote {
            address: address.parse().unwrap(),
            account: None,
        }
    }

    #[test]
    fn the_delay_doubles_to_its_longest_and_runs_off() {
        let penalties = Penalties::default();
        let now = Instant::now();
        let millis: Vec<_> = (0..8)
            .map(|_| penalties.failed(&local(1), "bob", now).as_millis())
            .collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let later = |ms| penalties.delay(&local(1), now + Duration::from_millis(ms));
        assert_eq!(later(0), LONGEST);
        assert_eq!(later(4_000), Duration::from_secs(1));
        assert_eq!(later(5_000), Duration::ZERO);
        assert_eq!(penalties.delay(&local(2), now), Duration::ZERO);
    }

    #[test]
    fn a_quiet_minute_forgets() {
        let penalties = Penalties::default();
        let now = Instant::now();
        penalties.failed(&local(1), "bob", now);
        assert_eq!(penalties.failed(&local(1), "bob", now), FIRST * 2);
        assert_eq!(penalties.failed(&local(1), "bob", now + QUIET), FIRST);
    }

    #[test]
    fn success_forgets_failures_of_the_same_user_only() {
        let penalties = Penalties::default();
        let now = Instant::now();
        penalties.failed(&local(1), "bob", now);
        penalties.succeeded(&local(1), "bob");
        assert_eq!(penalties.failed(&local(1), "alice", now), FIRST);
        penalties.succeeded(&local(1), "bob");
        assert_eq!(penalties.failed(&local(1), "bob", now), FIRST * 2);
        penalties.succeeded(&local(1), "bob");
        penalties.succeeded(&local(1), "alice");
        assert_eq!(penalties.delay(&local(1), now), FIRST * 2);
    }

    #[test]
    fn another_address_of_the_same_host_waits_as_well() {
        let penalties = Penalties::default();
        let now = Instant::now();
        penalties.failed(&remote("127.0.0.1:1"), "bob", now);
        assert_eq!(penalties.delay(&remote("127.9.8.7:1"), now), FIRST);
        assert_eq!(penalties.delay(&remote("10.0.0.1:1"), now), Duration::ZERO);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let penalties = Penalties::default();
        let start = Instant::now();
        let count = u32::try_from(CAPACITY).unwrap();
        for uid in 0..=count {
            penalties.failed(&local(uid), "", start + Duration::from_millis(uid.into()));
        }
        assert_eq!(penalties.table().len(), CAPACITY);
        assert!(penalties.table().get(&Origin::Account(0)).is_none());
        assert!(penalties.table().get(&Origin::Account(count)).is_some());
    }

    proptest! {
        #[test]
        fn never_more_than_the_longest_and_never_for_the_innocent(
            steps in proptest::collection::vec((0u32..4, 0u8..3, 0u64..70_000), 0..200)
        ) {
            let penalties = Penalties::default();
            let mut now = Instant::now();
            let mut failed = [false; 5];
            for (uid, step, millis) in steps {
                now += Duration::from_millis(millis);
                match step {
                    0 => {
                        let held = penalties.failed(&local(uid), "bob", now);
                        failed[uid as usize] = true;
                        prop_assert!((FIRST..=LONGEST).contains(&held));
                        prop_assert_eq!(penalties.delay(&local(uid), now), held);
                    }
                    1 => {
                        penalties.succeeded(&local(uid), "bob");
                        failed[uid as usize] = false;
                    }
                    _ => {}
                }
                for uid in 0..5 {
                    let delay = penalties.delay(&local(uid), now);
                    prop_assert!(delay <= LONGEST);
                    prop_assert!(delay.is_zero() || failed[uid as usize]);
                    prop_assert!(penalties.delay(&local(uid), now + LONGEST).is_zero());
                }
            }
        }
    }
}
