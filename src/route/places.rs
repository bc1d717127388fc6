//! The places that an endpoint leads to, in the order in which a session tries them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::{Concerns, Health};
use crate::status::PlaceRow;

/// Whose turn it is, and who rests. A place is known by its name: an address or a node's id.
#[derive(Debug)]
pub(super) struct Places {
    endpoint: String,
    /// Whether sessions take the places in turn; else the first is the best.
    in_turn: bool,
    turn: AtomicUsize,
    health: Mutex<Health>,
}

impl Places {
    pub(super) fn new(endpoint: &str, in_turn: bool) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            in_turn,
            turn: AtomicUsize::new(0),
            health: Mutex::default(),
        }
    }

    /// All places of all groups: the first group first, those that rest last.
    pub(super) fn in_order<P>(
        &self,
        groups: Vec<Vec<P>>,
        name: impl Fn(&P) -> String,
        user: &str,
    ) -> Vec<P> {
        let now = Instant::now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let health = self.health();
        let mut order = Vec::new();
        let mut resting = Vec::new();
        for group in groups {
            let mut fresh = Vec::new();
            for place in group {
                match health.resting(&name(&place), user, now) {
                    None => fresh.push(place),
                    Some(until) => resting.push((until, place)),
                }
            }
            // Those that rest take no turn: the one behind them would get it on top of its own.
            if self.in_turn && !fresh.is_empty() {
                let first = turn % fresh.len();
                fresh.rotate_left(first);
            }
            order.extend(fresh);
        }
        resting.sort_by_key(|(until, _)| *until);
        order.extend(resting.into_iter().map(|(_, place)| place));
        order
    }

    /// The places that a session would go to first: those of the nearest group that has any that do
    /// not rest; the first of them, where they do not take turns.
    pub(super) fn best(&self, groups: Vec<Vec<String>>, user: &str) -> Vec<String> {
        let now = Instant::now();
        let health = self.health();
        let rests = |place: &String| health.resting(place, user, now).is_some();
        for mut group in groups {
            group.retain(|place| !rests(place));
            if !self.in_turn {
                group.truncate(1);
            }
            if !group.is_empty() {
                return group;
            }
        }
        Vec::new()
    }

    /// A session is about to try a place, which takes `limit` at the most.
    pub(super) fn trying(&self, place: &str, user: &str, limit: Duration) {
        self.health().trying(place, user, Instant::now(), limit);
    }

    /// A place took a session.
    pub(super) fn succeeded(&self, place: &str, user: &str) {
        if self.health().succeeded(place, user) {
            tracing::info!(endpoint = self.endpoint, place, "works again");
        }
    }

    /// A place did not take a session: others go first for a while.
    pub(super) fn failed(&self, place: &str, concerns: Concerns<'_>, reason: &str) {
        let (pause, news) = self
            .health()
            .failed(place, concerns, reason, Instant::now());
        let rest_ms = pause.as_millis();
        if news {
            tracing::warn!(endpoint = self.endpoint, place, rest_ms, "rests: {reason}");
        } else {
            tracing::debug!(endpoint = self.endpoint, place, rest_ms, "rests: {reason}");
        }
    }

    /// Forgets places that there are no more.
    pub(super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.health().keep(is_there);
    }

    /// A place for people to read.
    pub(super) fn row(&self, name: String, zone: &str) -> PlaceRow {
        let now = Instant::now();
        let resting = self.health().rests(&name, now);
        PlaceRow {
            name,
            zone: zone.to_owned(),
            resting_s: resting
                .as_ref()
                .map(|resting| (resting.until - now).as_secs_f64()),
            reason: resting.map(|resting| resting.reason),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(places: &Places, groups: &[&[&'static str]]) -> Vec<&'static str> {
        let groups = groups.iter().map(|group| group.to_vec()).collect();
        places.in_order(groups, ToString::to_string, "alice")
    }

    #[test]
    fn without_turns_the_first_is_always_first() {
        let places = Places::new("hdb", false);
        for _ in 0..3 {
            assert_eq!(order(&places, &[&["a", "b", "c"]]), ["a", "b", "c"]);
        }
        places.failed("a", Concerns::Everybody, "refused");
        assert_eq!(order(&places, &[&["a", "b", "c"]]), ["b", "c", "a"]);
        places.succeeded("a", "alice");
        assert_eq!(order(&places, &[&["a", "b", "c"]]), ["a", "b", "c"]);
    }

    #[test]
    fn the_best_are_those_that_a_session_would_go_to() {
        let groups = || vec![vec!["a".to_owned(), "b".into()], vec!["c".into()]];
        for in_turn in [false, true] {
            let places = Places::new("hdb", in_turn);
            let best = |user: &str| places.best(groups(), user).concat();
            assert_eq!(best("alice"), if in_turn { "ab" } else { "a" });
            places.failed("a", Concerns::Everybody, "refused");
            places.failed("b", Concerns::User("alice"), "refused");
            assert_eq!([best("alice"), best("bob")], ["c", "b"]);
            places.failed("c", Concerns::Everybody, "refused");
            assert_eq!(best("alice"), "");
        }
    }

    #[test]
    fn turns_are_even_in_each_group_also_while_one_rests() {
        let places = Places::new("hdb", true);
        let firsts = |places: &Places, groups: &[&[&'static str]]| {
            let mut counts = std::collections::BTreeMap::new();
            for _ in 0..300 {
                *counts.entry(order(places, groups)[0]).or_insert(0) += 1;
            }
            counts.into_iter().collect::<Vec<_>>()
        };
        let flat: &[&[&str]] = &[&["a", "b", "c"]];
        assert_eq!(firsts(&places, flat), [("a", 100), ("b", 100), ("c", 100)]);
        let zones: &[&[&str]] = &[&["a", "b"], &["c", "d"]];
        assert_eq!(firsts(&places, zones), [("a", 150), ("b", 150)]);
        places.failed("b", Concerns::Everybody, "refused");
        assert_eq!(firsts(&places, flat), [("a", 150), ("c", 150)]);
        assert_eq!(firsts(&places, zones), [("a", 300)]);
        places.failed("a", Concerns::User("alice"), "refused");
        assert_eq!(firsts(&places, zones), [("c", 150), ("d", 150)]);
    }

    #[test]
    fn the_last_resort_is_what_rests_least() {
        let places = Places::new("hdb", true);
        for _ in 0..4 {
            places.trying("a", "alice", Duration::ZERO);
            places.failed("a", Concerns::Everybody, "refused");
        }
        places.failed("b", Concerns::Everybody, "refused");
        assert_eq!(order(&places, &[&["a", "b"]]), ["b", "a"]);
    }
}
