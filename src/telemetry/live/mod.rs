//! What lives in this daemon now: open sessions, what each endpoint has seen, what went wrong last.
//!
//! Sessions enter themselves and leave by a drop guard; everything else only reads.

mod errors;
mod grants;
mod looks;
mod sessions;
mod totals;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::config::{Endpoint, LeftOut, LeftOutCause, ListenAddress, PartKind, User};
use crate::credential::{CredentialStatus, Credentials, Recipe};
use crate::daemon::listener::{AddressState, UnboundAddress};
use crate::route::Route;
use crate::surface::status::{CredentialRow, EndpointRow, LeftOutRow, Status, UnboundRow};
use crate::telemetry::audit::Record;
use crate::telemetry::opening::Opening;
use base::error::ErrorKind;

use errors::LastErrors;
pub use grants::{Grants, LostAccess};
pub use looks::Looks;
pub use sessions::{EndOrder, Killing, NoSession, OpenSession, Selection};
use sessions::{Sessions, Sum};
pub use totals::{ByKind, Carried, EndpointTotals, Opens, Share, Totals, Way};

/// Everything that `hopend status` shows and nobody else keeps.
#[derive(Debug)]
pub struct Live {
    started: Timestamp,
    endpoints: Mutex<Vec<Shown>>,
    left_out: Mutex<Vec<LeftOut>>,
    counts: Mutex<HashMap<String, Counts>>,
    sessions: Sessions,
    errors: Mutex<LastErrors>,
}

/// An endpoint as it is served now.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Where it leads, and its configuration.
    pub route: Arc<Route>,
    /// Its addresses, bound or not, in the order of the configuration.
    pub listen: Vec<watch::Receiver<AddressState>>,
}

/// An endpoint and the addresses that it is bound to.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Its configuration.
    pub endpoint: Arc<Endpoint>,
    /// Where hopen finds it, with ports that the system chose.
    pub listen: Vec<ListenAddress>,
}

/// Whether clients reach an endpoint at each of its addresses.
#[derive(Debug, Clone)]
pub struct EndpointReadiness {
    /// Its name.
    pub name: String,
    /// The addresses where hopend does not listen.
    pub unbound: Vec<UnboundAddress>,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    opened: u64,
    opens: Opens,
    refused: ByKind,
    failed: ByKind,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            started: Timestamp::now(),
            endpoints: Mutex::default(),
            left_out: Mutex::default(),
            counts: Mutex::default(),
            sessions: Sessions::default(),
            errors: Mutex::default(),
        }
    }
}

impl Live {
    /// These are the endpoints from now on, in the order of the configuration.
    pub fn serves(&self, endpoints: Vec<Shown>) {
        *lock(&self.endpoints) = endpoints;
    }

    /// This is left out from now on, in the order of the configuration.
    pub fn leaves_out(&self, left_out: Vec<LeftOut>) {
        *lock(&self.left_out) = left_out;
    }

    /// What is left out now.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let left_out = lock(&self.left_out);
        left_out
            .iter()
            .filter(|part| !part.is_over())
            .cloned()
            .collect()
    }

    /// The endpoints that the configuration has and that are not served.
    pub fn endpoints_left_out(&self) -> Vec<LeftOut> {
        let mut left_out = self.left_out();
        left_out
            .retain(|one| one.part.kind == PartKind::Endpoint && one.cause != LeftOutCause::Kept);
        left_out
    }

    /// The endpoints as they are served now, in the order of the configuration.
    pub fn endpoints(&self) -> Vec<Bound> {
        let shown = lock(&self.endpoints);
        shown.iter().map(Shown::bound).collect()
    }

    /// Which endpoints serve, and which of them not at all of their addresses.
    pub fn readiness(&self) -> Vec<EndpointReadiness> {
        let shown = lock(&self.endpoints);
        let of = |shown: &Shown| EndpointReadiness {
            name: shown.route.endpoint().name.clone(),
            unbound: shown.unbound(),
        };
        shown.iter().map(of).collect()
    }

    /// What the endpoints need fetched, as far as is known.
    pub fn recipes(&self) -> HashSet<Recipe> {
        let shown = lock(&self.endpoints).clone();
        let of_route = |shown: &Shown| {
            let users = shown.route.endpoint().users.iter();
            let recipes = users.flat_map(|user| shown.route.recipes(user));
            recipes.collect::<Vec<_>>()
        };
        shown.iter().flat_map(of_route).collect()
    }

    /// A session of `user` is open; it is shown until what this returns is dropped.
    /// `opening` is how it came to its kdb+, if there is one.
    pub fn opened(
        &self,
        record: &Record,
        user: &Arc<User>,
        opening: Option<&Opening>,
    ) -> OpenSession {
        self.count(record.endpoint(), |counts| {
            counts.opened += 1;
            if let Some(opening) = opening {
                counts.opens.add(opening);
            }
        });
        self.sessions.enter(record, user)
    }

    /// A session did not come about.
    pub fn refused(&self, record: &Record, kind: ErrorKind, reason: &str) {
        self.count(record.endpoint(), |counts| counts.refused.add(kind));
        self.remember(record, kind, reason);
    }

    /// Something went wrong in a session, as the client was told or would have been.
    pub fn failed(&self, record: &Record, kind: ErrorKind, reason: &str) {
        self.count(record.endpoint(), |counts| counts.failed.add(kind));
        self.remember(record, kind, reason);
    }

    fn remember(&self, record: &Record, kind: ErrorKind, reason: &str) {
        let (endpoint, user) = (record.endpoint(), record.user_name());
        lock(&self.errors).add(Timestamp::now(), endpoint, user, kind, reason);
    }

    /// Ends a session as `hopend kill` does, for the account `uid`. Returns when it has left.
    pub async fn kill(&self, session: u64, uid: u32) -> Result<(), NoSession> {
        self.sessions.kill(session, uid).await
    }

    /// Tells the sessions of a user, an endpoint or both to end, for the account `uid`.
    pub fn kill_all(&self, selection: &Selection, uid: u32) -> Killing {
        self.sessions.kill_all(selection, uid)
    }

    /// From now on these may hold sessions. Tells those to end whose users have lost access, and comes
    /// back with their number.
    pub fn grants(&self, grants: Grants) -> usize {
        self.sessions.grants(grants)
    }

    /// How many sessions are open, and why which of them would end if these might hold sessions.
    pub fn would_end(&self, grants: &Grants) -> (u64, Vec<(String, u64)>) {
        self.sessions.would_end(grants)
    }

    /// What has been done so far. Looks at no process, so that it may be asked often.
    pub fn totals(&self, credentials: &Credentials) -> Totals {
        let shown = lock(&self.endpoints).clone();
        let counts = lock(&self.counts).clone();
        let mut sums = self.sessions.sums();
        let endpoints = shown.iter().map(|shown| {
            let endpoint = shown.route.endpoint();
            let counts = counts.get(&endpoint.name).cloned().unwrap_or_default();
            let Sum {
                open,
                outstanding,
                carried,
            } = sums.remove(&endpoint.name).unwrap_or_default();
            let (places, warm) = (shown.route.places(), shown.route.warm());
            EndpointTotals {
                name: endpoint.name.clone(),
                open,
                max_sessions: endpoint.max_sessions as u64,
                opened: counts.opened,
                opens: counts.opens,
                refused: counts.refused,
                failed: counts.failed,
                carried,
                outstanding,
                addresses: Share {
                    all: shown.listen.len() as u64,
                    some: shown.bound().listen.len() as u64,
                },
                places: Share::of(&places, |_| 1, |place| u64::from(place.resting_s.is_some())),
                warm: Share::of(&warm, |row| row.wanted, |row| row.ready),
            }
        });
        Totals {
            started: self.started,
            endpoints: endpoints.collect(),
            credentials: credential_rows(&shown, credentials.statuses()),
            calls: credentials.calls(),
        }
    }

    /// Everything at one moment. Blocks for as long as it takes to look through `/proc` for the
    /// clients' processes, when sessions came in over TCP.
    pub fn status(&self, credentials: &Credentials) -> Status {
        let sessions = self.sessions.rows();
        let mut open: HashMap<&str, u64> = HashMap::new();
        for row in &sessions {
            *open.entry(&row.endpoint).or_default() += 1;
        }
        let shown = lock(&self.endpoints).clone();
        let counts = lock(&self.counts).clone();
        let endpoints = shown.iter().map(|shown| {
            let name = &shown.route.endpoint().name;
            let counts = counts.get(name).cloned().unwrap_or_default();
            endpoint_row(
                shown,
                &counts,
                open.get(&**name).copied().unwrap_or_default(),
            )
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: Timestamp::now(),
            left_out: self.left_out().iter().map(LeftOutRow::from).collect(),
            endpoints: endpoints.collect(),
            credentials: credential_rows(&shown, credentials.statuses()),
            errors: lock(&self.errors).rows(),
            sessions,
            memory: None,
        }
    }

    fn count(&self, endpoint: &str, change: impl FnOnce(&mut Counts)) {
        let mut counts = lock(&self.counts);
        if let Some(counts) = counts.get_mut(endpoint) {
            return change(counts);
        }
        change(counts.entry(endpoint.to_owned()).or_default());
    }
}

impl Shown {
    fn bound(&self) -> Bound {
        let listen = self.listen.iter().map(|state| state.borrow());
        Bound {
            endpoint: Arc::clone(self.route.endpoint()),
            listen: listen.filter_map(|state| state.bound().cloned()).collect(),
        }
    }

    /// The addresses where hopend does not listen.
    fn unbound(&self) -> Vec<UnboundAddress> {
        let states = self.listen.iter().map(|state| state.borrow());
        states
            .filter_map(|state| state.unbound().cloned())
            .collect()
    }
}

fn endpoint_row(shown: &Shown, counts: &Counts, sessions: u64) -> EndpointRow {
    let Bound { endpoint, listen } = shown.bound();
    EndpointRow {
        name: endpoint.name.clone(),
        listen: listen.iter().map(ToString::to_string).collect(),
        unbound: shown.unbound().iter().map(unbound_row).collect(),
        target: endpoint.target.to_string(),
        sessions,
        max_sessions: endpoint.max_sessions as u64,
        opened: counts.opened,
        refused: counts.refused.sum(),
        places: shown.route.places(),
        warm: shown.route.warm(),
    }
}

fn unbound_row(unbound: &UnboundAddress) -> UnboundRow {
    let holder = unbound.holder();
    UnboundRow {
        address: unbound.address.to_string(),
        socket: unbound.socket().map(ToString::to_string),
        since: unbound.since,
        reason: unbound.obstacle.to_string(),
        uid: holder.map(|holder| holder.uid),
        pid: holder.and_then(|holder| holder.pid),
        program: holder.and_then(|holder| holder.program.clone()),
    }
}

/// In the order of the endpoints and their users; what no endpoint uses any more comes last, for as
/// long as it could be used.
fn credential_rows(endpoints: &[Shown], states: Vec<CredentialStatus>) -> Vec<CredentialRow> {
    let mut used: HashMap<_, (usize, Vec<String>)> = HashMap::new();
    for shown in endpoints {
        let endpoint = shown.route.endpoint();
        for user in &endpoint.users {
            for recipe in shown.route.recipes(user) {
                let next = used.len();
                let (_, names) = used.entry(recipe).or_insert_with(|| (next, Vec::new()));
                names.push(endpoint.name.clone());
            }
        }
    }
    let mut rows: Vec<_> = states
        .into_iter()
        .filter_map(|state| {
            let (order, endpoints) = used.remove(&state.recipe).unwrap_or((usize::MAX, vec![]));
            (!endpoints.is_empty() || state.left.is_some())
                .then(|| (order, credential_row(&state, endpoints)))
        })
        .collect();
    rows.sort_by(|(a, row), (b, other)| a.cmp(b).then_with(|| row.what.cmp(&other.what)));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn credential_row(state: &CredentialStatus, endpoints: Vec<String>) -> CredentialRow {
    CredentialRow {
        user: state.recipe.local_user().to_owned(),
        endpoints,
        what: state.recipe.to_string(),
        age_s: state.age.map(|age| age.as_secs_f64()),
        left_s: state.left.map(|left| left.as_secs_f64()),
        refresh_s: state.refresh.map(|refresh| refresh.as_secs_f64()),
        fetches: state.fetches,
        failures: state.failures,
        last_error: state.last_error.as_ref().map(ToString::to_string),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
