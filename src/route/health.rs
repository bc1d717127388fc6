//! The health of the addresses of one endpoint. Pure: the time is an argument.
//!
//! - An address that fails *rests*: sessions try the other addresses first. Each rest is longer than
//!   the one before, until a login succeeds there.
//! - An address that has not answered within its head start rests, too, until its answer is known.
//! - A failure may concern one user only, as when kdb+ refuses that user's login. Then the address
//!   rests for that user alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::backoff::pause_after;

/// An address that accepted a login within this time is known to answer now.
const KNOWN_TO_ANSWER: Duration = Duration::from_secs(15);

/// Which users a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureScope<'u> {
    /// The address fails for all users.
    AllUsers,
    /// The address failed for this user. That says nothing about other users.
    User(&'u str),
}

/// The rests and the latest successful logins of an endpoint's addresses. An address's name is its text
/// in the configuration, or a node's id.
#[derive(Debug, Default)]
pub(super) struct AddressHealth {
    /// An address that never failed has no entry.
    rests: HashMap<RestKey, Rest>,
    /// When each address last accepted a login.
    accepted: HashMap<String, Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RestKey {
    address: String,
    /// `None` if the rest concerns all users.
    user: Option<String>,
}

/// An address that has failed, or that keeps a session waiting, and has accepted no login since.
#[derive(Debug, Clone)]
struct Rest {
    /// Failures in a row. 0 while the first attempt has neither failed nor succeeded.
    failures: u32,
    /// When the first of these failures happened, or when the first attempt began.
    since: Instant,
    phase: RestPhase,
    /// The last failure, for people to read.
    reason: String,
}

/// The event that ends a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestPhase {
    /// Time ends the rest. From this moment on, a session may try the address.
    Timed(Instant),
    /// A session that tries the address ends the rest by its result, at this moment at the latest.
    Tried(Instant),
    /// A probe that succeeds ends the rest. The next probe is due at this moment.
    Probed(Instant),
}

/// An address that fails for all users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressOutage {
    /// When the address failed for the first time since its last successful login.
    pub(super) since: Instant,
    /// The end of the rest. `None` if a session may try the address now.
    pub(super) until: Option<Instant>,
    /// The last failure, for people to read.
    pub(super) reason: String,
}

/// The rest that a failure has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RestStarted {
    /// How long the address rests from now on.
    pub(super) pause: Duration,
    /// Whether the address worked until now.
    pub(super) is_first_failure: bool,
}

impl AddressHealth {
    /// The end of the rest of `address`, for a session of `user`. `None` if the session may try it now.
    pub(super) fn resting(&self, address: &str, user: &str, now: Instant) -> Option<Instant> {
        RestKey::both(address, user)
            .iter()
            .filter_map(|key| self.rests.get(key)?.until(now))
            .max()
    }

    /// The outage of `address`, from its first failure until it accepts a login. `None` if it works.
    pub(super) fn outage(&self, address: &str, now: Instant) -> Option<AddressOutage> {
        let rest = self.rest_of_all(address)?;
        Some(AddressOutage {
            since: rest.since,
            until: rest.until(now),
            reason: rest.reason.clone(),
        })
    }

    /// Whether `address` accepted a login within the last 15 s and has not failed since.
    pub(super) fn is_known_to_answer(&self, address: &str, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) <= KNOWN_TO_ANSWER;
        self.rest_of_all(address).is_none() && self.accepted.get(address).is_some_and(is_recent)
    }

    /// Whether `address` has accepted a login since `then`.
    pub(super) fn has_accepted_since(&self, address: &str, then: Instant) -> bool {
        self.accepted.get(address).is_some_and(|at| *at >= then)
    }

    /// A session of `user` tries `address`, for at most `limit`. If the address has failed before, the
    /// other sessions avoid it until the result is known.
    pub(super) fn trying(&mut self, address: &str, user: &str, now: Instant, limit: Duration) {
        for key in RestKey::both(address, user) {
            let Some(rest) = self.rests.get_mut(&key) else {
                continue;
            };
            rest.phase = match rest.phase {
                RestPhase::Timed(until) | RestPhase::Tried(until) => {
                    RestPhase::Tried(until.max(now + limit))
                }
                probed @ RestPhase::Probed(_) => probed,
            };
        }
    }

    /// An attempt has not answered within its head start. Its result is known `by` then at the latest,
    /// and the users in `scope` avoid the address until then. Returns whether the address worked so far.
    pub(super) fn late(
        &mut self,
        address: &str,
        scope: FailureScope<'_>,
        by: Instant,
        reason: &str,
        now: Instant,
    ) -> bool {
        let Entry::Vacant(vacant) = self.rests.entry(RestKey::of(address, scope)) else {
            return false;
        };
        vacant.insert(Rest {
            failures: 0,
            since: now,
            phase: RestPhase::Tried(by),
            reason: reason.to_owned(),
        });
        true
    }

    /// `address` has failed, so it rests for the users in `scope`.
    pub(super) fn failed(
        &mut self,
        address: &str,
        scope: FailureScope<'_>,
        reason: &str,
        now: Instant,
    ) -> RestStarted {
        if let FailureScope::User(user) = scope {
            // Other users need not wait for the attempt, because its result says nothing about them.
            self.turned_away(address, user, now);
        }
        let rest = self
            .rests
            .entry(RestKey::of(address, scope))
            .or_insert_with(|| Rest {
                failures: 0,
                since: now,
                phase: RestPhase::Timed(now),
                reason: String::new(),
            });
        // An attempt that began before the rest fails for the same cause, so the failure counts once.
        if let RestPhase::Timed(until) | RestPhase::Probed(until) = rest.phase
            && until > now
        {
            return RestStarted {
                pause: until - now,
                is_first_failure: false,
            };
        }
        let is_first_failure = rest.failures == 0;
        let pause = pause_after(rest.failures);
        rest.failures = rest.failures.saturating_add(1);
        rest.phase = match rest.phase {
            RestPhase::Probed(_) => RestPhase::Probed(now + pause),
            RestPhase::Timed(_) | RestPhase::Tried(_) => RestPhase::Timed(now + pause),
        };
        reason.clone_into(&mut rest.reason);
        RestStarted {
            pause,
            is_first_failure,
        }
    }

    /// `address` has accepted a login of `user`. Returns whether it had failed or was late before.
    pub(super) fn succeeded(&mut self, address: &str, user: &str) -> bool {
        let ended = RestKey::both(address, user).map(|key| self.rests.remove(&key).is_some());
        ended.contains(&true)
    }

    /// Whether `address` rests only because an attempt has not answered yet.
    pub(super) fn is_only_late(&self, address: &str) -> bool {
        self.rest_of_all(address)
            .is_some_and(|rest| rest.failures == 0)
    }

    /// Notes the time at which `address` accepted a login.
    pub(super) fn accepted(&mut self, address: &str, now: Instant) {
        self.accepted.insert(address.to_owned(), now);
    }

    /// From now on, a probe ends the rest of `address`. Sessions no longer do.
    pub(super) fn probing_began(&mut self, address: &str) {
        if let Some(rest) = self.rests.get_mut(&RestKey::of_all(address)) {
            let (RestPhase::Timed(next) | RestPhase::Tried(next) | RestPhase::Probed(next)) =
                rest.phase;
            rest.phase = RestPhase::Probed(next);
        }
    }

    /// When the next probe of `address` is due. `None` if it needs no probe.
    pub(super) fn next_probe(&self, address: &str) -> Option<Instant> {
        match self.rest_of_all(address)?.phase {
            RestPhase::Probed(next) => Some(next),
            RestPhase::Timed(_) | RestPhase::Tried(_) => None,
        }
    }

    /// Probes of `address` have ended without an accepted login. The next session tries the address,
    /// and the other sessions avoid it until the result is known.
    pub(super) fn probing_ended(&mut self, address: &str, now: Instant) {
        if let Some(rest) = self.rests.get_mut(&RestKey::of_all(address))
            && matches!(rest.phase, RestPhase::Probed(_))
        {
            rest.phase = RestPhase::Timed(now);
        }
    }

    /// `address` has turned away a session of `user`. This says nothing about other users, nor whether
    /// the address hangs. So the next session may try the address.
    pub(super) fn turned_away(&mut self, address: &str, user: &str, now: Instant) {
        for key in RestKey::both(address, user) {
            let Entry::Occupied(mut rest) = self.rests.entry(key) else {
                continue;
            };
            if !matches!(rest.get().phase, RestPhase::Tried(_)) {
                continue;
            }
            if rest.get().failures == 0 {
                rest.remove();
            } else {
                rest.get_mut().phase = RestPhase::Timed(now);
            }
        }
    }

    /// Forgets all addresses that the target no longer has.
    pub(super) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.rests.retain(|key, _| exists(&key.address));
        self.accepted.retain(|address, _| exists(address));
    }

    fn rest_of_all(&self, address: &str) -> Option<&Rest> {
        self.rests.get(&RestKey::of_all(address))
    }
}

impl RestKey {
    fn of(address: &str, scope: FailureScope<'_>) -> Self {
        match scope {
            FailureScope::AllUsers => Self::of_all(address),
            FailureScope::User(user) => Self {
                address: address.to_owned(),
                user: Some(user.to_owned()),
            },
        }
    }

    fn of_all(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            user: None,
        }
    }

    /// The two rests that decide whether a session of `user` may try `address`.
    fn both(address: &str, user: &str) -> [Self; 2] {
        [
            Self::of_all(address),
            Self::of(address, FailureScope::User(user)),
        ]
    }
}

impl Rest {
    /// The end of the rest. `None` if a session may try the address now.
    fn until(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            RestPhase::Timed(until) | RestPhase::Tried(until) => (until > now).then_some(until),
            // The rest goes on while a probe that was due is under way.
            RestPhase::Probed(next) => Some(next.max(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::backoff::LONGEST_PAUSE;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_address_that_fails_rests_longer_each_time_and_a_success_ends_that() {
        let mut health = AddressHealth::default();
        let mut now = Instant::now();
        let (begun, mut longest) = (now, Duration::ZERO);
        for failure in 0..12 {
            let RestStarted {
                pause,
                is_first_failure: news,
            } = health.failed("a", FailureScope::AllUsers, "refused", now);
            assert_eq!(news, failure == 0);
            assert!(pause > longest.mul_f64(0.74) && pause <= LONGEST_PAUSE);
            longest = longest.max(pause);
            assert_eq!(health.resting("a", "alice", now), Some(now + pause));
            let outage = health.outage("a", now).unwrap();
            assert_eq!((outage.since, outage.until), (begun, Some(now + pause)));
            assert_eq!(outage.reason, "refused");
            assert_eq!(health.resting("b", "alice", now), None);
            now += pause;
            assert_eq!(health.resting("a", "alice", now), None);
            // A session may try it, and the outage goes on until a login succeeds.
            let outage = health.outage("a", now).unwrap();
            assert_eq!((outage.since, outage.until), (begun, None));
        }
        assert!(longest > LONGEST_PAUSE / 2);
        assert!(health.succeeded("a", "alice"));
        assert_eq!(health.outage("a", now), None);
        assert!(!health.succeeded("a", "alice"), "no news");
        assert!(health.failed("a", FailureScope::AllUsers, "", now).pause <= SECOND);
    }

    #[test]
    fn what_one_user_is_refused_concerns_no_other() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        health.failed("a", FailureScope::User("alice"), "no", now);
        assert!(health.resting("a", "alice", now).is_some());
        assert_eq!(health.resting("a", "bob", now), None);
        assert_eq!(health.outage("a", now), None);
        health.succeeded("a", "bob");
        assert!(health.resting("a", "alice", now).is_some());
    }

    #[test]
    fn after_a_rest_one_session_tries_and_the_others_wait_for_the_result() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        health.trying("a", "alice", now, SECOND);
        assert_eq!(health.resting("a", "bob", now), None, "it never failed");
        health.failed("a", FailureScope::AllUsers, "", now);
        let later = now + SECOND;
        assert_eq!(health.resting("a", "alice", later), None);
        health.trying("a", "alice", later, 5 * SECOND);
        assert_eq!(health.resting("a", "bob", later), Some(later + 5 * SECOND));
        assert_eq!(health.resting("a", "bob", later + 5 * SECOND), None);
    }

    #[test]
    fn an_address_that_is_gone_is_forgotten() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        health.failed("a", FailureScope::AllUsers, "", now);
        health.failed("b", FailureScope::User("bob"), "", now);
        health.retain(|address| address == "b");
        assert_eq!(health.resting("a", "bob", now), None);
        assert!(health.resting("b", "bob", now).is_some());
    }

    #[test]
    fn those_that_fail_together_count_once() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        for nth in 0..50 {
            let RestStarted {
                pause,
                is_first_failure: news,
            } = health.failed("a", FailureScope::AllUsers, "refused", now);
            assert!(pause <= SECOND, "{pause:?}");
            assert_eq!(news, nth == 0);
        }
        let later = now + SECOND;
        health.trying("a", "alice", later, 5 * SECOND);
        let RestStarted { pause, .. } =
            health.failed("a", FailureScope::AllUsers, "refused", later);
        assert!(pause > SECOND, "a try after the rest counts: {pause:?}");
    }

    #[test]
    fn a_try_that_concerned_one_user_only_keeps_nobody_else_away() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        health.failed("a", FailureScope::AllUsers, "refused", now);
        let later = now + SECOND;
        health.trying("a", "alice", later, 10 * SECOND);
        health.failed("a", FailureScope::User("alice"), "denied", later);
        assert_eq!(health.resting("a", "bob", later), None);
        assert!(health.resting("a", "alice", later).is_some());
    }

    #[test]
    fn an_attempt_without_an_answer_keeps_everybody_away_until_it_answers() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        health.accepted("a", now);
        assert!(health.is_known_to_answer("a", now + SECOND));
        assert!(health.late(
            "a",
            FailureScope::AllUsers,
            now + 10 * SECOND,
            "no answer",
            now
        ));
        assert!(
            !health.late(
                "a",
                FailureScope::AllUsers,
                now + 11 * SECOND,
                "no answer",
                now
            ),
            "no news"
        );
        assert_eq!(
            health.resting("a", "bob", now + SECOND),
            Some(now + 10 * SECOND)
        );
        assert!(!health.is_known_to_answer("a", now + SECOND));
        assert!(health.is_only_late("a"));
        assert!(health.succeeded("a", "alice"));
        assert_eq!(health.resting("a", "bob", now + SECOND), None);
        // The same attempt fails in the end: this is the first failure.
        health.late(
            "a",
            FailureScope::AllUsers,
            now + 10 * SECOND,
            "no answer",
            now,
        );
        let RestStarted {
            pause,
            is_first_failure: news,
        } = health.failed("a", FailureScope::AllUsers, "slow", now + 9 * SECOND);
        assert!(news && pause <= SECOND);
        // A login that is refused is an answer, too.
        health.late(
            "b",
            FailureScope::AllUsers,
            now + 10 * SECOND,
            "no answer",
            now,
        );
        health.failed("b", FailureScope::User("alice"), "refused", now + SECOND);
        assert_eq!(health.resting("b", "bob", now + SECOND), None);
        assert!(health.resting("b", "alice", now + SECOND).is_some());
    }

    #[test]
    fn while_probes_decide_no_session_tries_the_address() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        let RestStarted { pause, .. } = health.failed("a", FailureScope::AllUsers, "slow", now);
        assert_eq!(health.next_probe("a"), None);
        health.probing_began("a");
        assert_eq!(health.next_probe("a"), Some(now + pause));
        let much_later = now + 100 * SECOND;
        assert_eq!(health.resting("a", "bob", much_later), Some(much_later));
        assert_eq!(health.outage("a", much_later).unwrap().reason, "slow");
        // A session that finds no other address tries it all the same.
        health.trying("a", "bob", much_later, SECOND);
        let RestStarted {
            pause: longer,
            is_first_failure: news,
        } = health.failed("a", FailureScope::AllUsers, "slow", much_later);
        assert!(longer > pause && !news);
        assert_eq!(health.next_probe("a"), Some(much_later + longer));
        // When probes end without a login, one session may try.
        let then = much_later + longer;
        health.probing_ended("a", then);
        assert_eq!(health.next_probe("a"), None);
        assert_eq!(health.resting("a", "bob", then), None);
        health.trying("a", "bob", then, 10 * SECOND);
        assert!(health.resting("a", "alice", then).is_some());
        health.probing_began("a");
        assert!(health.succeeded("a", "bob"));
        assert_eq!(health.next_probe("a"), None);
    }

    #[test]
    fn an_answer_is_known_for_a_while_only() {
        let mut health = AddressHealth::default();
        let now = Instant::now();
        assert!(!health.is_known_to_answer("a", now), "nobody asked");
        health.accepted("a", now);
        assert!(health.is_known_to_answer("a", now + KNOWN_TO_ANSWER));
        let later = now + KNOWN_TO_ANSWER + SECOND;
        assert!(!health.is_known_to_answer("a", later));
        health.accepted("a", later);
        health.failed("a", FailureScope::AllUsers, "refused", later);
        assert!(!health.is_known_to_answer("a", later));
        health.retain(|_| false);
        assert!(!health.is_known_to_answer("a", later));
    }
}
