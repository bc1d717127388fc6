//! The health of the addresses that an endpoint leads to: an address that fails rests, each time longer,
//! and an address that does not answer is left alone until its answer is known. Pure: the time is an
//! argument.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

/// The first rest; it doubles with each failure in a row.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// An address that accepted a login within this time is known to answer now.
const KNOWN_TO_ANSWER: Duration = Duration::from_secs(15);

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concerns<'u> {
    /// Nobody gets through.
    Everybody,
    /// This user was turned away, which says nothing about others.
    User(&'u str),
}

/// The health of the addresses of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// By place, and by user where only the user is concerned. An address that never failed has no entry.
    rests: HashMap<(String, Option<String>), Rest>,
    /// When each address accepted a login last.
    accepted: HashMap<String, Instant>,
}

#[derive(Debug, Clone)]
struct Rest {
    /// In a row. 0 while the first attempt has not answered yet.
    failures: u32,
    /// The first of these failures.
    since: Instant,
    phase: RestPhase,
    reason: String,
}

/// What ends a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestPhase {
    /// Time: a session tries the address from then on.
    Timed(Instant),
    /// A session tries the address. The result is known by then, and others wait for it.
    Tried(Instant),
    /// A probe, the next of which is due then. Sessions wait for its result.
    Probed(Instant),
}

/// A place that fails for everybody, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Down {
    /// When it failed first since it last took a session.
    pub(super) since: Instant,
    /// When it is tried again, while it rests.
    pub(super) until: Option<Instant>,
    /// The last failure.
    pub(super) reason: String,
}

impl Health {
    /// Until when `user` had better go elsewhere than to `place`.
    pub(super) fn resting(&self, place: &str, user: &str, now: Instant) -> Option<Instant> {
        [None, Some(user)]
            .into_iter()
            .filter_map(|user| self.rest(place, user)?.left_alone_until(now))
            .max()
    }

    /// Whether `place` fails for everybody: from its first failure until it takes a session.
    pub(super) fn down(&self, place: &str, now: Instant) -> Option<Down> {
        let rest = self.rest(place, None)?;
        Some(Down {
            since: rest.since,
            until: rest.left_alone_until(now),
            reason: rest.reason.clone(),
        })
    }

    /// Whether `place` accepted a login a moment ago and nothing has gone wrong there since.
    pub(super) fn is_known_to_answer(&self, place: &str, now: Instant) -> bool {
        let lately = |at: &Instant| now.saturating_duration_since(*at) <= KNOWN_TO_ANSWER;
        self.rest(place, None).is_none() && self.accepted.get(place).is_some_and(lately)
    }

    /// Whether `place` has accepted a login since then.
    pub(super) fn has_accepted_since(&self, place: &str, then: Instant) -> bool {
        self.accepted.get(place).is_some_and(|at| *at >= then)
    }

    /// Somebody is about to try `place`, which takes `limit` at the most. If it failed before, the
    /// others wait for what comes of it.
    pub(super) fn trying(&mut self, place: &str, user: &str, now: Instant, limit: Duration) {
        for key in keys(place, user) {
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

    /// An attempt has not answered within its head start, and its result is known `by` then at the
    /// latest: until then those whom it concerns go elsewhere. Returns whether that is news.
    pub(super) fn late(
        &mut self,
        place: &str,
        concerns: Concerns<'_>,
        by: Instant,
        reason: &str,
        now: Instant,
    ) -> bool {
        let user = match concerns {
            Concerns::Everybody => None,
            Concerns::User(user) => Some(user.to_owned()),
        };
        let Entry::Vacant(vacant) = self.rests.entry((place.to_owned(), user)) else {
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

    /// It failed. Returns how long it rests, and whether that is news.
    pub(super) fn failed(
        &mut self,
        place: &str,
        concerns: Concerns<'_>,
        reason: &str,
        now: Instant,
    ) -> (Duration, bool) {
        let user = match concerns {
            Concerns::Everybody => None,
            Concerns::User(user) => {
                // What was tried told nothing about the others: they need not wait for it.
                self.turned_away(place, user, now);
                Some(user.to_owned())
            }
        };
        let rest = self
            .rests
            .entry((place.to_owned(), user))
            .or_insert_with(|| Rest {
                failures: 0,
                since: now,
                phase: RestPhase::Timed(now),
                reason: String::new(),
            });
        // Those that had begun before the rest did fail with it, and not once more.
        if let RestPhase::Timed(until) | RestPhase::Probed(until) = rest.phase
            && until > now
        {
            return (until - now, false);
        }
        let news = rest.failures == 0;
        let pause = FIRST_REST
            .saturating_mul(2_u32.saturating_pow(rest.failures))
            .min(LONGEST_REST);
        // Full pauses would bring every host of a cluster back at the same moment.
        let pause = pause.mul_f64(0.75 + 0.25 * fastrand::f64());
        rest.failures = rest.failures.saturating_add(1);
        rest.phase = match rest.phase {
            RestPhase::Probed(_) => RestPhase::Probed(now + pause),
            RestPhase::Timed(_) | RestPhase::Tried(_) => RestPhase::Timed(now + pause),
        };
        reason.clone_into(&mut rest.reason);
        (pause, news)
    }

    /// It took a session of `user`. Returns whether that is news.
    pub(super) fn succeeded(&mut self, place: &str, user: &str) -> bool {
        let known = keys(place, user).map(|key| self.rests.remove(&key).is_some());
        known.contains(&true)
    }

    /// Whether all that is known against `place` is that it takes its time.
    pub(super) fn is_only_late(&self, place: &str) -> bool {
        self.rest(place, None)
            .is_some_and(|rest| rest.failures == 0)
    }

    /// `place` has accepted a login.
    pub(super) fn accepted(&mut self, place: &str, now: Instant) {
        self.accepted.insert(place.to_owned(), now);
    }

    /// From here on probes end the rest of `place`, and no session does.
    pub(super) fn probed(&mut self, place: &str) {
        if let Some(rest) = self.everybodys(place) {
            let (RestPhase::Timed(next) | RestPhase::Tried(next) | RestPhase::Probed(next)) =
                rest.phase;
            rest.phase = RestPhase::Probed(next);
        }
    }

    /// When the next probe of `place` is due; none where it needs no probe.
    pub(super) fn next_probe(&self, place: &str) -> Option<Instant> {
        match self.rest(place, None)?.phase {
            RestPhase::Probed(next) => Some(next),
            RestPhase::Timed(_) | RestPhase::Tried(_) => None,
        }
    }

    /// Probes end, without an accepted login: the next session tries `place`, and the others wait for the
    /// result.
    pub(super) fn unprobed(&mut self, place: &str, now: Instant) {
        if let Some(rest) = self.everybodys(place)
            && matches!(rest.phase, RestPhase::Probed(_))
        {
            rest.phase = RestPhase::Timed(now);
        }
    }

    /// The session of `user` that tries `place` was turned away, which tells nothing about others, nor
    /// whether `place` hangs: the next one may try.
    pub(super) fn turned_away(&mut self, place: &str, user: &str, now: Instant) {
        for key in keys(place, user) {
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

    /// Forgets places that there are no more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.rests.retain(|(place, _), _| is_there(place));
        self.accepted.retain(|place, _| is_there(place));
    }

    fn rest(&self, place: &str, user: Option<&str>) -> Option<&Rest> {
        self.rests
            .get(&(place.to_owned(), user.map(ToOwned::to_owned)))
    }

    fn everybodys(&mut self, place: &str) -> Option<&mut Rest> {
        self.rests.get_mut(&(place.to_owned(), None))
    }
}

impl Rest {
    /// None where a session may try it.
    fn left_alone_until(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            RestPhase::Timed(until) | RestPhase::Tried(until) => (until > now).then_some(until),
            // Also while the probe is under way.
            RestPhase::Probed(next) => Some(next.max(now)),
        }
    }
}

fn keys(place: &str, user: &str) -> [(String, Option<String>); 2] {
    [
        (place.to_owned(), None),
        (place.to_owned(), Some(user.to_owned())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_place_that_fails_rests_longer_each_time_and_a_success_ends_that() {
        let mut health = Health::default();
        let mut now = Instant::now();
        let (begun, mut longest) = (now, Duration::ZERO);
        for failure in 0..12 {
            let (pause, news) = health.failed("a", Concerns::Everybody, "refused", now);
            assert_eq!(news, failure == 0);
            assert!(pause > longest.mul_f64(0.74) && pause <= LONGEST_REST);
            longest = longest.max(pause);
            assert_eq!(health.resting("a", "alice", now), Some(now + pause));
            let down = health.down("a", now).unwrap();
            assert_eq!((down.since, down.until), (begun, Some(now + pause)));
            assert_eq!(down.reason, "refused");
            assert_eq!(health.resting("b", "alice", now), None);
            now += pause;
            assert_eq!(health.resting("a", "alice", now), None);
            // It may be tried, and is down all the same.
            let down = health.down("a", now).unwrap();
            assert_eq!((down.since, down.until), (begun, None));
        }
        assert!(longest > LONGEST_REST / 2);
        assert!(health.succeeded("a", "alice"));
        assert_eq!(health.down("a", now), None);
        assert!(!health.succeeded("a", "alice"), "no news");
        assert!(health.failed("a", Concerns::Everybody, "", now).0 <= SECOND);
    }

    #[test]
    fn what_one_user_is_refused_concerns_no_other() {
        let mut health = Health::default();
        let now = Instant::now();
        health.failed("a", Concerns::User("alice"), "no", now);
        assert!(health.resting("a", "alice", now).is_some());
        assert_eq!(health.resting("a", "bob", now), None);
        assert_eq!(health.down("a", now), None);
        health.succeeded("a", "bob");
        assert!(health.resting("a", "alice", now).is_some());
    }

    #[test]
    fn after_a_rest_one_tries_and_the_others_wait_for_what_comes_of_it() {
        let mut health = Health::default();
        let now = Instant::now();
        health.trying("a", "alice", now, SECOND);
        assert_eq!(health.resting("a", "bob", now), None, "it never failed");
        health.failed("a", Concerns::Everybody, "", now);
        let later = now + SECOND;
        assert_eq!(health.resting("a", "alice", later), None);
        health.trying("a", "alice", later, 5 * SECOND);
        assert_eq!(health.resting("a", "bob", later), Some(later + 5 * SECOND));
        assert_eq!(health.resting("a", "bob", later + 5 * SECOND), None);
    }

    #[test]
    fn a_place_that_is_gone_is_forgotten() {
        let mut health = Health::default();
        let now = Instant::now();
        health.failed("a", Concerns::Everybody, "", now);
        health.failed("b", Concerns::User("bob"), "", now);
        health.keep(|place| place == "b");
        assert_eq!(health.resting("a", "bob", now), None);
        assert!(health.resting("b", "bob", now).is_some());
    }

    #[test]
    fn those_that_fail_together_count_once() {
        let mut health = Health::default();
        let now = Instant::now();
        for nth in 0..50 {
            let (pause, news) = health.failed("a", Concerns::Everybody, "refused", now);
            assert!(pause <= SECOND, "{pause:?}");
            assert_eq!(news, nth == 0);
        }
        let later = now + SECOND;
        health.trying("a", "alice", later, 5 * SECOND);
        let (pause, _) = health.failed("a", Concerns::Everybody, "refused", later);
        assert!(pause > SECOND, "a try after the rest counts: {pause:?}");
    }

    #[test]
    fn a_try_that_concerned_one_user_only_keeps_nobody_else_away() {
        let mut health = Health::default();
        let now = Instant::now();
        health.failed("a", Concerns::Everybody, "refused", now);
        let later = now + SECOND;
        health.trying("a", "alice", later, 10 * SECOND);
        health.failed("a", Concerns::User("alice"), "denied", later);
        assert_eq!(health.resting("a", "bob", later), None);
        assert!(health.resting("a", "alice", later).is_some());
    }

    #[test]
    fn an_attempt_without_an_answer_keeps_everybody_away_until_it_answers() {
        let mut health = Health::default();
        let now = Instant::now();
        health.accepted("a", now);
        assert!(health.is_known_to_answer("a", now + SECOND));
        assert!(health.late(
            "a",
            Concerns::Everybody,
            now + 10 * SECOND,
            "no answer",
            now
        ));
        assert!(
            !health.late(
                "a",
                Concerns::Everybody,
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
        // The same attempt fails: the first failure.
        health.late(
            "a",
            Concerns::Everybody,
            now + 10 * SECOND,
            "no answer",
            now,
        );
        let (pause, news) = health.failed("a", Concerns::Everybody, "slow", now + 9 * SECOND);
        assert!(news && pause <= SECOND);
        // It is turned away: whoever is, the address answers.
        health.late(
            "b",
            Concerns::Everybody,
            now + 10 * SECOND,
            "no answer",
            now,
        );
        health.failed("b", Concerns::User("alice"), "refused", now + SECOND);
        assert_eq!(health.resting("b", "bob", now + SECOND), None);
        assert!(health.resting("b", "alice", now + SECOND).is_some());
    }

    #[test]
    fn while_probes_decide_no_session_tries_it() {
        let mut health = Health::default();
        let now = Instant::now();
        let (pause, _) = health.failed("a", Concerns::Everybody, "slow", now);
        assert_eq!(health.next_probe("a"), None);
        health.probed("a");
        assert_eq!(health.next_probe("a"), Some(now + pause));
        let much_later = now + 100 * SECOND;
        assert_eq!(health.resting("a", "bob", much_later), Some(much_later));
        assert_eq!(health.down("a", much_later).unwrap().reason, "slow");
        // The last resort of a session that finds nothing else.
        health.trying("a", "bob", much_later, SECOND);
        let (longer, news) = health.failed("a", Concerns::Everybody, "slow", much_later);
        assert!(longer > pause && !news);
        assert_eq!(health.next_probe("a"), Some(much_later + longer));
        // What is no login says that one session may try.
        let then = much_later + longer;
        health.unprobed("a", then);
        assert_eq!(health.next_probe("a"), None);
        assert_eq!(health.resting("a", "bob", then), None);
        health.trying("a", "bob", then, 10 * SECOND);
        assert!(health.resting("a", "alice", then).is_some());
        health.probed("a");
        assert!(health.succeeded("a", "bob"));
        assert_eq!(health.next_probe("a"), None);
    }

    #[test]
    fn an_answer_is_known_for_a_while_only() {
        let mut health = Health::default();
        let now = Instant::now();
        assert!(!health.is_known_to_answer("a", now), "nobody asked");
        health.accepted("a", now);
        assert!(health.is_known_to_answer("a", now + KNOWN_TO_ANSWER));
        let later = now + KNOWN_TO_ANSWER + SECOND;
        assert!(!health.is_known_to_answer("a", later));
        health.accepted("a", later);
        health.failed("a", Concerns::Everybody, "refused", later);
        assert!(!health.is_known_to_answer("a", later));
        health.keep(|_| false);
        assert!(!health.is_known_to_answer("a", later));
    }
}
