//! A growing delay for those who guess passwords, and a queue for each that guesses many at once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Origin, Peer};
use q_ipc::handshake::Hello;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(100);

/// After many.
const LONGEST: Duration = Duration::from_secs(5);

/// Without a failure for this long all is forgotten.
const QUIET: Duration = Duration::from_secs(60);

/// How soon after its refusal a guess has to be repeated to be the same guess. qPython repeats at once.
const REPEATED_WITHIN: Duration = Duration::from_secs(2);

/// Guesses of one origin that may be repeated; past this the oldest is forgotten.
const REPEATABLE: usize = 8;

/// Peers that are remembered; past this the one that failed longest ago is forgotten.
const CAPACITY: usize = 4096;

/// Who failed, how often, and what it costs them: 100 ms, doubling to 5 s, for one attempt after the
/// other.
///
/// Peers are told apart by their [`Origin`].
#[derive(Debug)]
pub struct Penalties {
    table: Mutex<HashMap<Origin, Record>>,
    names: RandomState,
    gates: Mutex<HashMap<Origin, Arc<Gate>>>,
    /// Attempts at a time of a peer that has not failed.
    at_a_time: usize,
}

/// What the attempts of one origin go through.
#[derive(Debug)]
struct Gate {
    every: Arc<Semaphore>,
    /// Those of a peer that has failed, of these one at a time.
    failed: Arc<Semaphore>,
}

/// An attempt's turn, over when dropped.
#[derive(Debug)]
pub struct Turn<'p> {
    _permits: [Option<OwnedSemaphorePermit>; 2],
    _place: AtGate<'p>,
}

/// A place at a gate, which is gone with the last of them.
#[derive(Debug)]
struct AtGate<'p> {
    penalties: &'p Penalties,
    origin: Origin,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Instant,
    tried: Tried,
    repeatable: VecDeque<CountedGuess>,
}

/// A user and a password that were refused.
#[derive(Debug, Clone, Copy)]
pub struct Guess<'g> {
    /// Who gave them.
    pub peer: &'g Peer,
    /// What hopen gave.
    pub hello: &'g Hello,
    /// When it gave them.
    pub arrived: Instant,
}

/// A guess that was counted, and that counts no second time if the client repeats it without a
/// capability byte: a client of kdb+ before 2.6 needs that form, and qPython tries it after a refusal.
#[derive(Debug)]
struct CountedGuess {
    /// A hash of the user and the password, with a random key of this process.
    hash: u64,
    /// When it is too late for that.
    until: Instant,
}

/// Which users a peer failed to be, by a hash of what hopen gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    One(u64),
    Several,
}

impl Default for Penalties {
    /// Half of the processors for one origin: the others are for everybody else's passwords.
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::with(processors / 2)
    }
}

impl Penalties {
    /// With so many attempts at a time of a peer that has not failed.
    fn with(at_a_time: usize) -> Self {
        Self {
            table: Mutex::default(),
            names: RandomState::default(),
            gates: Mutex::default(),
            at_a_time: at_a_time.max(1),
        }
    }

    /// Waits until `peer` may make an attempt. To be held until it is over, its delays included: those
    /// that come after it wait. Without this, guesses made at the same time would cost what one does.
    ///
    /// Waits without a limit: put a deadline around it. Cancel safe.
    pub async fn turn(&self, peer: &Peer) -> Turn<'_> {
        let place = self.at_gate(Origin::of(peer));
        // Nobody closes them.
        let every = Arc::clone(&place.gate.every).acquire_owned().await.ok();
        let alone = if self.has_failed(place.origin) {
            Arc::clone(&place.gate.failed).acquire_owned().await.ok()
        } else {
            None
        };
        Turn {
            _permits: [every, alone],
            _place: place,
        }
    }

    fn at_gate(&self, origin: Origin) -> AtGate<'_> {
        let mut gates = self.gates();
        let gate = gates.entry(origin).or_insert_with(|| {
            Arc::new(Gate {
                every: Arc::new(Semaphore::new(self.at_a_time)),
                failed: Arc::new(Semaphore::new(1)),
            })
        });
        AtGate {
            penalties: self,
            origin,
            gate: Arc::clone(gate),
        }
    }

    fn has_failed(&self, origin: Origin) -> bool {
        let now = tokio::time::Instant::now().into_std();
        let table = self.table();
        table
            .get(&origin)
            .is_some_and(|record| !record.is_forgotten(now))
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<Origin, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

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

    /// Records a guess that was refused, and returns how long to hold back the refusal. A guess that
    /// repeats one that was counted, and leaves out the capability byte, is that same guess: it costs
    /// nothing, once.
    pub fn refused(&self, guess: &Guess<'_>, now: Instant) -> Duration {
        let Guess {
            peer,
            hello,
            arrived,
        } = *guess;
        let hash = self.names.hash_one((&hello.user, hello.password.expose()));
        let origin = Origin::of(peer);
        if hello.capability.is_none() && self.was_counted(origin, hash, arrived) {
            return Duration::ZERO;
        }
        let held_back = self.failed(peer, &hello.user, now);
        if hello.capability.is_some()
            && let Some(record) = self.table().get_mut(&origin)
        {
            record.repeatable.truncate(REPEATABLE - 1);
            let until = now + held_back + REPEATED_WITHIN;
            record.repeatable.push_front(CountedGuess { hash, until });
        }
        held_back
    }

    /// Whether this very guess was counted lately. It is no longer afterwards.
    fn was_counted(&self, origin: Origin, hash: u64, arrived: Instant) -> bool {
        let mut table = self.table();
        let Some(record) = table.get_mut(&origin) else {
            return false;
        };
        let mut counted = record.repeatable.iter();
        let found = counted.position(|guess| guess.hash == hash && arrived <= guess.until);
        found.is_some_and(|at| record.repeatable.remove(at).is_some())
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
                    record.repeatable.clear();
                }
            })
            .or_insert(Record {
                failures: 0,
                last: now,
                tried,
                repeatable: VecDeque::new(),
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

impl Drop for AtGate<'_> {
    fn drop(&mut self) {
        let mut gates = self.penalties.gates();
        // The table's and this one: nobody else can come to it meanwhile.
        if Arc::strong_count(&self.gate) == 2 {
            gates.remove(&self.origin);
        }
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
        let late = FIRST * 2 + REPEATED_WITHIN + Duration::from_millis(1);
        // Who, what, and when by how much after the guess before; how long it is held back.
        let table = [
            (local(1), hello("a", with), Duration::ZERO, FIRST),
            (local(1), hello("a", without), FIRST, Duration::ZERO),
            // Once.
            (local(1), hello("a", without), FIRST, FIRST * 2),
            // It was counted without the byte: the same again is a guess.
            (local(1), hello("a", without), FIRST * 2, FIRST * 4),
            // Another password, another origin, the byte, too late.
            (local(2), hello("a", with), Duration::ZERO, FIRST),
            (local(2), hello("b", without), FIRST, FIRST * 2),
            (local(3), hello("a", without), Duration::ZERO, FIRST),
            (local(2), hello("a", with), Duration::ZERO, FIRST * 4),
            (local(3), hello("c", with), Duration::ZERO, FIRST * 2),
            (local(3), hello("c", without), late, FIRST * 4),
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
        // Clients of one account take turns: the last eight guesses can be repeated.
        let names: Vec<_> = (0..=REPEATABLE).map(|n| n.to_string()).collect();
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
        assert_eq!(penalties.delay(&remote("127.9.8.7:1"), now), FIRST);
        assert_eq!(penalties.delay(&remote("10.0.0.1:1"), now), Duration::ZERO);
    }

    /// Twenty attempts at the same moment: how many were made at a time.
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
        let penalties = Penalties::with(3);
        let (guesser, other) = (local(1), local(2));
        assert_eq!(burst(&penalties, &guesser).await, 3);
        let now = tokio::time::Instant::now().into_std();
        penalties.failed(&guesser, "alice", now);
        assert_eq!(burst(&penalties, &guesser).await, 1);
        assert_eq!(burst(&penalties, &other).await, 3);
        assert!(penalties.gates().is_empty());

        let held = penalties.turn(&guesser).await;
        let second = tokio::time::timeout(Duration::from_secs(60), penalties.turn(&guesser));
        assert!(second.await.is_err(), "the first has not ended");
        assert_eq!(penalties.gates().len(), 1);
        drop(held);
        assert!(penalties.gates().is_empty());
    }

    /// Each is begun a delay after the last one failed, though all came at the same moment.
    #[tokio::test(start_paused = true)]
    async fn guesses_at_the_same_time_cost_what_they_cost_one_after_the_other() {
        let penalties = Penalties::with(2);
        let begun = tokio::time::Instant::now();
        let guesser = local(1);
        let now = || tokio::time::Instant::now().into_std();
        let guesses = (0..40).map(|_| async {
            let _turn = penalties.turn(&guesser).await;
            sleep(penalties.delay(&guesser, now())).await;
            let looked_at = begun.elapsed();
            // What a check takes: others may come meanwhile.
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
