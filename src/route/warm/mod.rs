//! `warm = n`: connections that are kept logged in for each user who has come, so that hopen waits
//! for no dial, no TLS handshake and no login.
//!
//! - A shelf belongs to one user of one endpoint, and is never handed to another, whatever the login
//!   was. It is made when the user has come for the first time, and given back when the user has not
//!   come for [`KEPT_FOR`].
//! - What lies there was logged in with the login that the user would get now: a connection whose
//!   credential was refused, has ended, or whose password is another by now goes to nobody.
//! - It said to kdb+ what the client says, its capability included, so that the answer is the same.
//! - It goes where a session would go now: not to a place that rests, nor to the second of two places
//!   while the first works.
//! - One is made at a time, after a pause that grows with each failure.

mod kept;
mod wants;

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::{Concerns, Health};
use super::{OpenError, Opened, Route};
use crate::config::{Endpoint, User};
use crate::credential::{Credentials, GenerationStatus};
use crate::surface::status::WarmRow;
use base::error::chain;
use kept::Kept;
use q_relay::relay::KeepaliveSettings;
use wants::{Plan, Wants, Worth};

/// A user who has not come for so long has nothing kept.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// How often a shelf is looked through for what is of no use any more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Connections made at a time for one endpoint, whosever they are.
const AT_A_TIME: usize = 2;
/// After so long without a loss, those before are forgotten.
const PROVEN_AFTER: Duration = Duration::from_secs(60);
/// How long kdb+ may take to take in that a connection is over.
const GOODBYE: Duration = Duration::from_secs(1);

/// What an endpoint keeps.
pub(super) struct Warm {
    count: usize,
    keepalive: KeepaliveSettings,
    patience: Duration,
    /// Where connections wait, whoever asked for them first.
    runtime: Handle,
    closed: CancellationToken,
    tasks: TaskTracker,
    making: Semaphore,
    /// By the user's name.
    shelves: Mutex<HashMap<String, Arc<Shelf>>>,
}

/// What is kept for one user.
struct Shelf {
    user: Arc<User>,
    lies: Mutex<Lies>,
    wake: Notify,
}

struct Lies {
    /// The oldest first.
    kept: Vec<Kept>,
    wants: Wants,
    last_came: Instant,
    /// Of one place: what lies here.
    health: Health,
    /// What went wrong last.
    trouble: Option<String>,
}

/// What a session that comes now could get.
pub(super) struct Fitting<'f> {
    pub(super) capability: Option<u8>,
    /// The places that a session would go to, where one is chosen.
    pub(super) places: Option<Vec<String>>,
    /// What a connection's login is worth.
    pub(super) standing: &'f (dyn Fn(&Opened) -> GenerationStatus + Sync),
}

impl Warm {
    /// None if the endpoint keeps nothing. From `closed` on everything is let go and nothing is kept any
    /// more. Must be called within a tokio runtime.
    pub(super) fn new(endpoint: &Endpoint, closed: CancellationToken) -> Option<Self> {
        (endpoint.warm > 0).then(|| Self {
            count: endpoint.warm,
            keepalive: endpoint.keepalive.clone(),
            patience: endpoint.connect_timeout,
            runtime: Handle::current(),
            closed,
            tasks: TaskTracker::new(),
            making: Semaphore::new(AT_A_TIME),
            shelves: Mutex::default(),
        })
    }

    /// A session of `user` was opened: others like it may follow.
    pub(super) fn came(
        &self,
        route: &Arc<Route>,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) {
        let now = Instant::now();
        let mut shelves = lock(&self.shelves);
        if self.closed.is_cancelled() {
            return;
        }
        if let Some(shelf) = shelves.get(&user.name) {
            let mut lies = shelf.lock();
            lies.wants.came(capability);
            lies.last_came = now;
            shelf.wake.notify_one();
            return;
        }
        let shelf = Arc::new(Shelf::new(user, Wants::new(self.count, capability), now));
        shelves.insert(user.name.clone(), Arc::clone(&shelf));
        let keeping = keep_while_sound(Arc::clone(route), shelf, credentials.clone());
        self.tasks.spawn_on(keeping, &self.runtime);
    }

    /// Whether there may be something for this user and capability.
    pub(super) fn may_have(&self, user: &str, capability: Option<u8>) -> bool {
        self.shelf(user).is_some_and(|shelf| {
            let lies = shelf.lock();
            lies.kept.iter().any(|kept| kept.capability == capability)
        })
    }

    /// A connection of `user`, on the runtime that this is called from.
    pub(super) fn take(&self, user: &str, fitting: &Fitting<'_>) -> Option<Opened> {
        let shelf = self.shelf(user)?;
        loop {
            // What is missing then is made once the session has its answer: see `came`.
            let (taken, over) = shelf.lock().take(fitting);
            for kept in over {
                self.let_go(user, kept, &"its login is over");
            }
            let Opened {
                upstream,
                node,
                place,
                login,
            } = taken?.opened;
            match upstream.rehome() {
                Ok(upstream) => {
                    return Some(Opened {
                        upstream,
                        node,
                        place,
                        login,
                    });
                }
                Err(error) => tracing::debug!(user, "a warm connection was lost: {error}"),
            }
        }
    }

    /// What is kept, by user.
    pub(super) fn rows(&self) -> Vec<WarmRow> {
        let shelves: Vec<_> = lock(&self.shelves).values().cloned().collect();
        let row = |shelf: &Arc<Shelf>| {
            let lies = shelf.lock();
            let full = lies.kept.len() >= self.count;
            WarmRow {
                user: shelf.user.name.clone(),
                ready: lies.kept.len() as u64,
                wanted: self.count as u64,
                reason: lies.trouble.clone().filter(|_| !full),
            }
        };
        let mut rows: Vec<_> = shelves.iter().map(row).collect();
        rows.sort_by(|a, b| a.user.cmp(&b.user));
        rows
    }

    /// Returns when everything that had to be let go has been, at the latest after [`GOODBYE`].
    pub(super) async fn emptied(&self) {
        self.tasks.close();
        let _ = timeout(GOODBYE, self.tasks.wait()).await;
    }

    fn shelf(&self, user: &str) -> Option<Arc<Shelf>> {
        if self.closed.is_cancelled() {
            return None;
        }
        lock(&self.shelves).get(user).cloned()
    }

    /// Whether the shelf is of no use any more. It is not found from then on.
    fn gives_back(&self, shelf: &Shelf, now: Instant) -> bool {
        let mut shelves = lock(&self.shelves);
        let gone = now.duration_since(shelf.lock().last_came) >= KEPT_FOR;
        if gone || self.closed.is_cancelled() {
            shelves.remove(&shelf.user.name);
            return true;
        }
        false
    }

    /// Ends a connection in order.
    fn let_go(&self, user: &str, kept: Kept, why: &dyn fmt::Display) {
        let mut upstream = kept.opened.upstream;
        tracing::debug!(user, to = %upstream.peer, "a warm connection ends: {why}");
        let goodbye = async move {
            let _ = timeout(GOODBYE, upstream.stream.shutdown()).await;
        };
        self.tasks.spawn_on(goodbye, &self.runtime);
    }
}

impl Shelf {
    fn new(user: &Arc<User>, wants: Wants, now: Instant) -> Self {
        Self {
            user: Arc::clone(user),
            lies: Mutex::new(Lies {
                kept: Vec::new(),
                wants,
                last_came: now,
                health: Health::default(),
                trouble: None,
            }),
            wake: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lies> {
        lock(&self.lies)
    }
}

impl Lies {
    /// The oldest connection that fits; and those found to be over on the way.
    fn take(&mut self, fitting: &Fitting<'_>) -> (Option<Kept>, Vec<Kept>) {
        let mut over = Vec::new();
        let mut at = 0;
        while let Some(kept) = self.kept.get(at) {
            if (fitting.standing)(&kept.opened) == GenerationStatus::Invalid {
                over.push(self.kept.remove(at));
            } else if kept.capability == fitting.capability
                && is_among(kept, fitting.places.as_deref())
                && kept.is_clean()
            {
                self.health.succeeded("", "");
                return (Some(self.kept.remove(at)), over);
            } else {
                at += 1;
            }
        }
        (None, over)
    }

    /// Listens to all of them, and pings. Ready when some are lost.
    fn poll(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<Vec<(Kept, kept::Lost)>> {
        let mut lost = Vec::new();
        let mut at = 0;
        while let Some(kept) = self.kept.get_mut(at) {
            match kept.poll(context, now) {
                Ok(()) => at += 1,
                Err(why) => {
                    self.failed(&why.to_string(), now);
                    lost.push((self.kept.remove(at), why));
                }
            }
        }
        if lost.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(lost)
        }
    }

    fn failed(&mut self, reason: &str, now: Instant) {
        self.health.failed("", Concerns::Everybody, reason, now);
        self.trouble = Some(reason.to_owned());
    }

    /// Takes out what is of no use any more; and says for whom one is to be made, if one may be.
    fn tidy(
        &mut self,
        now: Instant,
        places: Option<&[String]>,
        standing: impl Fn(&Opened) -> GenerationStatus,
    ) -> (Vec<Kept>, Option<Option<u8>>) {
        if self
            .kept
            .iter()
            .any(|kept| now.duration_since(kept.since) >= PROVEN_AFTER)
        {
            self.health.succeeded("", "");
        }
        let worth = |kept: &Kept| {
            let worth = match standing(&kept.opened) {
                GenerationStatus::Invalid => Worth::Over,
                GenerationStatus::Current if is_among(kept, places) && !kept.is_old(now) => {
                    Worth::Fresh
                }
                GenerationStatus::Current | GenerationStatus::Replaced => Worth::Stale,
            };
            (kept.capability, worth)
        };
        let worths: Vec<_> = self.kept.iter().map(worth).collect();
        let Plan { drop, make } = self.wants.plan(&worths);
        let dropped = drop.into_iter().rev().map(|at| self.kept.remove(at));
        let dropped = dropped.collect();
        let rests = self.health.resting("", "", now).is_some();
        let nowhere = places.is_some_and(<[_]>::is_empty);
        (dropped, make.filter(|_| !rests && !nowhere))
    }

    /// When something has to be done, if nothing happens before.
    fn due(&self, now: Instant) -> Instant {
        let pings = self.kept.iter().filter_map(Kept::due);
        let rest = self.health.resting("", "", now);
        pings.chain(rest).fold(now + LOOK_EVERY, Instant::min)
    }
}

/// Whether a connection leads where a session would go.
fn is_among(kept: &Kept, places: Option<&[String]>) -> bool {
    match (places, &kept.opened.place) {
        (None, None) => true,
        (Some(places), Some(place)) => places.contains(place),
        _ => false,
    }
}

/// The same as [`keep`]. Should that have a fault, the user's next session has another shelf.
async fn keep_while_sound(route: Arc<Route>, shelf: Arc<Shelf>, credentials: Credentials) {
    let keeping = keep(Arc::clone(&route), Arc::clone(&shelf), credentials);
    if AssertUnwindSafe(keeping).catch_unwind().await.is_ok() {
        return;
    }
    if let Some(warm) = &route.warm {
        let mut shelves = lock(&warm.shelves);
        shelves.retain(|_, one| !Arc::ptr_eq(one, &shelf));
    }
    shelf.lock().kept.clear();
}

/// Keeps one shelf, until its user has stayed away or the endpoint is not served any more.
async fn keep(route: Arc<Route>, shelf: Arc<Shelf>, credentials: Credentials) {
    let Some(warm) = &route.warm else { return };
    let user = &shelf.user;
    let mut making = None;
    loop {
        let now = Instant::now();
        if warm.gives_back(&shelf, now) {
            break;
        }
        let places = route.best_places(&user.name);
        let standing = |opened: &Opened| route.standing(opened, None, &credentials);
        let (useless, make, due) = {
            let mut lies = shelf.lock();
            let (useless, make) = lies.tidy(now, places.as_deref(), standing);
            (useless, make, lies.due(now))
        };
        for kept in useless {
            warm.let_go(&user.name, kept, &"another one takes its place");
        }
        if let (Some(capability), None) = (make, &making) {
            let opening = open(&route, user, capability, &credentials);
            making = Some(Box::pin(opening));
            // What comes of it is told apart from what happened before.
            shelf.lock().health.trying("", "", now, Duration::ZERO);
        }
        let made = async {
            match &mut making {
                Some(opening) => opening.await,
                None => std::future::pending().await,
            }
        };
        let lost = std::future::poll_fn(|context| shelf.lock().poll(context, Instant::now()));
        tokio::select! {
            biased;
            () = warm.closed.cancelled() => {}
            lost = lost => for (kept, why) in lost {
                warm.let_go(&user.name, kept, &why);
            },
            (capability, opened) = made => {
                making = None;
                match opened {
                    Ok(opened) => {
                        let kept = Kept::new(opened, capability, &warm.keepalive, warm.patience);
                        shelf.lock().kept.push(kept);
                    }
                    Err(error) => {
                        let reason = chain(&error);
                        tracing::debug!(user = user.name, "no warm connection: {reason}");
                        shelf.lock().failed(&reason, Instant::now());
                    }
                }
            }
            () = shelf.wake.notified() => {}
            () = sleep_until(due.into()) => {}
        }
    }
    let all = std::mem::take(&mut shelf.lock().kept);
    for kept in all {
        warm.let_go(&user.name, kept, &"nothing is kept for this user any more");
    }
}

/// One connection, made when it is its turn.
async fn open(
    route: &Arc<Route>,
    user: &Arc<User>,
    capability: Option<u8>,
    credentials: &Credentials,
) -> (Option<u8>, Result<Opened, OpenError>) {
    let _turn = match &route.warm {
        Some(warm) => warm.making.acquire().await.ok(),
        None => None,
    };
    let opened = route.open_to_keep(user, capability, credentials).await;
    (capability, opened)
}

impl fmt::Debug for Warm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warm")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::config;

    #[tokio::test]
    async fn a_user_who_stays_away_gives_back_what_is_kept() {
        let config = config("warm = 2");
        let (endpoint, user) = (&config.endpoints[0], &config.users[0]);
        let closed = CancellationToken::new();
        let warm = Warm::new(endpoint, closed.clone()).unwrap();
        let now = Instant::now();
        let shelf = Arc::new(Shelf::new(user, Wants::new(2, Some(6)), now));
        lock(&warm.shelves).insert(user.name.clone(), Arc::clone(&shelf));
        let almost = now + KEPT_FOR - LOOK_EVERY;
        assert!(!warm.gives_back(&shelf, almost));
        shelf.lock().last_came = almost;
        assert!(
            !warm.gives_back(&shelf, now + KEPT_FOR),
            "the user came again"
        );
        assert!(warm.shelf(&user.name).is_some());
        assert!(warm.gives_back(&shelf, almost + KEPT_FOR));
        assert!(warm.shelf(&user.name).is_none());

        lock(&warm.shelves).insert(user.name.clone(), Arc::clone(&shelf));
        closed.cancel();
        assert!(warm.shelf(&user.name).is_none(), "the endpoint is gone");
        assert!(warm.gives_back(&shelf, almost));
    }
}
