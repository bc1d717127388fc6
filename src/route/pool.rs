//! The addresses that hopend chooses among for each session: in which order a session tries them, and
//! which of them rest. An address rests for a while after a failure: sessions try the others first.

use base::mutex::locked;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::connection::PreferredAddresses;
use super::context::DialPurpose;
use super::health::{AddressHealth, FailureScope, RestStarted};
use super::pace::{LONGEST_HEAD_START, OpeningPace};
use crate::telemetry::status::AddressRow;

/// The state of a target's addresses, which are known by name: an address as the configuration writes
/// it, or a node's id. All sessions of the endpoint share it.
#[derive(Debug)]
pub(super) struct AddressPool {
    /// The endpoint's name, for the log.
    endpoint: String,
    policy: AddressPolicy,
    /// The longest that one attempt takes: the endpoint's `connect_timeout`.
    limit: Duration,
    /// Counts sessions, so that they begin at each address in turn.
    turn: AtomicUsize,
    health: Mutex<AddressHealth>,
    pace: Mutex<OpeningPace>,
}

/// In which order a session tries the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressPolicy {
    /// There is only one address.
    Single,
    /// In the order of the configuration. A session tries the next address, too, when an attempt has
    /// not ended after this time.
    Failover(Duration),
    /// Each session begins at the next address. A session tries the next address, too, when an attempt
    /// takes longer than nearly all openings of the endpoint do.
    Spread,
}

/// Whose login an attempt presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginOwner<'u> {
    /// The endpoint's own login, which all its users share.
    Endpoint,
    /// The login of this user.
    User(&'u str),
}

/// The order in which a session tries addresses.
#[derive(Debug)]
pub(super) struct AttemptOrder<A> {
    /// The addresses that may work.
    pub(super) fresh: Vec<A>,
    /// The addresses that rest, in the order in which their rests end.
    pub(super) resting: Vec<A>,
}

impl<A> AttemptOrder<A> {
    /// The addresses to try, in order. A session tries resting addresses last. A connection that no
    /// session waits for leaves them alone.
    pub(super) fn candidates(self, purpose: DialPurpose) -> Vec<A> {
        let Self { mut fresh, resting } = self;
        match purpose {
            DialPurpose::Session => fresh.extend(resting),
            DialPurpose::WarmPool => {}
        }
        fresh
    }
}

impl AddressPool {
    /// A pool of addresses none of which has failed. `limit` is the longest that one attempt takes.
    pub(super) fn new(endpoint: &str, policy: AddressPolicy, limit: Duration) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            policy,
            limit,
            turn: AtomicUsize::new(0),
            health: Mutex::default(),
            pace: Mutex::default(),
        }
    }

    /// Whether a session that fails at one address can go to another.
    pub(super) fn has_alternatives(&self) -> bool {
        self.policy != AddressPolicy::Single
    }

    /// How long an attempt goes on alone, before the next address is tried as well. None if there is no
    /// other address.
    pub(super) fn head_start(&self, purpose: DialPurpose) -> Option<Duration> {
        let head_start = match self.policy {
            AddressPolicy::Single => return None,
            AddressPolicy::Failover(after) => after,
            AddressPolicy::Spread => self.pace().head_start(),
        };
        Some(match purpose {
            DialPurpose::Session => head_start,
            // No session waits, and a second login would be one more for kdb+ to answer.
            DialPurpose::WarmPool => head_start.max(LONGEST_HEAD_START),
        })
    }

    /// The order in which a session of `user` tries the addresses of all `groups`. The best group comes
    /// first, such as the nodes in this host's zone. Resting addresses come last.
    ///
    /// This marks the first address as tried. If that address has failed before and its rest is over,
    /// other sessions avoid it until this session knows the result.
    pub(super) fn in_order<A>(
        &self,
        groups: Vec<Vec<A>>,
        name: impl Fn(&A) -> String,
        user: &str,
    ) -> AttemptOrder<A> {
        let now = Instant::now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut health = self.health();
        let mut order = Vec::new();
        let mut resting = Vec::new();
        for group in groups {
            let mut fresh = Vec::new();
            for address in group {
                match health.resting(&name(&address), user, now) {
                    None => fresh.push(address),
                    Some(until) => resting.push((until, address)),
                }
            }
            // Only fresh addresses take turns. If a resting address had a turn, its sessions would all go
            // to the address behind it, which would serve twice its share.
            if self.policy == AddressPolicy::Spread && !fresh.is_empty() {
                let first = turn % fresh.len();
                fresh.rotate_left(first);
            }
            order.extend(fresh);
        }
        if let Some(first) = order.first() {
            health.trying(&name(first), user, now, self.limit);
        }
        resting.sort_by_key(|(until, _)| *until);
        AttemptOrder {
            fresh: order,
            resting: resting.into_iter().map(|(_, address)| address).collect(),
        }
    }

    /// The addresses that a session of `user` may try first. They all belong to the first group in which
    /// some address does not rest. With [`AddressPolicy::Spread`] they are all addresses of the group that
    /// do not rest, otherwise the first such address alone.
    pub(super) fn preferred(&self, groups: Vec<Vec<String>>, user: &str) -> PreferredAddresses {
        let now = Instant::now();
        let health = self.health();
        let rests = |address: &String| health.resting(address, user, now).is_some();
        for mut group in groups {
            group.retain(|address| !rests(address));
            if self.policy != AddressPolicy::Spread {
                group.truncate(1);
            }
            if !group.is_empty() {
                return PreferredAddresses::OneOf(group);
            }
        }
        PreferredAddresses::OneOf(Vec::new())
    }

    /// Whether a connection to this address that has waited in a warm pool may go to a session. If
    /// there are other addresses, this one must be known to answer: a dial to another one is better
    /// than a connection to an address that hangs.
    pub(super) fn may_hand_out(&self, address: &str) -> bool {
        match self.policy {
            AddressPolicy::Single => true,
            AddressPolicy::Failover(_) | AddressPolicy::Spread => {
                self.health().is_known_to_answer(address, Instant::now())
            }
        }
    }

    /// A session of `user` is about to try an address.
    pub(super) fn trying(&self, address: &str, user: &str) {
        let limit = self.limit;
        self.health().trying(address, user, Instant::now(), limit);
    }

    /// The users whom it concerns that an attempt has no answer. The attempt began at `begun` and presents
    /// the login of `owner`.
    ///
    /// If the address has accepted any login since then, kdb+ delays this user alone. For example, a
    /// `.z.pw` may answer one user late, to slow down password guesses, and all others at once.
    pub(super) fn timeout_scope<'u>(
        &self,
        address: &str,
        owner: LoginOwner<'u>,
        begun: Instant,
    ) -> FailureScope<'u> {
        match owner {
            LoginOwner::User(user) if self.health().has_accepted_since(address, begun) => {
                FailureScope::User(user)
            }
            LoginOwner::Endpoint | LoginOwner::User(_) => FailureScope::AllUsers,
        }
    }

    /// An attempt that began at `begun` has used up its head start. The users whom that concerns avoid
    /// the address until the result is known.
    pub(super) fn late(&self, address: &str, owner: LoginOwner<'_>, begun: Instant) {
        let waited = begun.elapsed();
        let reason = format!("no answer within {:.3} s so far", waited.as_secs_f32());
        let scope = self.timeout_scope(address, owner, begun);
        let by = begun + self.limit;
        let worked = self.health().late(address, scope, by, &reason, begun);
        if worked && self.reports_lateness() && scope == FailureScope::AllUsers {
            tracing::warn!(endpoint = self.endpoint, address, "rests: {reason}");
        } else {
            tracing::debug!(endpoint = self.endpoint, address, "rests: {reason}");
        }
    }

    /// Whether hopend warns of a late answer. It does so only if the head start is configured. A learned
    /// head start is exceeded by one opening in a hundred, even if all is well.
    fn reports_lateness(&self) -> bool {
        matches!(self.policy, AddressPolicy::Failover(_))
    }

    /// Learns how long an opening took, from the dial to kdb+'s answer to the login.
    pub(super) fn learn_pace(&self, took: Duration) {
        self.pace().learn(took);
    }

    /// An address has accepted a login of `user`.
    pub(super) fn succeeded(&self, address: &str, user: &str) {
        let mut health = self.health();
        health.accepted(address, Instant::now());
        let is_reported = self.reports_lateness() || !health.is_only_late(address);
        let had_failed = health.succeeded(address, user);
        drop(health);
        if had_failed && is_reported {
            tracing::info!(endpoint = self.endpoint, address, "works again");
        }
    }

    /// An address has failed: it rests for the users in `scope`.
    pub(super) fn failed(&self, address: &str, scope: FailureScope<'_>, reason: &str) {
        let now = Instant::now();
        let RestStarted {
            pause,
            is_first_failure,
        } = self.health().failed(address, scope, reason, now);
        let rest_ms = pause.as_millis();
        if is_first_failure {
            tracing::warn!(
                endpoint = self.endpoint,
                address,
                rest_ms,
                "rests: {reason}"
            );
        } else {
            tracing::debug!(
                endpoint = self.endpoint,
                address,
                rest_ms,
                "rests: {reason}"
            );
        }
    }

    /// An address has turned away a session of `user`, which shows nothing about other users: the next
    /// session may try the address.
    pub(super) fn turned_away(&self, address: &str, user: &str) {
        self.health().turned_away(address, user, Instant::now());
    }

    /// Probes of an address have begun. From now on, its rest does not end after a time: the address rests
    /// until a login succeeds, so that no session has to try it.
    pub(super) fn probing_began(&self, address: &str) {
        self.health().probing_began(address);
    }

    /// When the next probe of an address is due. None if it needs no probe.
    pub(super) fn next_probe(&self, address: &str) -> Option<Instant> {
        self.health().next_probe(address)
    }

    /// No further probe is made: the next session tries the address, and the other sessions avoid it
    /// until the result is known.
    pub(super) fn probing_ended(&self, address: &str) {
        self.health().probing_ended(address, Instant::now());
    }

    /// Forgets all addresses that the target no longer has.
    pub(super) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.health().retain(exists);
    }

    /// Whether sessions of all users avoid this address now.
    pub(super) fn rests_for_all(&self, address: &str) -> bool {
        let outage = self.health().outage(address, Instant::now());
        outage.is_some_and(|outage| outage.until.is_some())
    }

    /// The row of an address in `hopend status`. `zone` is empty if the address is no node.
    pub(super) fn row(&self, name: String, zone: &str) -> AddressRow {
        let now = Instant::now();
        let outage = self.health().outage(&name, now);
        let resting = outage.as_ref().and_then(|outage| outage.until);
        AddressRow {
            name,
            zone: zone.to_owned(),
            down_s: outage
                .as_ref()
                .map(|outage| (now - outage.since).as_secs_f64()),
            resting_s: resting.map(|until| (until - now).as_secs_f64()),
            reason: outage.map(|outage| outage.reason),
        }
    }

    fn pace(&self) -> MutexGuard<'_, OpeningPace> {
        locked(&self.pace)
    }

    fn health(&self) -> MutexGuard<'_, AddressHealth> {
        locked(&self.health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pool: &AddressPool, groups: &[&[&'static str]]) -> Vec<&'static str> {
        let groups = groups.iter().map(|group| group.to_vec()).collect();
        let order = pool.in_order(groups, ToString::to_string, "alice");
        [order.fresh, order.resting].concat()
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn in_turn() -> AddressPool {
        AddressPool::new("hdb", AddressPolicy::Spread, SECOND)
    }

    fn in_order() -> AddressPool {
        AddressPool::new("hdb", AddressPolicy::Failover(SECOND), SECOND)
    }

    #[test]
    fn without_turns_the_first_is_always_first() {
        let pool = in_order();
        for _ in 0..3 {
            assert_eq!(order(&pool, &[&["a", "b", "c"]]), ["a", "b", "c"]);
        }
        pool.failed("a", FailureScope::AllUsers, "refused");
        assert_eq!(order(&pool, &[&["a", "b", "c"]]), ["b", "c", "a"]);
        pool.succeeded("a", "alice");
        assert_eq!(order(&pool, &[&["a", "b", "c"]]), ["a", "b", "c"]);
    }

    #[test]
    fn the_best_are_those_that_a_session_would_go_to() {
        let groups = || vec![vec!["a".to_owned(), "b".into()], vec!["c".into()]];
        for in_turn in [false, true] {
            let pool = if in_turn { self::in_turn() } else { in_order() };
            let best = |user: &str| match pool.preferred(groups(), user) {
                PreferredAddresses::OneOf(addresses) => addresses.concat(),
                PreferredAddresses::FromLogin => panic!("hopend chooses here"),
            };
            assert_eq!(best("alice"), if in_turn { "ab" } else { "a" });
            pool.failed("a", FailureScope::AllUsers, "refused");
            pool.failed("b", FailureScope::User("alice"), "refused");
            assert_eq!([best("alice"), best("bob")], ["c", "b"]);
            pool.failed("c", FailureScope::AllUsers, "refused");
            assert_eq!(best("alice"), "");
        }
    }

    #[test]
    fn turns_are_even_in_each_group_also_while_one_rests() {
        let pool = in_turn();
        let firsts = |pool: &AddressPool, groups: &[&[&'static str]]| {
            let mut counts = std::collections::BTreeMap::new();
            for _ in 0..300 {
                *counts.entry(order(pool, groups)[0]).or_insert(0) += 1;
            }
            counts.into_iter().collect::<Vec<_>>()
        };
        let flat: &[&[&str]] = &[&["a", "b", "c"]];
        assert_eq!(firsts(&pool, flat), [("a", 100), ("b", 100), ("c", 100)]);
        let zones: &[&[&str]] = &[&["a", "b"], &["c", "d"]];
        assert_eq!(firsts(&pool, zones), [("a", 150), ("b", 150)]);
        pool.failed("b", FailureScope::AllUsers, "refused");
        assert_eq!(firsts(&pool, flat), [("a", 150), ("c", 150)]);
        assert_eq!(firsts(&pool, zones), [("a", 300)]);
        pool.failed("a", FailureScope::User("alice"), "refused");
        assert_eq!(firsts(&pool, zones), [("c", 150), ("d", 150)]);
    }

    #[test]
    fn the_last_resort_is_what_rests_least() {
        let pool = in_turn();
        for _ in 0..4 {
            pool.trying("a", "alice");
            pool.failed("a", FailureScope::AllUsers, "refused");
        }
        pool.failed("b", FailureScope::AllUsers, "refused");
        assert_eq!(order(&pool, &[&["a", "b"]]), ["b", "a"]);
    }

    #[test]
    fn behind_a_rest_one_session_tries_and_the_others_go_elsewhere() {
        let pool = in_order();
        pool.failed("a", FailureScope::AllUsers, "refused");
        pool.probing_began("a");
        assert!(pool.next_probe("a").is_some());
        assert_eq!(order(&pool, &[&["a", "b"]]), ["b", "a"]);
        pool.probing_ended("a");
        assert_eq!(pool.next_probe("a"), None);
        assert_eq!(order(&pool, &[&["a", "b"]]), ["a", "b"]);
        assert_eq!(order(&pool, &[&["a", "b"]]), ["b", "a"], "one only");
    }

    #[test]
    fn a_login_that_kdb_answers_late_sends_no_other_user_elsewhere() {
        let begun = Instant::now();
        let pool = in_order();
        let first = |user: &str| {
            let groups = vec![vec!["a", "b"]];
            pool.in_order(groups, ToString::to_string, user).fresh[0]
        };
        pool.succeeded("a", "alice");
        pool.late("a", LoginOwner::User("mallory"), begun);
        assert_eq!([first("alice"), first("mallory")], ["a", "b"]);
        let all_users = FailureScope::AllUsers;
        let user = LoginOwner::User("mallory");
        assert_eq!(
            pool.timeout_scope("a", LoginOwner::Endpoint, begun),
            all_users
        );
        assert_eq!(
            pool.timeout_scope("a", user, begun),
            FailureScope::User("mallory")
        );
        // A late answer ends the rest, even if it is a refusal.
        pool.turned_away("a", "mallory");
        assert_eq!(first("mallory"), "a");
        // Where nobody's login has been accepted meanwhile, the address hangs.
        let later = Instant::now();
        assert_eq!(pool.timeout_scope("a", user, later), all_users);
        pool.late("a", user, later);
        assert_eq!(first("alice"), "b");
    }

    #[test]
    fn what_waits_is_handed_out_where_a_login_was_accepted_lately() {
        let may_hand_out = |pool: &AddressPool| {
            let mut all = vec!["a", "b"];
            all.retain(|address| pool.may_hand_out(address));
            all
        };
        let pool = in_turn();
        assert!(may_hand_out(&pool).is_empty());
        pool.succeeded("b", "alice");
        assert_eq!(may_hand_out(&pool), ["b"]);
        pool.late("b", LoginOwner::Endpoint, Instant::now());
        assert!(may_hand_out(&pool).is_empty());
        let only = AddressPool::new("hdb", AddressPolicy::Single, SECOND);
        assert_eq!(may_hand_out(&only), ["a", "b"], "there is no other");
    }
}
