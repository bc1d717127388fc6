//! Passive health of the places that an endpoint leads to: one that failed rests, each time longer.
//! Pure: the time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The first rest; it doubles with each failure in a row.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concerns<'u> {
    /// Nobody gets through.
    Everybody,
    /// This user was turned away, which says nothing about others.
    User(&'u str),
}

/// What is known of the places of one endpoint. A place that never failed leaves no trace here.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// By place, and by user where only the user is concerned.
    rests: HashMap<(String, Option<String>), Rest>,
}

#[derive(Debug, Clone)]
struct Rest {
    failures: u32,
    until: Instant,
    /// Somebody tries it, and what comes of that is known by then.
    tried_until: Option<Instant>,
    reason: String,
}

/// A place that is left alone, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resting {
    /// When it is tried again.
    pub(super) until: Instant,
    /// Why it rests.
    pub(super) reason: String,
}

impl Health {
    /// Until when `user` had better go elsewhere than to `place`.
    pub(super) fn resting(&self, place: &str, user: &str, now: Instant) -> Option<Instant> {
        [None, Some(user)]
            .into_iter()
            .filter_map(|user| self.rest(place, user))
            .map(Rest::left_alone_until)
            .filter(|&until| until > now)
            .max()
    }

    /// Whether everybody goes elsewhere than to `place`, and why.
    pub(super) fn rests(&self, place: &str, now: Instant) -> Option<Resting> {
        let rest = self.rest(place, None)?;
        let until = rest.left_alone_until();
        (until > now).then(|| Resting {
            until,
            reason: rest.reason.clone(),
        })
    }

    /// Somebody is about to try `place`, which takes `limit` at the most. If it failed before, the
    /// others wait for what comes of it.
    pub(super) fn trying(&mut self, place: &str, user: &str, now: Instant, limit: Duration) {
        for key in keys(place, user) {
            if let Some(rest) = self.rests.get_mut(&key) {
                rest.tried_until = Some(now + limit);
            }
        }
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
                if let Some(rest) = self.rests.get_mut(&(place.to_owned(), None)) {
                    rest.tried_until = None;
                }
                Some(user.to_owned())
            }
        };
        let rest = self
            .rests
            .entry((place.to_owned(), user))
            .or_insert_with(|| Rest {
                failures: 0,
                until: now,
                tried_until: None,
                reason: String::new(),
            });
        let tried = rest.tried_until.take().is_some();
        // Those that had begun before the rest did fail with it, and not once more.
        if rest.until > now && !tried {
            return (rest.until - now, false);
        }
        let news = rest.failures == 0;
        let pause = FIRST_REST
            .saturating_mul(2_u32.saturating_pow(rest.failures))
            .min(LONGEST_REST);
        // Full pauses would bring every host of a cluster back at the same moment.
        let pause = pause.mul_f64(0.75 + 0.25 * fastrand::f64());
        rest.failures = rest.failures.saturating_add(1);
        rest.until = now + pause;
        reason.clone_into(&mut rest.reason);
        (pause, news)
    }

    /// It took a session of `user`. Returns whether that is news.
    pub(super) fn succeeded(&mut self, place: &str, user: &str) -> bool {
        let known = keys(place, user).map(|key| self.rests.remove(&key).is_some());
        known.contains(&true)
    }

    /// Forgets places that there are no more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.rests.retain(|(place, _), _| is_there(place));
    }

    fn rest(&self, place: &str, user: Option<&str>) -> Option<&Rest> {
        self.rests
            .get(&(place.to_owned(), user.map(ToOwned::to_owned)))
    }
}

impl Rest {
    fn left_alone_until(&self) -> Instant {
        self.tried_until
            .map_or(self.until, |tried| tried.max(self.until))
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
        let mut longest = Duration::ZERO;
        for failure in 0..12 {
            let (pause, news) = health.failed("a", Concerns::Everybody, "refused", now);
            assert_eq!(news, failure == 0);
            assert!(pause > longest.mul_f64(0.74) && pause <= LONGEST_REST);
            longest = longest.max(pause);
            assert_eq!(health.resting("a", "alice", now), Some(now + pause));
            assert_eq!(health.rests("a", now).unwrap().reason, "refused");
            assert_eq!(health.resting("b", "alice", now), None);
            now += pause;
            assert_eq!(health.resting("a", "alice", now), None);
        }
        assert!(longest > LONGEST_REST / 2);
        assert!(health.succeeded("a", "alice"));
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
        assert_eq!(health.rests("a", now), None);
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
}
