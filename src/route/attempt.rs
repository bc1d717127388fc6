//! Attempts to log in at the addresses of an endpoint: they overlap where one takes its time, and the
//! first that answers is kept.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::health::Concerns;
use super::pace::LONGEST_HEAD_START;
use super::places::LoginOf;
use super::tried::Tried;
use super::{LoggedIn, OpenError, Opened, Purpose, Route, Visit};
use crate::credential::Retry;
use crate::primitives::race::{Late, Race, RaceEvent};
use crate::upstream::{Upstream, UpstreamError};
use base::address::Address;
use base::error::{ErrorKind, chain};
use q_ipc::handshake::Hello;

/// One attempt, which needs nobody to wait for it: a session that was served elsewhere leaves it to the
/// prober.
pub(super) struct Attempt {
    pub(super) place: String,
    /// The place, as messages name it.
    label: String,
    work: BoxFuture<'static, Result<Opened, OpenError>>,
}

/// A node that is tried, and where it is told that it takes its time.
pub(super) struct NodeAttempt {
    pub(super) id: String,
    pub(super) late: Late,
}

/// What is said to an address, whichever it is.
pub(super) struct Said {
    pub(super) hello: Hello,
    pub(super) login: LoggedIn,
}

/// How an attempt ended.
pub(super) struct AttemptEnded {
    /// The address or the node, as messages name it.
    label: String,
    opened: Result<Opened, OpenError>,
}

impl Future for Attempt {
    type Output = AttemptEnded;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.work.poll_unpin(context).map(|opened| AttemptEnded {
            label: std::mem::take(&mut self.label),
            opened,
        })
    }
}

impl AttemptEnded {
    /// The connection, if there is one.
    pub(super) fn opened(self) -> Option<Opened> {
        self.opened.ok()
    }
}

impl Route {
    /// The first place that answers. Each has a head start on the next one; a failure starts the next at
    /// once. Where AWS, or the cluster, gives no login for one node, asking for each of the others in
    /// turn would add up: those go on whose login `is_ready`.
    pub(super) async fn first_of<P>(
        self: &Arc<Self>,
        places: Vec<P>,
        visit: &Arc<Visit>,
        attempt: impl Fn(P, Late) -> Attempt,
        is_ready: impl Fn(&P) -> bool,
    ) -> Result<Opened, OpenError> {
        let mut race = Race::new();
        let mut waiting = places.into_iter();
        let mut tried = Tried::default();
        let mut without_login = false;
        if let Some(first) = waiting.next() {
            race.begin(attempt(first, race.late()));
        }
        while let Some(event) = race.next().await {
            match event {
                RaceEvent::Ended(AttemptEnded {
                    label,
                    opened: Err(error),
                }) if !self.is_final(&error) => {
                    without_login |= matches!(
                        &error,
                        OpenError::Credential(why) if why.retry == Retry::Soon
                    );
                    match error {
                        OpenError::Upstream(UpstreamError::Rejected { .. }) => {
                            tried.refused(&label, error);
                        }
                        _ => tried.failed(&label, error),
                    }
                }
                RaceEvent::Ended(ended) => {
                    let slow = race.under_way();
                    for slow in slow.filter(|slow| self.places.rests(&slow.place)) {
                        self.prober.take_over(self, slow, visit);
                    }
                    return ended.opened;
                }
                RaceEvent::Late => {}
            }
            if let Some(next) = waiting.find(|next| !without_login || is_ready(next)) {
                race.begin(attempt(next, race.late()));
            }
        }
        Err(tried.into_error())
    }

    pub(super) fn attempt_at_address(
        self: &Arc<Self>,
        address: Address,
        said: &Arc<Said>,
        visit: &Arc<Visit>,
        late: Late,
    ) -> Attempt {
        let place = address.to_string();
        let (route, said, visit) = (Arc::clone(self), Arc::clone(said), Arc::clone(visit));
        let work = async move { route.open_address(&address, &said, &visit, &late).await };
        Attempt {
            label: place.clone(),
            place,
            work: work.boxed(),
        }
    }

    pub(super) fn attempt_at_node(
        self: &Arc<Self>,
        node: NodeAttempt,
        visit: &Arc<Visit>,
    ) -> Attempt {
        let place = node.id.clone();
        let (route, visit) = (Arc::clone(self), Arc::clone(visit));
        let work = async move { route.open_node(&node, &visit).await };
        Attempt {
            label: format!("node {place}"),
            place,
            work: work.boxed(),
        }
    }

    /// One address, and what comes of it.
    async fn open_address(
        self: &Arc<Self>,
        address: &Address,
        said: &Said,
        visit: &Arc<Visit>,
        late: &Late,
    ) -> Result<Opened, OpenError> {
        let (place, user) = (address.to_string(), &visit.user.name);
        self.places.trying(&place, user);
        let login = match said.login {
            LoggedIn::Fixed(_) => LoginOf::Endpoint,
            LoggedIn::Client | LoggedIn::Issued(..) => LoginOf::User(user),
        };
        let (begun, dial) = (Instant::now(), self.dial_one(address, &said.hello, visit));
        let dialled = self
            .with_head_start(&place, login, late, visit.purpose, dial)
            .await;
        let judged = self.judged(address, said, visit, dialled);
        let error = match judged.await {
            Ok(upstream) => {
                self.places.succeeded(&place, user);
                return Ok(Opened {
                    upstream,
                    node: None,
                    place: Some(place),
                    login: said.login.clone(),
                });
            }
            Err(error) => error,
        };
        match (&error, &said.login) {
            (OpenError::Upstream(UpstreamError::Descriptors { .. }), _)
            | (OpenError::Upstream(UpstreamError::Capability { .. }), _)
            | (OpenError::Upstream(UpstreamError::Rejected { .. }), LoggedIn::Client) => {
                self.places.turned_away(&place, user);
            }
            (OpenError::Upstream(UpstreamError::Rejected { .. }), LoggedIn::Issued(..))
            // What the client itself sent may have been too much for kdb+.
            | (OpenError::Upstream(UpstreamError::Login { .. }), LoggedIn::Client) => {
                self.failed(&place, Concerns::User(user), &error, visit);
            }
            _ => {
                let concerns = self.places.concerned(&place, login, begun);
                self.failed(&place, concerns, &error, visit);
            }
        }
        Err(error)
    }

    /// One node, and what comes of it.
    async fn open_node(
        self: &Arc<Self>,
        node: &NodeAttempt,
        visit: &Arc<Visit>,
    ) -> Result<Opened, OpenError> {
        let (id, user) = (&node.id, &visit.user.name);
        self.places.trying(id, user);
        let begun = Instant::now();
        let opened = self.open_issued(Some(node), visit).await;
        match &opened {
            Ok(_) => self.places.succeeded(id, user),
            // The node did nothing, or would serve another client.
            Err(OpenError::Upstream(
                UpstreamError::Descriptors { .. } | UpstreamError::Capability { .. },
            )) => {
                self.places.turned_away(id, user);
            }
            Err(error) => {
                // A login that is not given, or not taken, may be this user's trouble alone.
                let concerns = match error {
                    OpenError::Upstream(error) if error.kind() == ErrorKind::Upstream => {
                        self.places.concerned(id, LoginOf::User(user), begun)
                    }
                    _ => Concerns::User(user),
                };
                self.failed(id, concerns, error, visit);
                if let Some(nodes) = &self.nodes {
                    nodes.doubt();
                }
            }
        }
        opened
    }

    /// A dial at one of several places: the others are tried, too, when it has had its head start.
    pub(super) async fn with_head_start(
        &self,
        place: &str,
        login: LoginOf<'_>,
        late: &Late,
        purpose: Purpose,
        dial: impl Future<Output = Result<Upstream, OpenError>>,
    ) -> Result<Upstream, OpenError> {
        let begun = Instant::now();
        let head_start = match purpose {
            Purpose::Session => self.places.head_start(),
            // Nobody waits, and a login more is one more to kdb+.
            Purpose::Keeping => self
                .places
                .head_start()
                .map(|it| it.max(LONGEST_HEAD_START)),
        };
        let dialled = match head_start {
            Some(head_start) => {
                let when = || self.places.late(place, login, begun);
                late.after(head_start, dial, when).await
            }
            None => dial.await,
        };
        if dialled.is_ok() {
            self.places.took(begun.elapsed());
        }
        dialled
    }

    /// Whether another address would fare no better: hopend itself lacks something, or the client's own
    /// login is wrong, and trying it elsewhere would look like guessing.
    fn is_final(&self, error: &OpenError) -> bool {
        match error {
            OpenError::Upstream(UpstreamError::Descriptors { .. }) => true,
            OpenError::Upstream(UpstreamError::Rejected { .. }) => self.passes_on_logins(),
            _ => false,
        }
    }

    /// A place did not take a session: where there are others it is probed until it does.
    fn failed(
        self: &Arc<Self>,
        place: &str,
        concerns: Concerns<'_>,
        error: &OpenError,
        visit: &Arc<Visit>,
    ) {
        self.places.failed(place, concerns, &chain(error));
        if concerns == Concerns::Everybody && self.places.head_start().is_some() {
            self.prober.watch(self, place, visit);
        }
    }
}
