//! How much anybody may have: sessions and opens a second, of the daemon, an endpoint and a user.
//!
//! Whoever is not known yet has a door, of which nobody may hold more than half; whoever is known
//! has a place. Both count by guards.

pub mod files;
mod rate;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::Add;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout, timeout_at};

use crate::config::MachineMemory;
use crate::config::{Config, Endpoint, OpensPerUser, User};
use crate::identity::{Origin, Peer};
use crate::primitives::shown::bytes;
use q_relay::budget::{self, MemoryAccount, MemoryBudget, OverBudget};
use rate::{OpenPace, Rate};

/// How long an open waits for a session to end, and for its turn: one that was closed a moment ago
/// lets go of its place within it.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Most connections at a time of clients that are not known yet.
const MOST_DOORS: usize = 4_096;
/// Opens a second of one user at one endpoint, where the configuration names no limit. A session takes
/// half a millisecond of a processor to open, so that this is a twentieth of one.
const OPENS_PER_USER: u32 = 100;
/// Forget rates of endpoints and users that are gone from this many on.
const KEPT: usize = 1_024;

/// What is in use, and of what.
#[derive(Debug)]
pub struct Limits {
    state: Arc<Mutex<State>>,
    /// A session has ended.
    freed: Arc<Notify>,
    /// A client has said who it is, or has gone before it did.
    handshake_over: Arc<Notify>,
    doors: Arc<Semaphore>,
    most_doors: usize,
    memory: MemoryBudget,
}

#[derive(Debug)]
struct State {
    max_sessions: usize,
    max_opens_per_second: Option<u32>,
    /// Whether the file descriptors, and not the configuration, are what `max_sessions` comes from.
    by_files: bool,
    sessions: usize,
    opens: Rate,
    endpoints: HashMap<String, Tally>,
    users: HashMap<String, Tally>,
    /// By endpoint and user.
    each: HashMap<(String, String), Tally>,
    /// Whether there is anybody to keep a share for.
    several_users: bool,
    unknown: HashMap<Origin, UnknownClients>,
}

/// What clients that have not said who they are hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct UnknownClients {
    connections: usize,
    /// The most that their handshakes may hold in memory.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Tally {
    sessions: usize,
    /// At its own pace; of a user at an endpoint, at the pace of each user there.
    opens: Rate,
    /// At what is not kept for others of the pace that it shares: of a user the daemon's, of a user at
    /// an endpoint the endpoint's.
    of_shared: Rate,
}

/// What there is too much of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// A number of sessions is reached.
    #[error("{of} has {count} sessions, which is {key}. Fix: close some, or raise it.")]
    Sessions {
        /// Whose limit it is.
        of: Whose,
        /// How many there are.
        count: usize,
        /// The key of the configuration.
        key: &'static str,
    },
    /// There are too many opens.
    #[error(
        "{of} opens more than {rate} sessions a second ({key}). Fix: keep handles open, or raise it."
    )]
    Opens {
        /// Whose limit it is.
        of: Whose,
        /// How many are allowed.
        rate: u32,
        /// The key of the configuration.
        key: &'static str,
    },
    /// What sessions and handshakes may hold is used up, or what one user may hold of it.
    #[error(
        "hopend has no memory for {of}: {} of {} (max_memory of [daemon]) are in use{}. Fix: find the \
         clients that read nothing (`hopend status`), or raise max_memory.",
        shown(.over.used), shown(.over.limit), share(.of, .over)
    )]
    Memory {
        /// What is refused.
        of: Unaffordable,
        /// What there is and who has it.
        over: OverBudget,
    },
    /// One account or host has begun too many connections without saying who it is.
    #[error(
        "{peer} has {count} connections that have not said who they are, and may have no more. Fix: find \
         out what opens them."
    )]
    Unknown {
        /// Where they come from.
        peer: String,
        /// How many there are.
        count: usize,
    },
}

/// What there is no memory for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unaffordable {
    /// A client that has not said who it is.
    Handshake,
    /// A session of this user.
    Session(String),
}

impl fmt::Display for Unaffordable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake => f.write_str("a handshake"),
            Self::Session(user) => write!(f, "a session of user {user}"),
        }
    }
}

/// A number of bytes for people to read.
fn shown(count: usize) -> String {
    bytes(count as u64)
}

/// Who has how much of it.
fn share(of: &Unaffordable, over: &OverBudget) -> String {
    let held = shown(over.held);
    match of {
        Unaffordable::Handshake => format!(", {held} of them by handshakes"),
        Unaffordable::Session(_) => format!(", {held} of them by the sessions of this user"),
    }
}

/// Whose limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// All of it.
    Daemon,
    /// An endpoint.
    Endpoint(String),
    /// A user.
    User(String),
    /// A user at an endpoint.
    UserAt(String, String),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str("hopend"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::User(name) => write!(f, "user {name}"),
            Self::UserAt(user, endpoint) => write!(f, "user {user} at endpoint {endpoint}"),
        }
    }
}

/// The place of a connection whose client is not known yet, free again when dropped.
#[derive(Debug)]
pub struct Door {
    _permit: OwnedSemaphorePermit,
    state: Arc<Mutex<State>>,
    /// Wakes other hosts' clients that wait: this one has said who it is, or has gone before it did.
    handshake_over: Arc<Notify>,
    /// Whose it is, and what it holds.
    held: Option<(Origin, UnknownClients)>,
    /// Connections at a time, of all clients that are not known.
    most: usize,
    budget: MemoryBudget,
    memory: Option<Arc<MemoryAccount>>,
}

/// A session's place, free again when dropped.
#[derive(Debug)]
pub struct Place {
    memory: Arc<MemoryAccount>,
    state: Arc<Mutex<State>>,
    endpoint: String,
    user: String,
    /// Last: those who wait find the memory given back.
    _freed: ToldWhenDropped,
}

/// Wakes those who wait for a place.
#[derive(Debug)]
struct ToldWhenDropped(Arc<Notify>);

impl Drop for ToldWhenDropped {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Default for Limits {
    /// As many as the file descriptors allow.
    fn default() -> Self {
        Self::within(files::allowed())
    }
}

impl Limits {
    /// With so many file descriptors for connections.
    pub fn within(files: usize) -> Self {
        let most_doors = MOST_DOORS.min(files / 4).max(2);
        Self {
            state: Arc::new(Mutex::new(State {
                max_sessions: sessions_within(files),
                max_opens_per_second: None,
                by_files: true,
                sessions: 0,
                opens: Rate::default(),
                endpoints: HashMap::new(),
                users: HashMap::new(),
                each: HashMap::new(),
                several_users: true,
                unknown: HashMap::new(),
            })),
            freed: Arc::default(),
            handshake_over: Arc::default(),
            doors: Arc::new(Semaphore::new(most_doors)),
            most_doors,
            memory: MemoryBudget::default(),
        }
    }

    /// What sessions and handshakes may hold.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// This configuration counts from now on. Warns where it allows more than there are file
    /// descriptors for.
    pub fn take_over(&self, config: &Config, machine: MachineMemory) {
        let several_users = config.users.len() > 1;
        let max_memory = config.daemon.max_memory.within(machine);
        self.memory.resize(max_memory, several_users);
        warn_of_memory(max_memory, machine);
        let budget = Budget::of(config, files::allowed());
        budget.warn();
        let possible = budget.possible;
        let mut state = lock(&self.state);
        let asked = config.daemon.max_sessions.filter(|most| *most <= possible);
        state.by_files = asked.is_none();
        state.max_sessions = asked.unwrap_or(possible);
        state.max_opens_per_second = config.daemon.max_opens_per_second;
        state.several_users = several_users;
    }

    /// A door for a connection that has just been accepted. Waits while there are too many whose
    /// clients are not known.
    pub async fn door(&self) -> Door {
        let permit = match Arc::clone(&self.doors).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        };
        Door {
            _permit: permit,
            state: Arc::clone(&self.state),
            handshake_over: Arc::clone(&self.handshake_over),
            held: None,
            most: self.most_doors,
            budget: self.memory.clone(),
            memory: None,
        }
    }

    /// A place for a session of `user` at `endpoint`, and its turn. Waits for [`PATIENCE`] at most for
    /// each. Whoever gets no place takes no turn, and the other way round.
    ///
    /// # Errors
    /// The limit that is in the way.
    pub async fn place(&self, endpoint: &Endpoint, user: &User) -> Result<Place, Exceeded> {
        let is_full = |decided: &Result<_, _>| {
            matches!(
                decided,
                Err(Exceeded::Sessions { .. } | Exceeded::Memory { .. })
            )
        };
        let mut decided = self.try_place(endpoint, user);
        if is_full(&decided) {
            let freed = async {
                loop {
                    let next = self.freed.notified();
                    decided = self.try_place(endpoint, user);
                    if !is_full(&decided) {
                        return;
                    }
                    next.await;
                }
            };
            // The last word stands if nothing is freed.
            let _ = timeout(PATIENCE, freed).await;
        }
        let (place, turn) = decided?;
        if !turn.is_zero() {
            sleep(turn).await;
        }
        Ok(place)
    }

    fn try_place(&self, endpoint: &Endpoint, user: &User) -> Result<(Place, Duration), Exceeded> {
        let memory = self.memory.session(&user.name, guarantee(endpoint));
        let memory = memory.map_err(|over| Exceeded::Memory {
            of: Unaffordable::Session(user.name.clone()),
            over,
        })?;
        let turn = lock(&self.state).enter(endpoint, user, Instant::now())?;
        let place = Place {
            memory: Arc::new(memory),
            state: Arc::clone(&self.state),
            _freed: ToldWhenDropped(Arc::clone(&self.freed)),
            endpoint: endpoint.name.clone(),
            user: user.name.clone(),
        };
        Ok((place, turn))
    }
}

impl State {
    /// Counts a session, if all limits allow it, and returns how long it is to its turn: after the
    /// user's own, then the endpoint's, then the daemon's pace. A user who is too fast takes no turn of
    /// the others.
    fn enter(
        &mut self,
        endpoint: &Endpoint,
        user: &User,
        now: Instant,
    ) -> Result<Duration, Exceeded> {
        self.forget(now);
        let room = self.room(endpoint, user);
        let of_endpoint = endpoint.max_opens_per_second;
        let of_daemon = self.max_opens_per_second;
        let others_here = endpoint.users.len() > 1;
        let by_user = self.users.entry(user.name.clone()).or_default();
        let by_endpoint = self.endpoints.entry(endpoint.name.clone()).or_default();
        let at = (endpoint.name.clone(), user.name.clone());
        let here = self.each.entry(at).or_default();
        let paces = [
            (
                &mut by_user.opens,
                user.max_opens_per_second.map(OpenPace::even),
            ),
            (&mut here.opens, pace_of_each(endpoint, user)),
            (
                &mut here.of_shared,
                of_endpoint
                    .filter(|_| others_here)
                    .map(less_a_share)
                    .map(OpenPace::even),
            ),
            (
                &mut by_user.of_shared,
                of_daemon
                    .filter(|_| self.several_users)
                    .map(less_a_share)
                    .map(OpenPace::even),
            ),
            (&mut by_endpoint.opens, of_endpoint.map(OpenPace::even)),
            (&mut self.opens, of_daemon.map(OpenPace::even)),
        ];
        let mut turn = Duration::ZERO;
        for (nth, (pace, most)) in paces.iter().enumerate() {
            let Some(most) = *most else { continue };
            let own = pace.wait(most, now);
            if own > PATIENCE {
                let of_user = Whose::User(user.name.clone());
                let of_user_here = Whose::UserAt(user.name.clone(), endpoint.name.clone());
                let (of, key) = match nth {
                    0 => (of_user, "max_opens_per_second of the user"),
                    1 => (
                        of_user_here,
                        "max_opens_per_second_per_user of the endpoint",
                    ),
                    2 => (
                        of_user_here,
                        "max_opens_per_second of the endpoint, less a share for its other users",
                    ),
                    3 => (
                        of_user,
                        "max_opens_per_second of [daemon], less a share for other users",
                    ),
                    4 => (
                        Whose::Endpoint(endpoint.name.clone()),
                        "max_opens_per_second of the endpoint",
                    ),
                    _ => (Whose::Daemon, "max_opens_per_second of [daemon]"),
                };
                return Err(Exceeded::Opens {
                    of,
                    rate: most.per_second,
                    key,
                });
            }
            turn = turn.max(own);
        }
        room?;
        for (pace, most) in paces {
            if let Some(most) = most {
                pace.take(most, now);
            }
        }
        self.sessions += 1;
        for tally in [by_user, by_endpoint, here] {
            tally.sessions += 1;
        }
        Ok(turn)
    }

    /// What of all limits of sessions is in the way.
    fn room(&self, endpoint: &Endpoint, user: &User) -> Result<(), Exceeded> {
        let count = |tally: Option<&Tally>| tally.map_or(0, |tally| tally.sessions);
        let at = (endpoint.name.clone(), user.name.clone());
        let of_user = count(self.users.get(&user.name));
        let (key, key_less) = if self.by_files {
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
        let daemon = self.max_sessions;
        let limits = [
            (of_user, user.max_sessions, "max_sessions of the user"),
            (
                count(self.each.get(&at)),
                Some(endpoint.max_sessions_per_user),
                "max_sessions_per_user of the endpoint",
            ),
            (
                of_user,
                self.several_users
                    .then(|| daemon.saturating_sub((daemon / 64).max(1)).max(1)),
                key_less,
            ),
            (
                count(self.endpoints.get(&endpoint.name)),
                Some(endpoint.max_sessions),
                "max_sessions of the endpoint",
            ),
            (self.sessions, Some(daemon), key),
        ];
        for (nth, (count, most, key)) in limits.into_iter().enumerate() {
            if most.is_some_and(|most| count >= most) {
                let of = match nth {
                    0 | 2 => Whose::User(user.name.clone()),
                    1 => Whose::UserAt(user.name.clone(), endpoint.name.clone()),
                    3 => Whose::Endpoint(endpoint.name.clone()),
                    _ => Whose::Daemon,
                };
                return Err(Exceeded::Sessions { of, count, key });
            }
        }
        Ok(())
    }

    /// Those that are gone, and have nothing left to wait for.
    fn forget(&mut self, now: Instant) {
        for table in [&mut self.users, &mut self.endpoints] {
            if table.len() > KEPT {
                table.retain(|_, tally| tally.is_in_use(now));
            }
        }
        if self.each.len() > KEPT {
            self.each.retain(|_, tally| tally.is_in_use(now));
        }
    }
}

impl Tally {
    fn is_in_use(&self, now: Instant) -> bool {
        self.sessions > 0 || !self.opens.is_at_rest(now) || !self.of_shared.is_at_rest(now)
    }
}

/// The pace of each user at the endpoint. A limit that the configuration has for the endpoint or the
/// user counts in place of hopend's own.
fn pace_of_each(endpoint: &Endpoint, user: &User) -> Option<OpenPace> {
    match endpoint.opens_per_user {
        OpensPerUser::Unlimited => None,
        OpensPerUser::PerSecond(most) => Some(OpenPace::even(most)),
        OpensPerUser::Default => {
            let configured = endpoint.max_opens_per_second.or(user.max_opens_per_second);
            // All sessions that the user may have can be opened anew at once, when kdb+ is back.
            let sessions = u32::try_from(endpoint.max_sessions_per_user).unwrap_or(u32::MAX);
            configured.is_none().then(|| OpenPace {
                per_second: OPENS_PER_USER,
                burst: sessions.max(OPENS_PER_USER),
            })
        }
    }
}

/// All but a sixty-fourth, so that nobody keeps all others out.
fn less_a_share(most: u32) -> u32 {
    most.saturating_sub((most / 64).max(1)).max(1)
}

/// What a handshake at `endpoint` may hold, in bytes.
fn handshake_bytes(endpoint: &Endpoint) -> usize {
    let tls = endpoint.tls.as_ref().map_or(0, |_| budget::TLS);
    endpoint.max_handshake + tls
}

/// What a session at `endpoint` may always hold, in bytes.
fn guarantee(endpoint: &Endpoint) -> usize {
    let to_clients = usize::from(endpoint.tls.is_some());
    budget::DIRECTIONS + (1 + to_clients) * budget::TLS
}

/// Says where the budget leaves the process too little.
fn warn_of_memory(max_memory: usize, machine: MachineMemory) {
    let limit = machine.control_group.unwrap_or(machine.total);
    if max_memory as u64 > limit / 10 * 9 {
        tracing::warn!(
            "max_memory of [daemon] ({}) leaves too little of the memory that hopend may have ({}): \
             the system may end hopend. Fix: lower max_memory, or raise MemoryMax of the service.",
            shown(max_memory),
            bytes(limit),
        );
    }
}

impl Door {
    /// Has the connection's handshake held in memory, of which it never gets more than is charged
    /// from here on. While other handshakes hold their whole part of the budget, it waits for its turn,
    /// for the endpoint's `handshake_timeout` at most.
    ///
    /// # Errors
    /// The budget is used up but for what is kept for sessions, or it was not its turn in time.
    pub async fn admit(&mut self, endpoint: &Endpoint) -> Result<&Arc<MemoryAccount>, Exceeded> {
        let memory = self.budget.handshake(handshake_bytes(endpoint));
        let memory = match timeout(endpoint.handshake_timeout, memory).await {
            Ok(memory) => memory,
            Err(_) => Err(self.budget.handshakes()),
        };
        let memory = memory.map_err(|over| Exceeded::Memory {
            of: Unaffordable::Handshake,
            over,
        })?;
        Ok(self.memory.insert(Arc::new(memory)))
    }

    /// It is this peer's connection, to this endpoint. One account or host has half of what there is for
    /// clients that are not known yet, and all other hosts together three quarters: beyond these, one of
    /// them waits for the others, for the endpoint's `handshake_timeout` at most.
    ///
    /// # Errors
    /// The account or host has too much of it already, or other hosts had it for too long.
    pub async fn of(&mut self, peer: &Peer, endpoint: &Endpoint) -> Result<(), Exceeded> {
        let deadline = Instant::now() + endpoint.handshake_timeout;
        let handshake_over = Arc::clone(&self.handshake_over);
        loop {
            // Before the look: a client that leaves in between is not missed.
            let next = handshake_over.notified();
            let crowd = match self.try_of(peer, endpoint) {
                Ok(()) => return Ok(()),
                Err(crowd) => crowd,
            };
            let waits = matches!(crowd, Crowd::OtherHosts(_));
            if !waits || timeout_at(deadline.into(), next).await.is_err() {
                let (Crowd::Own(exceeded) | Crowd::OtherHosts(exceeded)) = crowd;
                return Err(exceeded);
            }
        }
    }

    fn try_of(&mut self, peer: &Peer, endpoint: &Endpoint) -> Result<(), Crowd> {
        let all = UnknownClients {
            connections: self.most,
            bytes: self.budget.limit_of_handshakes(),
        };
        let more = UnknownClients {
            connections: 1,
            bytes: handshake_bytes(endpoint),
        };
        let origin = Origin::of(peer);
        let is_host = |origin: &Origin| matches!(origin, Origin::Address(_));
        let mut state = lock(&self.state);
        let own = state.unknown.get(&origin).copied().unwrap_or_default();
        let hosts = state.unknown.iter().filter(|(origin, _)| is_host(origin));
        let hosts = hosts.fold(UnknownClients::default(), |sum, (_, one)| sum + *one);
        let exceeded = |peer: String, held: UnknownClients| Exceeded::Unknown {
            peer,
            count: held.connections,
        };
        if !own.leaves_room_for(more, all.part(1, 2)) {
            return Err(Crowd::Own(exceeded(peer.to_string(), own)));
        }
        if is_host(&origin) && !hosts.leaves_room_for(more, all.part(3, 4)) {
            let hosts = exceeded("other hosts together".into(), hosts);
            return Err(Crowd::OtherHosts(hosts));
        }
        state.unknown.insert(origin, own + more);
        self.held = Some((origin, more));
        Ok(())
    }
}

/// Who has too many connections that are not known yet.
#[derive(Debug)]
enum Crowd {
    /// The account or host itself.
    Own(Exceeded),
    /// All other hosts together.
    OtherHosts(Exceeded),
}

impl UnknownClients {
    /// So many parts of it.
    fn part(self, of: usize, parts: usize) -> Self {
        Self {
            connections: self.connections * of / parts,
            bytes: self.bytes * of / parts,
        }
    }

    /// One connection is always possible, however large its handshake.
    fn leaves_room_for(self, more: Self, most: Self) -> bool {
        let sum = self + more;
        self.connections == 0 || sum.connections <= most.connections && sum.bytes <= most.bytes
    }
}

impl Add for UnknownClients {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Place {
    /// What the session is charged to.
    pub fn memory(&self) -> &Arc<MemoryAccount> {
        &self.memory
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some((origin, held)) = self.held {
            let mut state = lock(&self.state);
            if let Entry::Occupied(mut of_origin) = state.unknown.entry(origin) {
                let unknown = of_origin.get_mut();
                unknown.connections -= held.connections;
                unknown.bytes -= held.bytes;
                if unknown.connections == 0 {
                    of_origin.remove();
                }
            }
            drop(state);
            self.handshake_over.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.sessions = state.sessions.saturating_sub(1);
        if let Some(tally) = state.users.get_mut(&self.user) {
            tally.sessions = tally.sessions.saturating_sub(1);
        }
        if let Some(tally) = state.endpoints.get_mut(&self.endpoint) {
            tally.sessions = tally.sessions.saturating_sub(1);
        }
        let at = (
            std::mem::take(&mut self.endpoint),
            std::mem::take(&mut self.user),
        );
        let now = Instant::now();
        if let Entry::Occupied(mut here) = state.each.entry(at) {
            let tally = here.get_mut();
            tally.sessions = tally.sessions.saturating_sub(1);
            if !tally.is_in_use(now) {
                here.remove();
            }
        }
    }
}

/// What the configuration would have of the file descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Budget {
    sessions: usize,
    warm: usize,
    /// Sessions that there are descriptors for.
    possible: usize,
}

impl Budget {
    fn of(config: &Config, files: usize) -> Self {
        let endpoints = config.endpoints.iter();
        let warm = endpoints
            .clone()
            .map(|endpoint| endpoint.warm * endpoint.users.len())
            .sum();
        let sessions = config.daemon.max_sessions;
        Self {
            sessions: sessions
                .unwrap_or_else(|| endpoints.map(|endpoint| endpoint.max_sessions).sum()),
            warm,
            // Sessions come first where it is too tight for both.
            possible: sessions_within(files - warm.min(files / 2)),
        }
    }

    fn warn(&self) {
        if self.sessions <= self.possible {
            return;
        }
        let (beside, less) = match self.warm {
            0 => (String::new(), ""),
            warm => (format!(" and {warm} warm connections"), " or warm"),
        };
        tracing::warn!(
            "{} sessions{beside} are allowed, and file descriptors for {} sessions: the rest will be \
             refused. Fix: raise LimitNOFILE of the service (it needs {}), or lower max_sessions{less}.",
            self.sessions,
            self.possible,
            files::needed(self.sessions).saturating_add(self.warm)
        );
    }
}

/// A session has two sockets, and doors have theirs.
fn sessions_within(files: usize) -> usize {
    let doors = MOST_DOORS.min(files / 4);
    (files.saturating_sub(doors) / 2).max(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::future::join_all;

    use super::*;
    use crate::config::{self, OsUser};

    fn account(uid: u32) -> Peer {
        Peer::Local {
            uid,
            pid: None,
            address: None,
        }
    }

    fn host(address: &str) -> Peer {
        Peer::Remote {
            address: address.parse().unwrap(),
            account: None,
        }
    }

    /// Two users, a and b, at endpoint hdb of ten sessions, and the rest of the configuration.
    fn config(daemon: &str, endpoint: &str) -> Config {
        let text = format!(
            "[[user]]\nname = \"a\"\nos_user = \"a\"\n[[user]]\nname = \"b\"\nos_user = \"b\"\n\
             [[endpoint]]\nname = \"hdb\"\nlisten = \"127.0.0.1:0\"\nconnect = \":127.0.0.1:1\"\n\
             login = {{ command = [\"/bin/true\"] }}\n{endpoint}\n[daemon]\n{daemon}\n"
        );
        let accounts = |name: &str| {
            let (name, uid) = (name.to_owned(), 1_000);
            Ok(Some(OsUser { name, uid }))
        };
        config::parse(&text, Path::new("hopend.toml"), &accounts).unwrap_or_else(|p| panic!("{p}"))
    }

    /// Opens of a user at the same moment: what they hold, and why there are no more.
    async fn opens(limits: &Limits, config: &Config, user: usize) -> (Vec<Place>, String) {
        let (endpoint, user) = (&config.endpoints[0], &config.users[user]);
        let mut places = Vec::new();
        let all = (0..100).map(|_| limits.place(endpoint, user));
        let mut why = String::new();
        for open in join_all(all).await {
            match open {
                Ok(place) => places.push(place),
                Err(exceeded) => why = exceeded.to_string(),
            }
        }
        (places, why)
    }

    #[test]
    fn warm_connections_have_their_file_descriptors() {
        let budget = |warm, files| {
            let config = config("", &format!("max_sessions = 100\nwarm = {warm}"));
            Budget::of(&config, files)
        };
        for (warm, files, expected) in [(0, 1_000, 375), (8, 1_000, 369), (64, 100, 19)] {
            let budget = budget(warm, files);
            let found = (budget.sessions, budget.warm, budget.possible);
            assert_eq!(found, (100, 2 * warm, expected), "{warm}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_all_of_the_daemons_places() {
        let config = config("max_sessions = 10", "");
        let limits = Limits::default();
        limits.take_over(&config, MachineMemory::look());
        let (first, why) = opens(&limits, &config, 0).await;
        assert_eq!(first.len(), 9);
        let expected = "user a has 9 sessions, which is max_sessions of [daemon], less a share for \
                        other users";
        assert!(why.starts_with(expected), "{why}");
        let (second, why) = opens(&limits, &config, 1).await;
        assert_eq!(second.len(), 1);
        assert!(why.starts_with("hopend has 10 sessions"), "{why}");
        drop(first);
        assert_eq!(opens(&limits, &config, 1).await.0.len(), 8);
    }

    /// One who opens all the time, at an endpoint's pace and at the daemon's.
    #[tokio::test]
    async fn nobody_has_all_of_a_pace() {
        for config in [
            config("", "max_opens_per_second = 10"),
            config("max_opens_per_second = 10", ""),
        ] {
            let limits = Limits::default();
            limits.take_over(&config, MachineMemory::look());
            let endpoint = &config.endpoints[0];
            let start = Instant::now();
            let enter = |user: usize, millis| {
                let now = start + Duration::from_millis(millis);
                lock(&limits.state).enter(endpoint, &config.users[user], now)
            };
            let (mut first, mut second) = (0, 0);
            for millis in (0..10_000).step_by(10) {
                first += usize::from(enter(0, millis).is_ok());
                if millis % 1_000 == 0 {
                    second += usize::from(enter(1, millis).is_ok());
                }
            }
            assert_eq!(second, 10, "one a second is what is kept");
            // Nine a second, and what may come ahead.
            assert!((90..=110).contains(&first), "{first}");
        }
    }

    /// A user who opens and closes a session every millisecond for ten seconds.
    #[test]
    fn a_user_opens_a_hundred_a_second_where_nothing_is_configured() {
        for (daemon, endpoint, expected) in [
            ("", "max_sessions = 10", 100 + 1_100),
            ("", "max_sessions_per_user = 400", 400 + 1_100),
            ("", "max_opens_per_second_per_user = 5", 5 + 55),
            ("", "max_opens_per_second_per_user = \"off\"", 10_000),
            ("", "max_opens_per_second = 1000", 10_000),
            ("max_opens_per_second = 10", "", 9 + 99),
        ] {
            let config = config(daemon, endpoint);
            let limits = Limits::default();
            limits.take_over(&config, MachineMemory::look());
            let (at, start) = (&config.endpoints[0], Instant::now());
            let mut opened = 0;
            for millis in 0..10_000 {
                let now = start + Duration::from_millis(millis);
                let mut state = lock(&limits.state);
                opened += i32::from(state.enter(at, &config.users[0], now).is_ok());
                close_all(&mut state);
            }
            // Some of them wait for their turn, for up to a second.
            assert!(
                (expected - 2..=expected).contains(&opened),
                "{endpoint}: {opened}"
            );
        }
    }

    fn close_all(state: &mut State) {
        state.sessions = 0;
        let named = state.users.values_mut().chain(state.endpoints.values_mut());
        for tally in named.chain(state.each.values_mut()) {
            tally.sessions = 0;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_place_takes_no_turn_and_the_other_way_round() {
        let config = config("", "max_opens_per_second = 50\nmax_sessions = 40");
        let limits = Limits::default();
        limits.take_over(&config, MachineMemory::look());
        let (held, why) = opens(&limits, &config, 0).await;
        assert_eq!(held.len(), 39);
        assert!(why.contains("has 39 sessions"), "{why}");
        let state = || lock(&limits.state);
        let endpoint = &config.endpoints[0];
        let wait = state().endpoints["hdb"]
            .opens
            .wait(OpenPace::even(50), Instant::now());
        assert_eq!(wait, Duration::ZERO, "39 of 50 are taken");
        limits.place(endpoint, &config.users[1]).await.unwrap();
        drop(held);
        assert_eq!(state().sessions, 0);
    }

    /// A door for each, until one is refused.
    async fn doors(limits: &Limits, peers: &[Peer]) -> Vec<Door> {
        let mut doors = Vec::new();
        for peer in peers {
            let mut door = limits.door().await;
            if door.try_of(peer, &config("", "").endpoints[0]).is_err() {
                break;
            }
            doors.push(door);
        }
        doors
    }

    #[tokio::test]
    async fn nobody_holds_more_than_half_of_the_doors() {
        // For ten at a time.
        let (limits, hdb) = (Limits::within(40), config("", "").endpoints.remove(0));
        let mut held = doors(&limits, &vec![account(1); 6]).await;
        assert_eq!(held.len(), 5);
        let mut sixth = limits.door().await;
        let Err(Crowd::Own(refused)) = sixth.try_of(&account(1), &hdb) else {
            panic!("it has half already");
        };
        assert!(
            matches!(&refused, Exceeded::Unknown { count: 5, .. }),
            "{refused}"
        );
        assert!(refused.to_string().starts_with("uid 1 has 5 connections"));
        // Refused, it counts for nothing: another may have the door, and it one that is given back.
        sixth.try_of(&account(2), &hdb).unwrap();
        held.pop();
        limits.door().await.try_of(&account(1), &hdb).unwrap();
    }

    /// A quarter of 16 MiB is for handshakes, of 16 KiB each.
    #[tokio::test]
    async fn half_is_half_of_the_memory_too() {
        let config = config("max_memory = \"16MiB\"", "");
        let limits = Limits::within(40_000);
        limits.take_over(&config, MachineMemory::look());
        let held = doors(&limits, &vec![account(1); 200]).await;
        assert_eq!(held.len(), 128);
        assert_eq!(doors(&limits, &vec![account(2); 200]).await.len(), 128);
    }

    #[tokio::test]
    async fn other_hosts_leave_a_quarter_to_this_one() {
        let hosts: Vec<_> = (1..=10).map(|n| host(&format!("10.0.0.{n}:1"))).collect();
        let limits = Limits::within(40);
        let held = doors(&limits, &hosts).await;
        assert_eq!(held.len(), 7);
        assert_eq!(doors(&limits, &vec![account(1); 3]).await.len(), 3);
    }

    #[tokio::test]
    async fn addresses_of_one_host_share_its_half() {
        for (first, second, same) in [
            ("[2001:db8::1]:1", "[2001:db8::2:1]:1", true),
            ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false),
            ("127.0.0.1:1", "127.9.8.7:1", true),
            ("10.0.0.1:1", "10.0.0.2:1", false),
        ] {
            let (limits, hdb) = (Limits::within(40), config("", "").endpoints.remove(0));
            let _held = doors(&limits, &vec![host(first); 5]).await;
            let refused = limits.door().await.try_of(&host(second), &hdb).is_err();
            assert_eq!(refused, same, "{first} {second}");
        }
    }
}
