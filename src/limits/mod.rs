//! How much anybody may have: sessions and opens a second, of the daemon, an endpoint and a user.
//!
//! Whoever is not known yet has a door, of which nobody may hold more than half; whoever is known
//! has a place. Both count by guards.

pub mod files;
mod rate;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::auth::{Origin, Peer};
use crate::config::{Config, Endpoint, User};
use rate::Rate;

/// How long an open waits for a session to end, and for its turn: one that was closed a moment ago
/// lets go of its place within it.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Most connections at a time of clients that are not known yet.
const MOST_DOORS: usize = 4_096;
/// Forget rates of endpoints and users that are gone from this many on.
const KEPT: usize = 1_024;

/// What is in use, and of what.
#[derive(Debug)]
pub struct Limits {
    state: Arc<Mutex<State>>,
    /// A session has ended.
    freed: Arc<Notify>,
    doors: Arc<Semaphore>,
    most_doors: usize,
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
    each: HashMap<(String, String), usize>,
    unknown: HashMap<Origin, usize>,
}

#[derive(Debug, Default)]
struct Tally {
    sessions: usize,
    opens: Rate,
}

/// What there is too much of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// A number of sessions is reached.
    #[error("{of} has {count} sessions, which is {key}; close some, or raise it")]
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
        "{of} opens more than {rate} sessions a second (max_opens_per_second); keep handles open, or \
         raise it"
    )]
    Opens {
        /// Whose limit it is.
        of: Whose,
        /// How many are allowed.
        rate: u32,
    },
    /// One account or host has begun too many connections without saying who it is.
    #[error(
        "{peer} has {count} connections that have not said who they are, half of all that may; find \
         out what it does"
    )]
    Unknown {
        /// Where they come from.
        peer: String,
        /// How many there are.
        count: usize,
    },
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
    origin: Option<Origin>,
    most: usize,
}

/// A session's place, free again when dropped.
#[derive(Debug)]
pub struct Place {
    state: Arc<Mutex<State>>,
    freed: Arc<Notify>,
    endpoint: String,
    user: String,
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
                unknown: HashMap::new(),
            })),
            freed: Arc::default(),
            doors: Arc::new(Semaphore::new(most_doors)),
            most_doors,
        }
    }

    /// This configuration counts from now on. Warns where it allows more than there are file
    /// descriptors for.
    pub fn take_over(&self, config: &Config) {
        let files = files::allowed();
        let possible = sessions_within(files);
        let endpoints = config.endpoints.iter();
        let wanted = config
            .daemon
            .max_sessions
            .unwrap_or_else(|| endpoints.map(|endpoint| endpoint.max_sessions).sum());
        if wanted > possible {
            tracing::warn!(
                "{wanted} sessions are allowed, and file descriptors for {possible}: the rest will be \
                 refused; raise LimitNOFILE of the service (it needs {}), or lower max_sessions",
                files::needed(wanted)
            );
        }
        let mut state = lock(&self.state);
        let asked = config.daemon.max_sessions.filter(|most| *most <= possible);
        state.by_files = asked.is_none();
        state.max_sessions = asked.unwrap_or(possible);
        state.max_opens_per_second = config.daemon.max_opens_per_second;
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
            origin: None,
            most: self.most_doors / 2,
        }
    }

    /// A place for a session of `user` at `endpoint`, and its turn. Waits for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// The limit that is in the way.
    pub async fn place(&self, endpoint: &Endpoint, user: &User) -> Result<Place, Exceeded> {
        let turn = {
            let mut state = lock(&self.state);
            state.turn(endpoint, user, Instant::now())?
        };
        if !turn.is_zero() {
            sleep(turn).await;
        }
        let mut exceeded = match self.try_place(endpoint, user) {
            Ok(place) => return Ok(place),
            Err(exceeded) => exceeded,
        };
        let freed = async {
            loop {
                let next = self.freed.notified();
                match self.try_place(endpoint, user) {
                    Ok(place) => return place,
                    Err(now) => exceeded = now,
                }
                next.await;
            }
        };
        match timeout(PATIENCE, freed).await {
            Ok(place) => Ok(place),
            Err(_) => Err(exceeded),
        }
    }

    fn try_place(&self, endpoint: &Endpoint, user: &User) -> Result<Place, Exceeded> {
        lock(&self.state).enter(endpoint, user)?;
        Ok(Place {
            state: Arc::clone(&self.state),
            freed: Arc::clone(&self.freed),
            endpoint: endpoint.name.clone(),
            user: user.name.clone(),
        })
    }
}

impl State {
    /// When it is the turn of this open: after the user's own, then the endpoint's, then the
    /// daemon's pace. A user who is too fast takes no turn of the others.
    fn turn(
        &mut self,
        endpoint: &Endpoint,
        user: &User,
        now: Instant,
    ) -> Result<Duration, Exceeded> {
        for table in [&mut self.users, &mut self.endpoints] {
            if table.len() > KEPT {
                table.retain(|_, tally| tally.sessions > 0 || !tally.opens.is_at_rest(now));
            }
        }
        let users = self.users.entry(user.name.clone()).or_default();
        let endpoints = self.endpoints.entry(endpoint.name.clone()).or_default();
        let paces = [
            (&mut users.opens, user.max_opens_per_second),
            (&mut endpoints.opens, endpoint.max_opens_per_second),
            (&mut self.opens, self.max_opens_per_second),
        ];
        let mut wait = Duration::ZERO;
        for (nth, (pace, most)) in paces.iter().enumerate() {
            let Some(most) = *most else { continue };
            let own = pace.wait(most, now);
            if own > PATIENCE {
                return Err(Exceeded::Opens {
                    of: match nth {
                        0 => Whose::User(user.name.clone()),
                        1 => Whose::Endpoint(endpoint.name.clone()),
                        _ => Whose::Daemon,
                    },
                    rate: most,
                });
            }
            wait = wait.max(own);
        }
        for (pace, most) in paces {
            if let Some(most) = most {
                pace.take(most, now);
            }
        }
        Ok(wait)
    }

    /// Counts a session, if all limits allow it.
    fn enter(&mut self, endpoint: &Endpoint, user: &User) -> Result<(), Exceeded> {
        let at = (endpoint.name.clone(), user.name.clone());
        let of_user = self.users.get(&user.name).map_or(0, |tally| tally.sessions);
        let of_endpoint = self.endpoints.get(&endpoint.name);
        let of_endpoint = of_endpoint.map_or(0, |tally| tally.sessions);
        let each = self.each.get(&at).copied().unwrap_or_default();
        let daemon_key = if self.by_files {
            "what the file descriptors allow (LimitNOFILE)"
        } else {
            "max_sessions of [daemon]"
        };
        let limits = [
            (of_user, user.max_sessions, "max_sessions of the user"),
            (
                each,
                Some(endpoint.max_sessions_per_user),
                "max_sessions_per_user of the endpoint",
            ),
            (
                of_endpoint,
                Some(endpoint.max_sessions),
                "max_sessions of the endpoint",
            ),
            (self.sessions, Some(self.max_sessions), daemon_key),
        ];
        for (nth, (count, most, key)) in limits.into_iter().enumerate() {
            if most.is_some_and(|most| count >= most) {
                let of = match nth {
                    0 => Whose::User(user.name.clone()),
                    1 => Whose::UserAt(user.name.clone(), endpoint.name.clone()),
                    2 => Whose::Endpoint(endpoint.name.clone()),
                    _ => Whose::Daemon,
                };
                return Err(Exceeded::Sessions { of, count, key });
            }
        }
        self.sessions += 1;
        self.users.entry(user.name.clone()).or_default().sessions += 1;
        let endpoints = self.endpoints.entry(endpoint.name.clone());
        endpoints.or_default().sessions += 1;
        *self.each.entry(at).or_default() += 1;
        Ok(())
    }
}

impl Door {
    /// It is this peer's connection.
    ///
    /// # Errors
    /// The account or host has too many already.
    pub fn of(&mut self, peer: &Peer) -> Result<(), Exceeded> {
        let origin = Origin::of(peer);
        let mut state = lock(&self.state);
        let count = state.unknown.entry(origin).or_default();
        if *count >= self.most {
            return Err(Exceeded::Unknown {
                peer: peer.to_string(),
                count: *count,
            });
        }
        *count += 1;
        self.origin = Some(origin);
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(origin) = self.origin {
            decrement(&mut lock(&self.state).unknown, &origin);
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
        decrement(&mut state.each, &at);
        drop(state);
        self.freed.notify_waiters();
    }
}

/// A session has two sockets, and doors have theirs.
fn sessions_within(files: usize) -> usize {
    let doors = MOST_DOORS.min(files / 4);
    (files.saturating_sub(doors) / 2).max(1)
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// A door for each, until one is refused.
    async fn doors(limits: &Limits, peers: &[Peer]) -> Vec<Door> {
        let mut doors = Vec::new();
        for peer in peers {
            let mut door = limits.door().await;
            if door.of(peer).is_err() {
                break;
            }
            doors.push(door);
        }
        doors
    }

    #[tokio::test]
    async fn nobody_holds_more_than_half_of_the_doors() {
        // For ten at a time.
        let limits = Limits::within(40);
        let mut held = doors(&limits, &vec![account(1); 6]).await;
        assert_eq!(held.len(), 5);
        let mut sixth = limits.door().await;
        let refused = sixth.of(&account(1)).unwrap_err();
        assert!(
            matches!(&refused, Exceeded::Unknown { count: 5, .. }),
            "{refused}"
        );
        assert!(refused.to_string().starts_with("uid 1 has 5 connections"));
        // Refused, it counts for nothing: another may have the door, and it one that is given back.
        sixth.of(&account(2)).unwrap();
        held.pop();
        limits.door().await.of(&account(1)).unwrap();
    }

    #[tokio::test]
    async fn addresses_of_one_host_share_its_half() {
        for (first, second, same) in [
            ("[2001:db8::1]:1", "[2001:db8::2:1]:1", true),
            ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false),
            ("127.0.0.1:1", "127.9.8.7:1", true),
            ("10.0.0.1:1", "10.0.0.2:1", false),
        ] {
            let limits = Limits::within(40);
            let _held = doors(&limits, &vec![host(first); 5]).await;
            let refused = limits.door().await.of(&host(second)).is_err();
            assert_eq!(refused, same, "{first} {second}");
        }
    }
}
