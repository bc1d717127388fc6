//! The places that an endpoint leads to, in the order in which a session tries them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::{Concerns, Health};
use super::pace::OpeningPace;
use crate::telemetry::status::AddressRow;

/// The addresses of an endpoint: whose turn it is, and which of them rest. An address is known by its
/// name: as the configuration writes it, or a node's id.
#[derive(Debug)]
pub(super) struct Places {
    endpoint: String,
    choice: PlaceChoice,
    /// The longest that one attempt takes.
    limit: Duration,
    turn: AtomicUsize,
    health: Mutex<Health>,
    pace: Mutex<OpeningPace>,
}

/// How a session chooses among the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceChoice {
    /// There is one address.
    Only,
    /// The first that works is the best. The next one is tried, too, after this long.
    InOrder(Duration),
    /// Sessions take turns. The next one is tried, too, after a time that is learned.
    InTurn,
}

/// Whose login an address is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginOf<'u> {
    /// The endpoint's own: all its users have the same.
    Endpoint,
    /// This user's.
    User(&'u str),
}

/// The order in which a session tries addresses.
#[derive(Debug)]
pub(super) struct PlaceOrder<P> {
    /// Those that may work.
    pub(super) fresh: Vec<P>,
    /// The last resort, that which rests least first.
    pub(super) resting: Vec<P>,
}

impl Places {
    /// `limit` is the longest that one attempt takes.
    pub(super) fn new(endpoint: &str, choice: PlaceChoice, limit: Duration) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            choice,
            limit,
            turn: AtomicUsize::new(0),
            health: Mutex::default(),
            pace: Mutex::default(),
        }
    }

    /// How long an attempt goes on alone, before the next address is tried as well. None where there
    /// is no other.
    pub(super) fn head_start(&self) -> Option<Duration> {
        match self.choice {
            PlaceChoice::Only => None,
            PlaceChoice::InOrder(after) => Some(after),
            PlaceChoice::InTurn => Some(self.pace().head_start()),
        }
    }

    /// All places of all groups: the first group first, those that rest last. The first of them is
    /// tried from here on: where its rest is over, others wait for the result.
    pub(super) fn in_order<P>(
        &self,
        groups: Vec<Vec<P>>,
        name: impl Fn(&P) -> String,
        user: &str,
    ) -> PlaceOrder<P> {
        let now = Instant::now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut health = self.health();
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
            if self.choice == PlaceChoice::InTurn && !fresh.is_empty() {
                let first = turn % fresh.len();
                fresh.rotate_left(first);
            }
            order.extend(fresh);
        }
        if let Some(first) = order.first() {
            health.trying(&name(first), user, now, self.limit);
        }
        resting.sort_by_key(|(until, _)| *until);
        PlaceOrder {
            fresh: order,
            resting: resting.into_iter().map(|(_, place)| place).collect(),
        }
    }

    /// The places that a session would go to first: those of the nearest group that has any that do
    /// not rest; the first of them, where they do not take turns.
    pub(super) fn best(&self, groups: Vec<Vec<String>>, user: &str) -> Vec<String> {
        let now = Instant::now();
        let health = self.health();
        let rests = |place: &String| health.resting(place, user, now).is_some();
        for mut group in groups {
            group.retain(|place| !rests(place));
            if self.choice != PlaceChoice::InTurn {
                group.truncate(1);
            }
            if !group.is_empty() {
                return group;
            }
        }
        Vec::new()
    }

    /// Those of these places where a connection that waits may be handed out: where there is a choice,
    /// a connection to an address that no longer answers would be worse than a dial.
    pub(super) fn known_to_answer(&self, mut places: Vec<String>) -> Vec<String> {
        if self.choice != PlaceChoice::Only {
            let (now, health) = (Instant::now(), self.health());
            places.retain(|place| health.is_known_to_answer(place, now));
        }
        places
    }

    /// A session is about to try a place.
    pub(super) fn trying(&self, place: &str, user: &str) {
        let limit = self.limit;
        self.health().trying(place, user, Instant::now(), limit);
    }

    /// Whom it concerns that an attempt of `login`, which began at `begun`, has no answer. kdb+ may answer one
    /// user's login late and the others' at once, as a `.z.pw` that slows down guesses does.
    pub(super) fn concerned<'u>(
        &self,
        place: &str,
        login: LoginOf<'u>,
        begun: Instant,
    ) -> Concerns<'u> {
        match login {
            LoginOf::User(user) if self.health().has_accepted_since(place, begun) => {
                Concerns::User(user)
            }
            LoginOf::Endpoint | LoginOf::User(_) => Concerns::Everybody,
        }
    }

    /// An attempt that began at `begun` has had its head start: until its result is known, those whom it
    /// concerns go elsewhere.
    pub(super) fn late(&self, place: &str, login: LoginOf<'_>, begun: Instant) {
        let waited = begun.elapsed();
        let reason = format!("no answer within {:.3} s so far", waited.as_secs_f32());
        let concerns = self.concerned(place, login, begun);
        let by = begun + self.limit;
        let news = self.health().late(place, concerns, by, &reason, begun);
        if news && self.reports_late() && concerns == Concerns::Everybody {
            tracing::warn!(endpoint = self.endpoint, place, "rests: {reason}");
        } else {
            tracing::debug!(endpoint = self.endpoint, place, "rests: {reason}");
        }
    }

    /// A learned head start is so short that one opening in a hundred takes longer.
    fn reports_late(&self) -> bool {
        matches!(self.choice, PlaceChoice::InOrder(_))
    }

    /// From the dial to the answer to the login it took this long, at whichever place.
    pub(super) fn took(&self, took: Duration) {
        self.pace().took(took);
    }

    /// A place took a session.
    pub(super) fn succeeded(&self, place: &str, user: &str) {
        let mut health = self.health();
        health.accepted(place, Instant::now());
        let is_reported = self.reports_late() || !health.is_only_late(place);
        let news = health.succeeded(place, user);
        drop(health);
        if news && is_reported {
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

    /// A place turned a session away, which tells nothing about others: the next one may try.
    pub(super) fn turned_away(&self, place: &str, user: &str) {
        self.health().turned_away(place, user, Instant::now());
    }

    /// From here on probes end the rest of a place, and no session does.
    pub(super) fn probed(&self, place: &str) {
        self.health().probed(place);
    }

    /// When the next probe of a place is due; none where it needs no probe.
    pub(super) fn next_probe(&self, place: &str) -> Option<Instant> {
        self.health().next_probe(place)
    }

    /// No probe is made any more: the next session tries the place, and the others wait for the result.
    pub(super) fn unprobed(&self, place: &str) {
        self.health().unprobed(place, Instant::now());
    }

    /// Forgets places that there are no more.
    pub(super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.health().keep(is_there);
    }

    /// Whether everybody goes elsewhere than to this place.
    pub(super) fn rests(&self, place: &str) -> bool {
        let down = self.health().down(place, Instant::now());
        down.is_some_and(|down| down.until.is_some())
    }

    /// A place for people to read.
    pub(super) fn row(&self, name: String, zone: &str) -> AddressRow {
        let now = Instant::now();
        let down = self.health().down(&name, now);
        let resting = down.as_ref().and_then(|down| down.until);
        AddressRow {
            name,
            zone: zone.to_owned(),
            down_s: down.as_ref().map(|down| (now - down.since).as_secs_f64()),
            resting_s: resting.map(|until| (until - now).as_secs_f64()),
            reason: down.map(|down| down.reason),
        }
    }

    fn pace(&self) -> MutexGuard<'_, OpeningPace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
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
        let order = places.in_order(groups, ToString::to_string, "alice");
        [order.fresh, order.resting].concat()
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn in_turn() -> Places {
        Places::new("hdb", PlaceChoice::InTurn, SECOND)
    }

    fn in_order() -> Places {
        Places::new("hdb", PlaceChoice::InOrder(SECOND), SECOND)
    }

    #[test]
    fn without_turns_the_first_is_always_first() {
        let places = in_order();
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
            let places = if in_turn { self::in_turn() } else { in_order() };
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
        let places = in_turn();
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
        let places = in_turn();
        for _ in 0..4 {
            places.trying("a", "alice");
            places.failed("a", Concerns::Everybody, "refused");
        }
        places.failed("b", Concerns::Everybody, "refused");
        assert_eq!(order(&places, &[&["a", "b"]]), ["b", "a"]);
    }

    #[test]
    fn behind_a_rest_one_session_tries_and_the_others_go_elsewhere() {
        let places = in_order();
        places.failed("a", Concerns::Everybody, "refused");
        places.probed("a");
        assert!(places.next_probe("a").is_some());
        assert_eq!(order(&places, &[&["a", "b"]]), ["b", "a"]);
        places.unprobed("a");
        assert_eq!(places.next_probe("a"), None);
        assert_eq!(order(&places, &[&["a", "b"]]), ["a", "b"]);
        assert_eq!(order(&places, &[&["a", "b"]]), ["b", "a"], "one only");
    }

    #[test]
    fn a_login_that_kdb_answers_late_sends_no_other_user_elsewhere() {
        let begun = Instant::now();
        let places = in_order();
        let first = |user: &str| {
            let groups = vec![vec!["a", "b"]];
            places.in_order(groups, ToString::to_string, user).fresh[0]
        };
        places.succeeded("a", "alice");
        places.late("a", LoginOf::User("mallory"), begun);
        assert_eq!([first("alice"), first("mallory")], ["a", "b"]);
        let everybody = Concerns::Everybody;
        let user = LoginOf::User("mallory");
        assert_eq!(places.concerned("a", LoginOf::Endpoint, begun), everybody);
        assert_eq!(
            places.concerned("a", user, begun),
            Concerns::User("mallory")
        );
        // The answer, late as it is, ends it.
        places.turned_away("a", "mallory");
        assert_eq!(first("mallory"), "a");
        // Where nobody's login has been accepted meanwhile, the address hangs.
        let later = Instant::now();
        assert_eq!(places.concerned("a", user, later), everybody);
        places.late("a", user, later);
        assert_eq!(first("alice"), "b");
    }

    #[test]
    fn what_waits_is_handed_out_where_a_login_was_accepted_lately() {
        let all = || vec!["a".to_owned(), "b".into()];
        let places = in_turn();
        assert!(places.known_to_answer(all()).is_empty());
        places.succeeded("b", "alice");
        assert_eq!(places.known_to_answer(all()), ["b"]);
        places.late("b", LoginOf::Endpoint, Instant::now());
        assert!(places.known_to_answer(all()).is_empty());
        let only = Places::new("hdb", PlaceChoice::Only, SECOND);
        assert_eq!(only.known_to_answer(all()), all(), "there is no other");
    }
}
