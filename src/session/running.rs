//! An open session: the relay to kdb+ or the console, its limits, and its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::error::{chain, with_fix};
use finspace::environment::Environment;
use q_relay::budget::{LEAN_DIRECTION, MemoryAccount};
use q_relay::relay::{End, Farewell, Meters, Plan, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::ClientStream;
use super::console_daemon::SessionDaemon;
use super::end::{EndReason, LastResponses};
use super::opening::{Caller, Connection, Opened, Server};
use super::watch::{Watch, WatchedClient};
use super::{CUT_DELIVERY, GOODBYE, Services, Session, write_lasting_later, write_repeats_later};
use crate::config::{Endpoint, User};
use crate::console::{self, ConsoleSession};
use crate::telemetry::audit::{self, SessionEnd};
use crate::telemetry::live::{EndOrder, OpenSession};
use crate::upstream::{Upstream, UpstreamStream};

/// How long a session may wait for its last responses after its `max_session_time`.
const LAST_RESPONSES: Duration = Duration::from_secs(30);
/// How often a console session whose time is over checks whether its last response has been sent.
const RESPONSE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Runs an open session to its end.
pub(super) async fn run(opened: Opened) {
    let Opened {
        connection,
        caller,
        permit,
        server,
    } = opened;
    let Connection {
        client,
        session,
        record,
    } = connection;
    let services = Arc::clone(&session.services);
    let due = record.opened(&services.repeats, &services.audit);
    write_lasting_later(&services, due);
    let open_session = services
        .live
        .opened(&record, &caller.user, server.opening());
    let running = Running {
        limits: TimeLimits::of(session.target.endpoint(), &caller.user),
        client,
        session,
        record,
        caller,
        open_session,
    };
    match server {
        Server::Kdb { mut upstream, .. } => {
            upstream.stream.charge(permit.memory());
            running.relay(upstream, permit.memory()).await;
        }
        Server::Console(environment) => running.console(environment.as_ref()).await,
    }
    // The session keeps its share of the limits until both connections are closed.
    drop(permit);
}

/// A session in progress.
struct Running {
    client: ClientStream,
    session: Session,
    record: audit::AuditRecord,
    caller: Caller,
    /// The session's row in the daemon's list of open sessions.
    open_session: OpenSession,
    limits: TimeLimits,
}

/// The time limits of a session.
#[derive(Debug, Clone, Copy)]
struct TimeLimits {
    /// The longest time without use, `idle_timeout`.
    idle: Option<Duration>,
    /// The longest time from its start to its end, `max_session_time`.
    total: Option<Duration>,
}

impl TimeLimits {
    /// For each limit, the shorter one of the endpoint's and the user's.
    fn of(endpoint: &Endpoint, user: &User) -> Self {
        let shorter = |one: Option<Duration>, other| one.into_iter().chain(other).min();
        Self {
            idle: shorter(endpoint.idle_timeout, user.idle_timeout),
            total: shorter(endpoint.max_session_time, user.max_session_time),
        }
    }
}

/// The progress of a session towards its `max_session_time`.
#[derive(Debug, Clone, Copy)]
enum SessionTime {
    Unlimited,
    /// The client may send requests until this time.
    Running {
        limit: Duration,
        until: Instant,
    },
    /// The session waits for its last responses until this time.
    LastResponses {
        limit: Duration,
        until: Instant,
    },
}

impl SessionTime {
    fn of(limit: Option<Duration>) -> Self {
        limit.map_or(Self::Unlimited, |limit| Self::Running {
            limit,
            until: Instant::now() + limit,
        })
    }

    fn deadline(&self) -> Option<Instant> {
        match *self {
            Self::Unlimited => None,
            Self::Running { until, .. } | Self::LastResponses { until, .. } => Some(until),
        }
    }
}

/// The `idle_timeout` of a session. hopend checks the session at the earliest time at which the timeout may
/// be over, because moving a timer with each byte would cost more.
#[derive(Debug, Clone, Copy)]
struct IdleTime {
    limit: Duration,
    next_check: Instant,
}

impl IdleTime {
    fn of(limit: Duration) -> Self {
        Self {
            limit,
            next_check: Instant::now() + limit,
        }
    }

    /// Whether the client has not used the session for the whole time. Schedules the next check.
    fn is_over(&mut self, meters: &Meters) -> bool {
        let left = self.limit.saturating_sub(meters.idle());
        let pause = if left.is_zero() { self.limit } else { left };
        self.next_check = Instant::now() + pause;
        left.is_zero()
    }
}

impl Running {
    /// Relays between the client and kdb+, then closes both connections.
    async fn relay(mut self, mut upstream: Upstream, memory: &Arc<MemoryAccount>) {
        let end = self.relay_until_end(&mut upstream.stream, memory).await;
        let farewell = end.farewell();
        let client = self.end(&end);
        drop(end);
        // The client and kdb+ may each take a while to close, so hopend closes both connections at the same
        // time.
        match farewell {
            Farewell::Reset => {
                client.reset();
                close_upstream(upstream.stream).await;
            }
            Farewell::EndOfStream => {
                tokio::join!(client.close(), close_upstream(upstream.stream));
            }
        }
    }

    async fn relay_until_end(
        &mut self,
        upstream: &mut UpstreamStream,
        memory: &Arc<MemoryAccount>,
    ) -> EndReason {
        let endpoint = self.session.target.endpoint();
        let plan = Plan {
            keepalive: endpoint.keepalive.clone(),
            max_message: endpoint.max_message,
        };
        let meters = Arc::clone(self.open_session.meters());
        let early = &self.caller.early;
        let mut relay = Relay::new(&mut self.client, upstream, early, &plan, &meters);
        relay.charge(memory);
        let stopping = &self.session.stopping;
        let (mut draining, mut cutting) = (stopping.clone(), stopping.clone());
        let mut daemon_stops = false;
        let mut idle = self.limits.idle.map(IdleTime::of);
        let mut time = SessionTime::of(self.limits.total);
        // Set once the client has ended its sending side.
        let mut watch: Option<Watch> = None;
        let finish = loop {
            let client_has_ended = watch.is_some();
            let relayed = async {
                if client_has_ended {
                    Some(relay.run().await)
                } else {
                    relay.run_until_client_ends().await
                }
            };
            tokio::select! {
                // The relay comes first, so that a request that has just arrived keeps an idle session open.
                biased;
                end = relayed => match (end, time) {
                    (Some(End::Drained), SessionTime::LastResponses { limit, .. })
                        if !daemon_stops =>
                    {
                        return EndReason::TimeUp { limit, responses: LastResponses::Received };
                    }
                    (Some(end), _) => return end.into(),
                    (None, _) => watch = Some(Watch::since(Instant::now())),
                },
                () = cutting.cutting() => break EndReason::Cut,
                order = self.open_session.end_ordered() => break EndReason::from(order),
                () = sleep_until_some(time.deadline()) => match time {
                    SessionTime::LastResponses { limit, .. } => {
                        break EndReason::TimeUp { limit, responses: LastResponses::Missing };
                    }
                    SessionTime::Running { limit, until } => {
                        let until = until + LAST_RESPONSES;
                        time = SessionTime::LastResponses { limit, until };
                        relay.drain();
                    }
                    SessionTime::Unlimited => {}
                },
                () = sleep_until_some(idle.map(|idle| idle.next_check)) => {
                    if let Some(idle) = &mut idle
                        && idle.is_over(&meters)
                        && relay.is_idle()
                        && relay.has_delivered(Instant::now())
                    {
                        return EndReason::Idle(idle.limit);
                    }
                }
                () = draining.draining(), if !daemon_stops => {
                    daemon_stops = true;
                    relay.drain();
                }
                () = sleep_until_some(watch.as_ref().map(Watch::next)) => {
                    let Some(watch) = &mut watch else { continue };
                    let (stream, upstream) = relay.connections();
                    let peer = self.record.peer();
                    let gone = watch.check(WatchedClient { stream, peer }, upstream);
                    if gone && relay.waits_for_kdb_only() {
                        return relay.lose_client().into();
                    }
                }
            }
        };
        // The session ends, but the client and kdb+ still receive the bytes that hopend holds for them.
        relay.finish(finish.farewell(), Instant::now() + CUT_DELIVERY);
        match relay.run().await {
            End::Finished(_) => finish,
            end => end.into(),
        }
    }

    /// Answers the client's requests as a console, then closes the connection.
    async fn console(mut self, environment: Option<&Arc<Environment>>) {
        let services = &self.session.services;
        let endpoint = self.session.target.endpoint();
        let daemon = SessionDaemon {
            services,
            record: &self.record,
        };
        let dialled = self.record.server();
        let dialled = dialled.map(|server| server.ip().to_canonical());
        let meters = Arc::clone(self.open_session.meters());
        let console = ConsoleSession {
            number: self.record.session(),
            user: &self.caller.user.name,
            environment,
            dialled: dialled.filter(|address| !address.is_loopback()),
            max_message: endpoint.max_message,
            daemon: &daemon,
            discovery: &services.discovery,
            meters: &meters,
        };
        let stopping = &self.session.stopping;
        let mut cutting = stopping.clone();
        let (client, early) = (&mut self.client, &self.caller.early);
        let end = tokio::select! {
            biased;
            end = console::serve(&console, client, early, stopping.clone()) => end.into(),
            end = unused(self.limits.idle, &meters) => end,
            end = time_up(self.limits.total, &meters) => end,
            () = cutting.cutting() => EndReason::Cut,
            order = self.open_session.end_ordered() => order.into(),
        };
        let client = self.end(&end);
        match end.farewell() {
            Farewell::Reset => client.reset(),
            Farewell::EndOfStream => client.close().await,
        }
    }

    /// Records the end of the session. Returns the client's connection, which the caller has to close.
    fn end(self, end: &EndReason) -> ClientStream {
        let remedy = end.remedy();
        let reason = with_fix(chain(end), remedy.unwrap_or_default());
        let services: &Arc<Services> = &self.session.services;
        let ended = SessionEnd {
            kind: end.kind(),
            reason: &reason,
            meters: self.open_session.meters(),
        };
        let due = self
            .record
            .ended(&ended, &services.repeats, &services.audit);
        write_repeats_later(services, due);
        if let (Some(kind), Some(_)) = (end.kind(), remedy) {
            services.live.failed(&self.record, kind, &reason);
        }
        self.client
    }
}

impl From<EndOrder> for EndReason {
    fn from(order: EndOrder) -> Self {
        match order {
            EndOrder::Kill { uid } => Self::Killed { uid },
            EndOrder::LostAccess(lost) => Self::LostAccess(lost.to_string()),
        }
    }
}

/// Sleeps until `moment`. Never returns if it is None.
async fn sleep_until_some(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Sends the end of the stream to kdb+, and closes the connection after kdb+ has. hopend reads what kdb+
/// still sends: a close with unread input would be a reset, which discards bytes that kdb+'s kernel has not
/// acknowledged.
async fn close_upstream(mut upstream: UpstreamStream) {
    let close = async {
        // In most cases the relay has already sent the end of the stream, and this call does nothing.
        let _ = upstream.shutdown().await;
        // The session's share of the memory budget, which it still has, covers this buffer.
        let mut ignored = vec![0; LEAN_DIRECTION];
        while upstream.read(&mut ignored).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // After an error or a timeout, hopend closes the connection all the same.
    let _ = timeout(GOODBYE, close).await;
}

/// Returns once the client has not used a console for `idle_timeout` and no request is outstanding. Never
/// returns without an `idle_timeout`.
async fn unused(idle_timeout: Option<Duration>, meters: &Meters) -> EndReason {
    let Some(limit) = idle_timeout else {
        return std::future::pending().await;
    };
    let mut idle = IdleTime::of(limit);
    loop {
        sleep_until(idle.next_check).await;
        if idle.is_over(meters) && meters.outstanding() == 0 {
            return EndReason::Idle(limit);
        }
    }
}

/// Returns once a console has been open for `max_session_time` and no request is outstanding, or
/// [`LAST_RESPONSES`] later. Never returns without a `max_session_time`.
async fn time_up(limit: Option<Duration>, meters: &Meters) -> EndReason {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    sleep(limit).await;
    let last = Instant::now() + LAST_RESPONSES;
    while meters.outstanding() > 0 {
        if Instant::now() >= last {
            let responses = LastResponses::Missing;
            return EndReason::TimeUp { limit, responses };
        }
        sleep(RESPONSE_CHECK_INTERVAL).await;
    }
    let responses = LastResponses::Received;
    EndReason::TimeUp { limit, responses }
}
