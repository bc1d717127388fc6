//! Delays clients that guess passwords.

use base::mutex::locked;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::attempt_queue::{AttemptQueues, AttemptTurn};
use super::{Origin, Peer};
use crate::primitives::backoff::Backoff;
use q_ipc::handshake::Hello;

/// The delay after the first failure.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The time without a failure after which the daemon forgets an origin's failures.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The longest time between the refusal of a guess and a repetition that counts as the same guess.
/// qPython repeats at once.
const REPEATED_WITHIN: Duration = Duration::from_secs(2);

/// The most guesses of one origin that the daemon remembers for repetitions. A further guess replaces
/// the oldest.
const REPEATABLE_GUESSES: usize = 8;

/// The most origins with failures. A further origin replaces the origin that failed longest ago.
const MOST_ORIGINS: usize = 4096;

/// The failed attempts of each [`Origin`], and the delays that follow: 100 ms after the first failure,
/// doubling to 5 s. After a failure, the attempts of an origin run one at a time.
#[derive(Debug)]
pub struct Penalties {
    failures: Mutex<HashMap<Origin, FailureRecord>>,
    /// The random key of the hashes in `failures`.
    hash_key: RandomState,
    queues: AttemptQueues,
}

/// The failed attempts of one origin.
#[derive(Debug)]
struct FailureRecord {
    failures: u32,
    last: Instant,
    claimed: ClaimedUsers,
    repeatable: VecDeque<CountedGuess>,
}

/// A user and a password that the daemon refused.
#[derive(Debug, Clone, Copy)]
pub struct Guess<'g> {
    /// The client that made the guess.
    pub peer: &'g Peer,
    /// The user and the password.
    pub hello: &'g Hello,
    /// When the guess arrived.
    pub arrived: Instant,
}

/// A guess that was counted as a failure. If the client repeats the guess once without a capability
/// byte, the repetition is not counted. Servers before kdb+ 2.6 need a login in that form, and qPython
/// tries it after a refusal.
#[derive(Debug)]
struct CountedGuess {
    /// A hash of the user and the password, with a random key of this process.
    hash: u64,
    /// The end of the time for a repetition.
    until: Instant,
}

/// The user names of an origin's failed attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClaimedUsers {
    /// Always the same name. This is its hash.
    One(u64),
    Several,
}

impl Default for Penalties {
    /// Lets one origin use half of the processors. The other half checks the passwords of other
    /// origins.
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::new(processors / 2)
    }
}

impl Penalties {
    /// Lets `concurrent` attempts of one origin run at the same time, and at least one.
    fn new(concurrent: usize) -> Self {
        Self {
            failures: Mutex::default(),
            hash_key: RandomState::default(),
            queues: AttemptQueues::new(concurrent.max(1)),
        }
    }

    /// Waits until `peer` may make an attempt. Hold the turn until the attempt and its delays are over,
    /// so that later attempts of the same origin wait. Without turns, many guesses at the same time
    /// would cost only one delay.
    ///
    /// Waits without a limit, so put a deadline around the call. Cancel-safe.
    pub async fn turn(&self, peer: &Peer) -> AttemptTurn<'_> {
        let origin = Origin::of(peer);
        self.queues.turn(origin, || self.has_failed(origin)).await
    }

    fn has_failed(&self, origin: Origin) -> bool {
        let now = tokio::time::Instant::now().into_std();
        let failures = self.failures();
        failures
            .get(&origin)
            .is_some_and(|record| !record.is_forgotten(now))
    }

    /// The rest of the delay that began with the last failure of `peer`. The next attempt waits this
    /// long before its password is checked.
    pub fn delay(&self, peer: &Peer, now: Instant) -> Duration {
        self.failures()
            .get(&Origin::of(peer))
            .filter(|record| !record.is_forgotten(now))
            .map_or(Duration::ZERO, |record| {
                record
                    .delay()
                    .saturating_sub(now.saturating_duration_since(record.last))
            })
    }

    /// Records a guess that was refused, and returns how long to hold back the refusal. If the guess
    /// was counted before with a capability byte, one repetition without the byte costs nothing.
    pub fn refused(&self, guess: &Guess<'_>, now: Instant) -> Duration {
        let Guess {
            peer,
            hello,
            arrived,
        } = *guess;
        let hash = self
            .hash_key
            .hash_one((&hello.user, hello.password.expose()));
        let origin = Origin::of(peer);
        if hello.capability.is_none() && self.was_counted(origin, hash, arrived) {
            return Duration::ZERO;
        }
        let held_back = self.failed(peer, &hello.user, now);
        if hello.capability.is_some()
            && let Some(record) = self.failures().get_mut(&origin)
        {
            record.repeatable.truncate(REPEATABLE_GUESSES - 1);
            let until = now + held_back + REPEATED_WITHIN;
            record.repeatable.push_front(CountedGuess { hash, until });
        }
        held_back
    }

    /// Whether this guess was counted lately. If so, forgets the guess, so that a further repetition is
    /// a new guess.
    fn was_counted(&self, origin: Origin, hash: u64, arrived: Instant) -> bool {
        let mut failures = self.failures();
        let Some(record) = failures.get_mut(&origin) else {
            return false;
        };
        let mut counted = record.repeatable.iter();
        let found = counted.position(|guess| guess.hash == hash && arrived <= guess.until);
        found.is_some_and(|at| record.repeatable.remove(at).is_some())
    }

    /// Records that `peer` was refused as `user`, the name that hopen gave. Returns how long to hold back
    /// the refusal.
    pub fn failed(&self, peer: &Peer, user: &str, now: Instant) -> Duration {
        let claimed = ClaimedUsers::One(self.hash_key.hash_one(user));
        let origin = Origin::of(peer);
        let mut failures = self.failures();
        if failures.len() >= MOST_ORIGINS && !failures.contains_key(&origin) {
            make_room(&mut failures, now);
        }
        let record = failures
            .entry(origin)
            .and_modify(|record| {
                if record.is_forgotten(now) {
                    record.failures = 0;
                    record.claimed = claimed;
                    record.repeatable.clear();
                }
            })
            .or_insert(FailureRecord {
                failures: 0,
                last: now,
                claimed,
                repeatable: VecDeque::new(),
            });
        record.failures = record.failures.saturating_add(1);
        record.last = record.last.max(now);
        if record.claimed != claimed {
            record.claimed = ClaimedUsers::Several;
        }
        record.delay()
    }

    /// Records that `peer` was accepted as `user`, the name that hopen gave. Forgets the failures of
    /// the peer's origin if all of them claimed that name, and keeps all of them otherwise. So no
    /// client can reset the delay by a login as itself while it guesses another user's password.
    pub fn succeeded(&self, peer: &Peer, user: &str) {
        let claimed = ClaimedUsers::One(self.hash_key.hash_one(user));
        let origin = Origin::of(peer);
        let mut failures = self.failures();
        if failures
            .get(&origin)
            .is_some_and(|record| record.claimed == claimed)
        {
            failures.remove(&origin);
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Origin, FailureRecord>> {
        locked(&self.failures)
    }
}

impl FailureRecord {
    fn delay(&self) -> Duration {
        Backoff::new(FIRST_DELAY, LONGEST_DELAY).pause_after(self.failures.max(1))
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGET_AFTER
    }
}

/// Removes the records that have expired. If none has, removes the oldest record.
fn make_room(failures: &mut HashMap<Origin, FailureRecord>, now: Instant) {
    failures.retain(|_, record| !record.is_forgotten(now));
    if failures.len() >= MOST_ORIGINS {
        let oldest = failures
            .iter()
            .min_by_key(|(_, record)| record.last)
            .map(|(&origin, _)| origin);
        if let Some(origin) = oldest {
            failures.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use proptest::prelude::*;
    use tokio::time::sleep;

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
        assert_eq!(later(0), LONGEST_DELAY);
        assert_eq!(later(4_000), Duration::from_secs(1));
        assert_eq!(later(5_000), Duration::ZERO);
        assert_eq!(penalties.delay(&local(2), now), Duration::ZERO);
    }

    #[test]
    fn a_quiet_minute_forgets() {
        let penalties = Penalties::default();
        let now = Instant::now();
        penalties.failed(&local(1), "bob", now);
        assert_eq!(penalties.failed(&local(1), "bob", now), FIRST_DELAY * 2);
        assert_eq!(
            penalties.failed(&local(1), "bob", now + FORGET_AFTER),
            FIRST_DELAY
        );
    }

    #[test]
    fn success_forgets_failures_of_the_same_user_only() {
        let penalties = Penalties::default();
        let now = Instant::now();
        penalties.failed(&local(1), "bob", now);
        penalties.succeeded(&local(1), "bob");
        assert_eq!(penalties.failed(&local(1), "alice", now), FIRST_DELAY);
        penalties.succeeded(&local(1), "bob");
        assert_eq!(penalties.failed(&local(1), "bob", now), FIRST_DELAY * 2);
        penalties.succeeded(&local(1), "bob");
        penalties.succeeded(&local(1), "alice");
        assert_eq!(penalties.delay(&local(1), now), FIRST_DELAY * 2);
    }

    fn hello(password: &str, capability: Option<u8>) -> Hello {
        Hello {
            user: "bob".into(),
            password: password.into(),
            capability,
        }
    }

    #[test]
    fn a_guess_repeated_without_a_capability_byte_counts_once() {
        let penalties = Penalties::default();
        let start = Instant::now();
        let (with, without) = (Some(3), None);
        let late = FIRST_DELAY * 2 + REPEATED_WITHIN + Duration::from_millis(1);
        // The client, its guess, the time since the guess before, and how long the refusal is held back.
        let table = [
            (local(1), hello("a", with), Duration::ZERO, FIRST_DELAY),
            (local(1), hello("a", without), FIRST_DELAY, Duration::ZERO),
            // A second repetition counts.
            (local(1), hello("a", without), FIRST_DELAY, FIRST_DELAY * 2),
            // The last one was counted without the byte: the same again is a new guess.
            (
                local(1),
                hello("a", without),
                FIRST_DELAY * 2,
                FIRST_DELAY * 4,
            ),
            // Not repetitions: another password, another origin, with the byte, too late.
            (local(2), hello("a", with), Duration::ZERO, FIRST_DELAY),
            (local(2), hello("b", without), FIRST_DELAY, FIRST_DELAY * 2),
            (local(3), hello("a", without), Duration::ZERO, FIRST_DELAY),
            (local(2), hello("a", with), Duration::ZERO, FIRST_DELAY * 4),
            (local(3), hello("c", with), Duration::ZERO, FIRST_DELAY * 2),
            (local(3), hello("c", without), late, FIRST_DELAY * 4),
        ];
        let mut now = start;
        for (row, (peer, hello, after, expected)) in table.iter().enumerate() {
            now += *after;
            let guess = Guess {
                peer,
                hello,
                arrived: now,
            };
            assert_eq!(penalties.refused(&guess, now), *expected, "row {row}");
        }
        // Several clients may share an account: each of the last eight guesses can be repeated.
        let names: Vec<_> = (0..=REPEATABLE_GUESSES).map(|n| n.to_string()).collect();
        for password in &names {
            let hello = hello(password, with);
            let guess = Guess {
                peer: &local(4),
                hello: &hello,
                arrived: now,
            };
            penalties.refused(&guess, now);
        }
        for (n, password) in names.iter().enumerate().rev() {
            let hello = hello(password, without);
            let guess = Guess {
                peer: &local(4),
                hello: &hello,
                arrived: now,
            };
            assert_eq!(penalties.refused(&guess, now).is_zero(), n > 0, "{n}");
        }
    }

    #[test]
    fn another_address_of_the_same_host_waits_as_well() {
        let penalties = Penalties::default();
        let now = Instant::now();
        penalties.failed(&remote("127.0.0.1:1"), "bob", now);
        assert_eq!(penalties.delay(&remote("127.9.8.7:1"), now), FIRST_DELAY);
        assert_eq!(penalties.delay(&remote("10.0.0.1:1"), now), Duration::ZERO);
    }

    /// Makes twenty attempts at the same moment. Returns how many ran at the same time.
    async fn burst(penalties: &Penalties, peer: &Peer) -> usize {
        let (inside, most) = (Cell::new(0), Cell::new(0));
        let attempts = (0..20).map(|_| async {
            let _turn = penalties.turn(peer).await;
            inside.set(inside.get() + 1);
            most.set(most.get().max(inside.get()));
            sleep(Duration::from_secs(1)).await;
            inside.set(inside.get() - 1);
        });
        join_all(attempts).await;
        most.get()
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_of_one_origin_wait_for_each_other_and_keep_no_other_waiting() {
        let penalties = Penalties::new(3);
        let (guesser, other) = (local(1), local(2));
        assert_eq!(burst(&penalties, &guesser).await, 3);
        let now = tokio::time::Instant::now().into_std();
        penalties.failed(&guesser, "alice", now);
        assert_eq!(burst(&penalties, &guesser).await, 1);
        assert_eq!(burst(&penalties, &other).await, 3);
        assert_eq!(penalties.queues.len(), 0);

        let held = penalties.turn(&guesser).await;
        let second = tokio::time::timeout(Duration::from_secs(60), penalties.turn(&guesser));
        assert!(second.await.is_err(), "the first has not ended");
        assert_eq!(penalties.queues.len(), 1);
        drop(held);
        assert_eq!(penalties.queues.len(), 0);
    }

    /// Each attempt begins a delay after the last one failed, though all arrive at the same moment.
    #[tokio::test(start_paused = true)]
    async fn guesses_at_the_same_time_cost_what_they_cost_one_after_the_other() {
        let penalties = Penalties::new(2);
        let begun = tokio::time::Instant::now();
        let guesser = local(1);
        let now = || tokio::time::Instant::now().into_std();
        let guesses = (0..40).map(|_| async {
            let _turn = penalties.turn(&guesser).await;
            sleep(penalties.delay(&guesser, now())).await;
            let looked_at = begun.elapsed();
            // A check takes time, and others may arrive meanwhile.
            sleep(Duration::from_millis(50)).await;
            sleep(penalties.failed(&guesser, "alice", now())).await;
            looked_at
        });
        let looked_at = join_all(guesses).await;
        let within = |seconds| {
            let limit = Duration::from_secs(seconds);
            looked_at.iter().filter(|at| **at < limit).count()
        };
        assert_eq!(looked_at.len(), 40);
        // The first two together; then after 200 ms, 400, 800, ...
        assert!(within(1) <= 5, "{looked_at:?}");
        assert!(within(10) <= 9, "{looked_at:?}");
        assert!(within(60) <= 19, "{looked_at:?}");
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let penalties = Penalties::default();
        let start = Instant::now();
        let count = u32::try_from(MOST_ORIGINS).unwrap();
        for uid in 0..=count {
            penalties.failed(&local(uid), "", start + Duration::from_millis(uid.into()));
        }
        assert_eq!(penalties.failures().len(), MOST_ORIGINS);
        assert!(penalties.failures().get(&Origin::Account(0)).is_none());
        assert!(penalties.failures().get(&Origin::Account(count)).is_some());
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
                        prop_assert!((FIRST_DELAY..=LONGEST_DELAY).contains(&held));
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
                    prop_assert!(delay <= LONGEST_DELAY);
                    prop_assert!(delay.is_zero() || failed[uid as usize]);
                    prop_assert!(penalties.delay(&local(uid), now + LONGEST_DELAY).is_zero());
                }
            }
        }
    }
}
