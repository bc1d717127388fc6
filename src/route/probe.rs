//! Addresses that rest are asked in the background whether they answer again, so that no session waits
//! for the answer.
//!
//! - An address has one probe at a time, and an endpoint [`AT_A_TIME`].
//! - A probe logs in as a session would that failed there: with the endpoint's own login, or with that
//!   user's, if it is at hand. It fetches none. Where the client gives the login there is nothing to log
//!   in with: then the probe goes as far as TCP and TLS, and a single session tries the rest.
//! - Probes end when the address takes a login, whoever makes it, and when the endpoint is served no more.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempt::Attempt;
use super::health::Concerns;
use super::{OpenError, Route, Visit};
use crate::config::{Login, Target};
use crate::upstream::{self, UpstreamError, UpstreamStream};
use base::address::Address;
use base::error::chain;
use q_ipc::handshake::Hello;

/// Probes of one endpoint that may be under way at a time.
const AT_A_TIME: usize = 4;
/// How long kdb+ may take to take in that a probe is over.
const GOODBYE: Duration = Duration::from_secs(1);

/// What asks the addresses of an endpoint that rest.
pub(super) struct Prober {
    closed: CancellationToken,
    tasks: TaskTracker,
    turns: Semaphore,
    /// The addresses that are being probed.
    probed: Mutex<HashSet<String>>,
}

/// What a probe found.
enum Found {
    /// The address takes logins.
    Accepts,
    /// The address answers. Whether it takes a login is known when a session tries.
    Answers,
    /// The address does not answer, or takes nobody's login.
    Fails(OpenError),
}

/// What is said to an address that is probed.
enum ProbeLogin {
    /// This login, which everybody's sessions have.
    Everybodys(Address, Hello),
    /// This login, which is that of one user.
    Users(Address, Hello),
    /// Nothing.
    Nothing(Address),
}

impl Prober {
    /// Probes until `closed` says that the endpoint is served no more.
    pub(super) fn new(closed: CancellationToken) -> Self {
        Self {
            closed,
            tasks: TaskTracker::new(),
            turns: Semaphore::new(AT_A_TIME),
            probed: Mutex::default(),
        }
    }

    /// Probes `place` until it takes a login. `visit` is a session that failed there.
    pub(super) fn watch(&self, route: &Arc<Route>, place: &str, visit: &Arc<Visit>) {
        if let Some(watching) = self.begin(route, place) {
            route.places.probed(place);
            let probing = probe_until_it_answers(watching, Arc::clone(visit));
            self.spawn(probing);
        }
    }

    /// An attempt that a session no longer waits for becomes the first probe of its place, unless the
    /// place is being probed already.
    pub(super) fn take_over(&self, route: &Arc<Route>, attempt: Attempt, visit: &Arc<Visit>) {
        let Some(watching) = self.begin(route, &attempt.place) else {
            return;
        };
        let visit = Arc::clone(visit);
        self.spawn(async move {
            match attempt.await.opened() {
                Some(opened) => say_goodbye(opened.upstream.stream).await,
                None => {
                    watching.route.places.probed(&watching.place);
                    probe_until_it_answers(watching, visit).await;
                }
            }
        });
    }

    /// Returns when no probe is under way any more, the endpoint being served no more.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Addresses that are being probed.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.probed().len()
    }

    /// None where the place is being probed, or where the endpoint is served no more.
    fn begin(&self, route: &Arc<Route>, place: &str) -> Option<Watching> {
        let begins = !self.closed.is_cancelled() && self.probed().insert(place.to_owned());
        begins.then(|| Watching {
            route: Arc::clone(route),
            place: place.to_owned(),
        })
    }

    fn spawn(&self, probing: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            closed.run_until_cancelled(probing).await;
        });
    }

    fn probed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is being probed, until this is dropped.
struct Watching {
    route: Arc<Route>,
    place: String,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.route.prober.probed().remove(&self.place);
        // Should the probe have had a fault, a session tries.
        self.route.places.unprobed(&self.place);
    }
}

async fn probe_until_it_answers(watching: Watching, visit: Arc<Visit>) {
    let Watching { route, place } = &watching;
    while let Some(next) = route.places.next_probe(place) {
        sleep_until(next.into()).await;
        let _turn = route.prober.turns.acquire().await;
        // A session that had no other place may have been let in meanwhile.
        if route.places.next_probe(place).is_none() {
            return;
        }
        match route.probe(place, &visit).await {
            Found::Accepts => return route.places.succeeded(place, &visit.user.name),
            Found::Answers => return,
            Found::Fails(error) => {
                let reason = chain(&error);
                route.places.failed(place, Concerns::Everybody, &reason);
            }
        }
    }
}

impl Route {
    async fn probe(&self, place: &str, visit: &Visit) -> Found {
        let login = match self.probe_login(place, visit).await {
            Ok(Some(login)) => login,
            // There is nothing to find out where it is, or who may enter.
            Ok(None) => return Found::Answers,
            Err(error) => return Found::Fails(error),
        };
        let (dialled, is_everybodys) = match &login {
            ProbeLogin::Everybodys(address, hello) => {
                (self.dial_one(address, hello, visit).await, true)
            }
            ProbeLogin::Users(address, hello) => {
                (self.dial_one(address, hello, visit).await, false)
            }
            ProbeLogin::Nothing(address) => {
                let reached = match self.tls_for(address) {
                    Ok(tls) => {
                        let limit = self.endpoint.connect_timeout;
                        let reached = upstream::reach(address, tls, limit).await;
                        reached.map_err(OpenError::from)
                    }
                    Err(error) => Err(error),
                };
                return match reached {
                    Ok(stream) => {
                        say_goodbye(stream).await;
                        Found::Answers
                    }
                    Err(error) => Found::Fails(error),
                };
            }
        };
        match dialled {
            Ok(upstream) => {
                say_goodbye(upstream.stream).await;
                Found::Accepts
            }
            Err(OpenError::Upstream(UpstreamError::Rejected { .. })) if !is_everybodys => {
                Found::Answers
            }
            Err(error) => Found::Fails(error),
        }
    }

    /// The login of the session that failed there, as it is now.
    async fn probe_login(
        &self,
        place: &str,
        visit: &Visit,
    ) -> Result<Option<ProbeLogin>, OpenError> {
        let Target::Addresses {
            addresses, login, ..
        } = &self.endpoint.target
        else {
            return self.probe_login_at_node(place, visit);
        };
        let named = addresses
            .iter()
            .find(|address| address.to_string() == place);
        let Some(address) = named.cloned() else {
            return Ok(None);
        };
        Ok(Some(match login {
            Login::Client => ProbeLogin::Nothing(address),
            Login::Fixed {
                user,
                password_file,
            } => {
                let password = self.password.password(password_file).await?;
                ProbeLogin::Everybodys(address, visit.hello.with_login(user, password))
            }
            Login::Command(_) => {
                let recipe = self.recipe(&visit.user, None);
                let issued = recipe.and_then(|recipe| visit.credentials.cached(&recipe));
                match issued {
                    Some(credential) => {
                        let (user, password) = (&credential.user, credential.password.clone());
                        ProbeLogin::Users(address, visit.hello.with_login(user, password))
                    }
                    None => ProbeLogin::Nothing(address),
                }
            }
        }))
    }

    fn probe_login_at_node(
        &self,
        id: &str,
        visit: &Visit,
    ) -> Result<Option<ProbeLogin>, OpenError> {
        let recipe = self.recipe(&visit.user, Some(id));
        let Some(credential) = recipe.and_then(|recipe| visit.credentials.cached(&recipe)) else {
            return Ok(None);
        };
        let (user, password) = (&credential.user, credential.password.clone());
        let hello = visit.hello.with_login(user, password);
        Ok(Some(ProbeLogin::Users(
            self.address_of(&credential)?,
            hello,
        )))
    }
}

/// Ends a connection in order.
pub(super) async fn say_goodbye(mut stream: UpstreamStream) {
    // A kdb+ that does not take it in sees the end all the same.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("probed", &*self.probed())
            .finish_non_exhaustive()
    }
}
