//! The registry of what the running daemon serves: endpoints, open sessions, counters and recent failures.
//!
//! Sessions register themselves and leave the registry when their [`OpenSession`] is dropped. A reload
//! replaces the endpoints. Everybody else only reads.

mod errors;
mod grants;
mod sessions;
mod snapshots;
mod totals;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::config::{ConfigPartKind, Endpoint, LeftOutCause, LeftOutPart, ListenAddress, User};
use crate::credential::{self, Credentials, Recipe};
use crate::primitives::opening::Opening;
use crate::telemetry::audit::AuditRecord;
use crate::telemetry::listen::{AddressState, UnboundAddress};
use crate::telemetry::status::{
    AddressRow, CredentialRow, EndpointRow, LeftOutRow, Status, UnboundRow, WarmRow,
};
use base::error::ErrorKind;
use base::mutex::locked;

use errors::RecentErrors;
pub use grants::{Grants, LostAccess};
pub use sessions::{
    EndOrder, EndingSessions, GrantsPreview, LostSessions, NoSuchSession, OpenSession,
    SessionSelection,
};
use sessions::{OpenSums, Sessions};
pub use snapshots::SharedSnapshots;
pub use totals::{
    CarriedTotals, CountByKind, DaemonTotals, DirectionTotals, EndpointTotals, OpenTimes,
};

/// The registry. All sessions and all surfaces of the daemon share one.
#[derive(Debug)]
pub struct Live {
    started: Timestamp,
    endpoints: Mutex<Vec<ServedEndpoint>>,
    left_out: Mutex<Vec<LeftOutPart>>,
    /// By endpoint name. Counters of an endpoint survive reloads, also while it is not served.
    counts: Mutex<HashMap<String, EndpointCounts>>,
    sessions: Sessions,
    errors: Mutex<RecentErrors>,
}

/// The part of an endpoint's route that the registry reads.
pub trait RouteView: fmt::Debug + Send + Sync {
    /// The endpoint's configuration.
    fn endpoint(&self) -> &Arc<Endpoint>;

    /// The addresses that sessions choose from. Empty if the endpoint leaves the choice to FinSpace, and for
    /// a console.
    fn addresses(&self) -> Vec<AddressRow>;

    /// The connections that are kept logged in, one row for each user.
    fn warm(&self) -> Vec<WarmRow>;

    /// The credentials that sessions of `user` need, as far as they are known before a session opens.
    fn recipes(&self, user: &User) -> Vec<Recipe>;
}

/// An endpoint that the daemon serves.
#[derive(Debug, Clone)]
pub struct ServedEndpoint {
    /// The endpoint's route to its target, with its configuration.
    pub route: Arc<dyn RouteView>,
    /// The state of each entry of `listen`, in the configuration's order.
    pub listen: Vec<watch::Receiver<AddressState>>,
}

/// An endpoint's configuration and the addresses where hopend listens for it.
#[derive(Debug, Clone)]
pub struct BoundEndpoint {
    /// The endpoint's configuration.
    pub endpoint: Arc<Endpoint>,
    /// The addresses that clients can dial, with the ports that the system chose for port 0.
    pub listen: Vec<ListenAddress>,
}

/// The entries of an endpoint's `listen` that clients cannot reach.
#[derive(Debug, Clone)]
pub struct EndpointReadiness {
    /// The endpoint's name.
    pub name: String,
    /// The entries that hopend could not bind. Empty for an endpoint that is ready.
    pub unbound: Vec<UnboundAddress>,
}

/// One endpoint's counters since the daemon started.
#[derive(Debug, Clone, Default)]
struct EndpointCounts {
    opened: u64,
    open_times: OpenTimes,
    refused: CountByKind,
    failed: CountByKind,
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
    /// Replaces the endpoints, at the start and at each reload. They are shown in this order.
    pub fn set_endpoints(&self, endpoints: Vec<ServedEndpoint>) {
        *locked(&self.endpoints) = endpoints;
    }

    /// Replaces the parts of the configuration that the daemon leaves out. They are shown in this order.
    pub fn set_left_out(&self, left_out: Vec<LeftOutPart>) {
        *locked(&self.left_out) = left_out;
    }

    /// The parts of the configuration that are left out now. The result omits users whose account has
    /// appeared since.
    pub fn left_out(&self) -> Vec<LeftOutPart> {
        let left_out = locked(&self.left_out);
        left_out
            .iter()
            .filter(|part| !part.is_served())
            .cloned()
            .collect()
    }

    /// The configured endpoints that are not served at all.
    pub fn endpoints_left_out(&self) -> Vec<LeftOutPart> {
        let mut left_out = self.left_out();
        left_out.retain(|one| {
            one.part.kind == ConfigPartKind::Endpoint && one.cause != LeftOutCause::Kept
        });
        left_out
    }

    /// The endpoints that are served now, in the configuration's order.
    pub fn endpoints(&self) -> Vec<BoundEndpoint> {
        let served = locked(&self.endpoints);
        served.iter().map(ServedEndpoint::bound).collect()
    }

    /// The readiness of each endpoint that is served now, in the configuration's order.
    pub fn readiness(&self) -> Vec<EndpointReadiness> {
        let served = locked(&self.endpoints);
        let readiness = |served: &ServedEndpoint| EndpointReadiness {
            name: served.route.endpoint().name.clone(),
            unbound: served.unbound(),
        };
        served.iter().map(readiness).collect()
    }

    /// The credentials that the endpoints need for all their users, as far as they are known before a session
    /// opens.
    pub fn recipes(&self) -> HashSet<Recipe> {
        let served = locked(&self.endpoints).clone();
        let of_endpoint = |served: &ServedEndpoint| {
            let users = served.route.endpoint().users.iter();
            let recipes = users.flat_map(|user| served.route.recipes(user));
            recipes.collect::<Vec<_>>()
        };
        served.iter().flat_map(of_endpoint).collect()
    }

    /// Registers a session that has opened, until the returned guard is dropped. `opening` is `None` for a
    /// console session, which has no kdb+ behind it.
    pub fn opened(
        &self,
        record: &AuditRecord,
        user: &Arc<User>,
        opening: Option<&Opening>,
    ) -> OpenSession {
        self.count(record.endpoint(), |counts| {
            counts.opened += 1;
            if let Some(opening) = opening {
                counts.open_times.add(opening);
            }
        });
        self.sessions.enter(record, user)
    }

    /// Counts a session that was refused, and remembers the reason.
    pub fn refused(&self, record: &AuditRecord, kind: ErrorKind, reason: &str) {
        self.count(record.endpoint(), |counts| counts.refused.add(kind));
        self.remember(record, kind, reason);
    }

    /// Counts a failure of an open session, and remembers the reason.
    pub fn failed(&self, record: &AuditRecord, kind: ErrorKind, reason: &str) {
        self.count(record.endpoint(), |counts| counts.failed.add(kind));
        self.remember(record, kind, reason);
    }

    fn remember(&self, record: &AuditRecord, kind: ErrorKind, reason: &str) {
        locked(&self.errors).add(Timestamp::now(), record, kind, reason);
    }

    /// Ends a session for `hopend kill`, which the account `uid` ran. Returns once the session has ended.
    ///
    /// # Errors
    /// No open session has this number.
    pub async fn kill(&self, session: u64, uid: u32) -> Result<(), NoSuchSession> {
        self.sessions.kill(session, uid).await
    }

    /// Orders all selected sessions to end, for `hopend kill`, which the account `uid` ran. Does not wait for
    /// them: [`EndingSessions::ended`] does.
    pub fn kill_all(&self, selection: &SessionSelection, uid: u32) -> EndingSessions {
        self.sessions.kill_all(selection, uid)
    }

    /// Applies a reload's grants. Orders the sessions to end whose users have lost access, and returns their
    /// number. A session that is registered later is checked against the same grants.
    pub fn apply_grants(&self, grants: Grants) -> usize {
        self.sessions.apply_grants(grants)
    }

    /// The sessions that [`Self::apply_grants`] would end.
    pub fn preview_grants(&self, grants: &Grants) -> GrantsPreview {
        self.sessions.preview_grants(grants)
    }

    /// All counters, for the metrics. Reads nothing from `/proc`, so a scrape is cheap.
    pub fn totals(&self, credentials: &Credentials) -> DaemonTotals {
        let served = locked(&self.endpoints).clone();
        let counts = locked(&self.counts).clone();
        let mut sums = self.sessions.sums();
        let endpoints = served.iter().map(|served| {
            let name = &served.route.endpoint().name;
            let counts = counts.get(name).cloned().unwrap_or_default();
            endpoint_totals(served, counts, sums.remove(name).unwrap_or_default())
        });
        DaemonTotals {
            started: self.started,
            endpoints: endpoints.collect(),
            credentials: credential_rows(&served, credentials.statuses()),
            calls: credentials.calls(),
        }
    }

    /// A snapshot of everything but the memory budget. Blocks while it searches `/proc` for the processes of
    /// clients that connected over TCP.
    pub fn status(&self, credentials: &Credentials) -> Status {
        let sessions = self.sessions.rows();
        let mut open: HashMap<&str, u64> = HashMap::new();
        for row in &sessions {
            *open.entry(&row.endpoint).or_default() += 1;
        }
        let served = locked(&self.endpoints).clone();
        let counts = locked(&self.counts).clone();
        let endpoints = served.iter().map(|served| {
            let name = &served.route.endpoint().name;
            let counts = counts.get(name).cloned().unwrap_or_default();
            endpoint_row(
                served,
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
            credentials: credential_rows(&served, credentials.statuses()),
            errors: locked(&self.errors).rows(),
            sessions,
            memory: None,
        }
    }

    fn count(&self, endpoint: &str, change: impl FnOnce(&mut EndpointCounts)) {
        let mut counts = locked(&self.counts);
        if let Some(counts) = counts.get_mut(endpoint) {
            return change(counts);
        }
        change(counts.entry(endpoint.to_owned()).or_default());
    }
}

impl ServedEndpoint {
    fn bound(&self) -> BoundEndpoint {
        let listen = self.listen.iter().map(|state| state.borrow());
        BoundEndpoint {
            endpoint: Arc::clone(self.route.endpoint()),
            listen: listen.filter_map(|state| state.bound().cloned()).collect(),
        }
    }

    fn unbound(&self) -> Vec<UnboundAddress> {
        let states = self.listen.iter().map(|state| state.borrow());
        states
            .filter_map(|state| state.unbound().cloned())
            .collect()
    }
}

fn endpoint_totals(
    served: &ServedEndpoint,
    counts: EndpointCounts,
    sums: OpenSums,
) -> EndpointTotals {
    let endpoint = served.route.endpoint();
    let (addresses, warm) = (served.route.addresses(), served.route.warm());
    let resting = addresses.iter().filter(|row| row.resting_s.is_some());
    EndpointTotals {
        name: endpoint.name.clone(),
        open: sums.open,
        max_sessions: endpoint.max_sessions as u64,
        opened: counts.opened,
        open_times: counts.open_times,
        refused: counts.refused,
        failed: counts.failed,
        carried: sums.carried,
        outstanding: sums.outstanding,
        listen_addresses: served.listen.len() as u64,
        listen_addresses_bound: served.bound().listen.len() as u64,
        target_addresses: addresses.len() as u64,
        target_addresses_resting: resting.count() as u64,
        warm_wanted: warm.iter().map(|row| row.wanted).sum(),
        warm_ready: warm.iter().map(|row| row.ready).sum(),
    }
}

fn endpoint_row(served: &ServedEndpoint, counts: &EndpointCounts, sessions: u64) -> EndpointRow {
    let BoundEndpoint { endpoint, listen } = served.bound();
    EndpointRow {
        name: endpoint.name.clone(),
        listen: listen.iter().map(ToString::to_string).collect(),
        unbound: served.unbound().iter().map(unbound_row).collect(),
        target: endpoint.target.to_string(),
        sessions,
        max_sessions: endpoint.max_sessions as u64,
        opened: counts.opened,
        refused: counts.refused.sum(),
        addresses: served.route.addresses(),
        warm: served.route.warm(),
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

/// The rows in the order of the endpoints and their users. Credentials that no endpoint uses any more come
/// last, until they expire.
fn credential_rows(
    endpoints: &[ServedEndpoint],
    states: Vec<credential::CredentialStatus>,
) -> Vec<CredentialRow> {
    /// The endpoints that use one credential.
    struct CredentialUse {
        /// The credential's position among all rows.
        order: usize,
        endpoints: Vec<String>,
    }

    let mut uses: HashMap<Recipe, CredentialUse> = HashMap::new();
    for served in endpoints {
        let endpoint = served.route.endpoint();
        for user in &endpoint.users {
            for recipe in served.route.recipes(user) {
                let order = uses.len();
                let used = uses.entry(recipe).or_insert_with(|| CredentialUse {
                    order,
                    endpoints: Vec::new(),
                });
                used.endpoints.push(endpoint.name.clone());
            }
        }
    }
    let unused = || CredentialUse {
        order: usize::MAX,
        endpoints: Vec::new(),
    };
    let mut rows: Vec<_> = states
        .into_iter()
        .filter_map(|state| {
            let used = uses.remove(&state.recipe).unwrap_or_else(unused);
            (!used.endpoints.is_empty() || state.left.is_some())
                .then(|| (used.order, credential_row(&state, used.endpoints)))
        })
        .collect();
    rows.sort_by(|(a, row), (b, other)| a.cmp(b).then_with(|| row.what.cmp(&other.what)));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn credential_row(state: &credential::CredentialStatus, endpoints: Vec<String>) -> CredentialRow {
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
