//! Limits the open sessions and the rate at which sessions open: of the daemon, of each endpoint, of each user, and of
//! each user at each endpoint.
//!
//! If there are several users, one user gets at most 63/64 of what the daemon or an endpoint allows. The rest is kept
//! for the other users.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::MAX_WAIT;
use super::exceeded::{Exceeded, LimitOwner};
use super::rate::{OpenRate, RateLimiter};
use crate::config::{Endpoint, OpensPerUser, User};
use crate::primitives::share::max_for_one_user;
use base::mutex::locked;
use q_relay::budget::MemoryAccount;

/// Sessions a second of one user at one endpoint, if the configuration sets no limit. A session takes half a
/// millisecond of a processor to open, so that this is a twentieth of a processor.
const OPENS_PER_USER: u32 = 100;
/// From this number of entries on, the ledger forgets endpoints and users that have no sessions.
const FORGET_FROM: usize = 1_024;

/// The open sessions, and the limits that come from the configuration of the daemon.
#[derive(Debug)]
pub(super) struct SessionLedger {
    pub(super) limits: DaemonLimits,
    pub(super) sessions: usize,
    pub(super) opens: RateLimiter,
    pub(super) endpoints: HashMap<String, SessionUsage>,
    pub(super) users: HashMap<String, SessionUsage>,
    pub(super) users_at_endpoints: HashMap<UserAtEndpoint, SessionUsage>,
}

/// The limits of the daemon as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DaemonLimits {
    pub(super) max_sessions: usize,
    /// Whether `max_sessions` comes from the number of file descriptors, and not from the configuration.
    pub(super) limited_by_descriptors: bool,
    pub(super) max_opens_per_second: Option<u32>,
    /// Whether a share is kept for other users.
    pub(super) several_users: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct UserAtEndpoint {
    endpoint: String,
    user: String,
}

/// The sessions of an endpoint, of a user, or of a user at an endpoint.
#[derive(Debug, Default)]
pub(super) struct SessionUsage {
    pub(super) sessions: usize,
    /// Counts opens against the party's own limit: `max_opens_per_second` of the endpoint or the user. For a user at an
    /// endpoint it is `max_opens_per_second_per_user` of the endpoint.
    pub(super) opens: RateLimiter,
    /// Counts opens against a share of a larger limit. A user has a share of the daemon's limit, and at each endpoint a
    /// share of the endpoint's limit.
    opens_of_share: RateLimiter,
}

/// A party whose limits a session counts against.
#[derive(Debug, Clone, Copy)]
enum LimitedParty {
    Daemon,
    Endpoint,
    User,
    UserAtEndpoint,
}

/// A limit of the number of open sessions.
struct SessionLimit {
    party: LimitedParty,
    count: usize,
    max: usize,
    key: &'static str,
}

/// A limit of the rate of opening sessions, with the limiter that counts against it.
struct OpenLimit<'l> {
    party: LimitedParty,
    limiter: &'l mut RateLimiter,
    rate: OpenRate,
    key: &'static str,
}

/// The permit of an open session. Dropping it frees it for another session.
#[derive(Debug)]
pub struct SessionPermit {
    memory: Arc<MemoryAccount>,
    ledger: Arc<Mutex<SessionLedger>>,
    endpoint: String,
    user: String,
    /// Dropped last, so that sessions that wait find the memory free.
    _freed: NotifyOnDrop,
}

/// Wakes sessions that wait for a permit.
#[derive(Debug)]
struct NotifyOnDrop(Arc<Notify>);

impl SessionPermit {
    /// A permit for a session that [`SessionLedger::enter`] has counted. Notifies `freed` when it is dropped.
    pub(super) fn new(
        ledger: &Arc<Mutex<SessionLedger>>,
        endpoint: &Endpoint,
        user: &User,
        memory: MemoryAccount,
        freed: &Arc<Notify>,
    ) -> Self {
        Self {
            memory: Arc::new(memory),
            ledger: Arc::clone(ledger),
            endpoint: endpoint.name.clone(),
            user: user.name.clone(),
            _freed: NotifyOnDrop(Arc::clone(freed)),
        }
    }

    /// The account that the session's buffers are charged to.
    pub fn memory(&self) -> &Arc<MemoryAccount> {
        &self.memory
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        let endpoint = std::mem::take(&mut self.endpoint);
        let user = std::mem::take(&mut self.user);
        locked(&self.ledger).leave(UserAtEndpoint { endpoint, user });
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl SessionLedger {
    pub(super) fn new(limits: DaemonLimits) -> Self {
        Self {
            limits,
            sessions: 0,
            opens: RateLimiter::default(),
            endpoints: HashMap::new(),
            users: HashMap::new(),
            users_at_endpoints: HashMap::new(),
        }
    }

    /// Counts a session if all limits allow it. Returns how long the session has to wait until it may open, because
    /// of the rates.
    ///
    /// A session that is refused counts against no limit. The check begins with the limits of the user alone, so that a
    /// user who opens sessions too fast does not reduce what is left for other users.
    pub(super) fn enter(
        &mut self,
        endpoint: &Endpoint,
        user: &User,
        now: Instant,
    ) -> Result<Duration, Exceeded> {
        self.forget_unused(now);
        let room = self.check_room(endpoint, user);
        let of_user = self.users.entry(user.name.clone()).or_default();
        let of_endpoint = self.endpoints.entry(endpoint.name.clone()).or_default();
        let key = UserAtEndpoint::new(endpoint, user);
        let of_user_at_endpoint = self.users_at_endpoints.entry(key).or_default();

        let endpoint_rate = endpoint.max_opens_per_second;
        let daemon_rate = self.limits.max_opens_per_second;
        let shared_endpoint_rate = endpoint_rate.filter(|_| endpoint.users.len() > 1);
        let shared_daemon_rate = daemon_rate.filter(|_| self.limits.several_users);
        let limits = [
            user.max_opens_per_second.map(|most| OpenLimit {
                party: LimitedParty::User,
                limiter: &mut of_user.opens,
                rate: OpenRate::even(most),
                key: "max_opens_per_second of the user",
            }),
            rate_of_each_user(endpoint, user).map(|rate| OpenLimit {
                party: LimitedParty::UserAtEndpoint,
                limiter: &mut of_user_at_endpoint.opens,
                rate,
                key: "max_opens_per_second_per_user of the endpoint",
            }),
            shared_endpoint_rate.map(|most| OpenLimit {
                party: LimitedParty::UserAtEndpoint,
                limiter: &mut of_user_at_endpoint.opens_of_share,
                rate: share_of_rate(most),
                key: "max_opens_per_second of the endpoint, less a share for its other users",
            }),
            shared_daemon_rate.map(|most| OpenLimit {
                party: LimitedParty::User,
                limiter: &mut of_user.opens_of_share,
                rate: share_of_rate(most),
                key: "max_opens_per_second of [daemon], less a share for other users",
            }),
            endpoint_rate.map(|most| OpenLimit {
                party: LimitedParty::Endpoint,
                limiter: &mut of_endpoint.opens,
                rate: OpenRate::even(most),
                key: "max_opens_per_second of the endpoint",
            }),
            daemon_rate.map(|most| OpenLimit {
                party: LimitedParty::Daemon,
                limiter: &mut self.opens,
                rate: OpenRate::even(most),
                key: "max_opens_per_second of [daemon]",
            }),
        ];
        let mut wait = Duration::ZERO;
        for limit in limits.iter().flatten() {
            let wait_for_limit = limit.limiter.wait(limit.rate, now);
            if wait_for_limit > MAX_WAIT {
                return Err(Exceeded::Opens {
                    owner: limit.party.owner(endpoint, user),
                    rate: limit.rate.per_second,
                    key: limit.key,
                });
            }
            wait = wait.max(wait_for_limit);
        }
        room?;
        for limit in limits.into_iter().flatten() {
            limit.limiter.take(limit.rate, now);
        }
        self.sessions += 1;
        for usage in [of_user, of_endpoint, of_user_at_endpoint] {
            usage.sessions += 1;
        }
        Ok(wait)
    }

    /// Removes a session that has ended.
    fn leave(&mut self, key: UserAtEndpoint) {
        self.sessions = self.sessions.saturating_sub(1);
        if let Some(usage) = self.users.get_mut(&key.user) {
            usage.sessions = usage.sessions.saturating_sub(1);
        }
        if let Some(usage) = self.endpoints.get_mut(&key.endpoint) {
            usage.sessions = usage.sessions.saturating_sub(1);
        }
        if let Entry::Occupied(mut of_user_at_endpoint) = self.users_at_endpoints.entry(key) {
            let usage = of_user_at_endpoint.get_mut();
            usage.sessions = usage.sessions.saturating_sub(1);
            if !usage.is_in_use(Instant::now()) {
                of_user_at_endpoint.remove();
            }
        }
    }

    /// Checks all limits of the number of open sessions.
    fn check_room(&self, endpoint: &Endpoint, user: &User) -> Result<(), Exceeded> {
        let count = |usage: Option<&SessionUsage>| usage.map_or(0, |usage| usage.sessions);
        let of_user = count(self.users.get(&user.name));
        let of_user_at_endpoint = self
            .users_at_endpoints
            .get(&UserAtEndpoint::new(endpoint, user));
        let (daemon_key, share_key) = if self.limits.limited_by_descriptors {
            (
                "what the file descriptors allow (LimitNOFILE)",
                "what the file descriptors allow (LimitNOFILE), less a share for other users",
            )
        } else {
            (
                "max_sessions of [daemon]",
                "max_sessions of [daemon], less a share for other users",
            )
        };
        let limits = [
            user.max_sessions.map(|max| SessionLimit {
                party: LimitedParty::User,
                count: of_user,
                max,
                key: "max_sessions of the user",
            }),
            Some(SessionLimit {
                party: LimitedParty::UserAtEndpoint,
                count: count(of_user_at_endpoint),
                max: endpoint.max_sessions_per_user,
                key: "max_sessions_per_user of the endpoint",
            }),
            self.limits.several_users.then(|| SessionLimit {
                party: LimitedParty::User,
                count: of_user,
                max: max_for_one_user(self.limits.max_sessions),
                key: share_key,
            }),
            Some(SessionLimit {
                party: LimitedParty::Endpoint,
                count: count(self.endpoints.get(&endpoint.name)),
                max: endpoint.max_sessions,
                key: "max_sessions of the endpoint",
            }),
            Some(SessionLimit {
                party: LimitedParty::Daemon,
                count: self.sessions,
                max: self.limits.max_sessions,
                key: daemon_key,
            }),
        ];
        let mut limits = limits.into_iter().flatten();
        match limits.find(|limit| limit.count >= limit.max) {
            Some(limit) => Err(Exceeded::Sessions {
                owner: limit.party.owner(endpoint, user),
                count: limit.count,
                key: limit.key,
            }),
            None => Ok(()),
        }
    }

    /// Forgets endpoints and users that have no session, and whose past opens no longer delay the next one.
    fn forget_unused(&mut self, now: Instant) {
        for usages in [&mut self.users, &mut self.endpoints] {
            if usages.len() > FORGET_FROM {
                usages.retain(|_, usage| usage.is_in_use(now));
            }
        }
        if self.users_at_endpoints.len() > FORGET_FROM {
            self.users_at_endpoints
                .retain(|_, usage| usage.is_in_use(now));
        }
    }
}

impl UserAtEndpoint {
    fn new(endpoint: &Endpoint, user: &User) -> Self {
        Self {
            endpoint: endpoint.name.clone(),
            user: user.name.clone(),
        }
    }
}

impl SessionUsage {
    fn is_in_use(&self, now: Instant) -> bool {
        self.sessions > 0 || !self.opens.is_at_rest(now) || !self.opens_of_share.is_at_rest(now)
    }
}

impl LimitedParty {
    fn owner(self, endpoint: &Endpoint, user: &User) -> LimitOwner {
        match self {
            Self::Daemon => LimitOwner::Daemon,
            Self::Endpoint => LimitOwner::Endpoint(endpoint.name.clone()),
            Self::User => LimitOwner::User(user.name.clone()),
            Self::UserAtEndpoint => LimitOwner::UserAtEndpoint {
                user: user.name.clone(),
                endpoint: endpoint.name.clone(),
            },
        }
    }
}

/// The rate at which each user may open sessions at the endpoint. `None` if no rate limits this. hopend's default
/// applies only if the configuration sets no rate for the endpoint and none for the user.
fn rate_of_each_user(endpoint: &Endpoint, user: &User) -> Option<OpenRate> {
    match endpoint.opens_per_user {
        OpensPerUser::Unlimited => None,
        OpensPerUser::PerSecond(most) => Some(OpenRate::even(most)),
        OpensPerUser::Default => {
            let configured = endpoint.max_opens_per_second.or(user.max_opens_per_second);
            // After an outage of kdb+, the user can open all their sessions at once.
            let sessions = u32::try_from(endpoint.max_sessions_per_user).unwrap_or(u32::MAX);
            configured.is_none().then(|| OpenRate {
                per_second: OPENS_PER_USER,
                burst: sessions.max(OPENS_PER_USER),
            })
        }
    }
}

/// The part of a shared rate that one user may use.
fn share_of_rate(per_second: u32) -> OpenRate {
    let share = max_for_one_user(per_second as usize);
    OpenRate::even(u32::try_from(share).unwrap_or(per_second))
}
