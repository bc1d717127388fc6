//! One connection's story: what the client says, who it is, where it may go, with what login; then
//! the relay, then the record.

pub mod client;
pub(crate) mod explain;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::config::{CertificateName, Endpoint, Errors, ListenAddress, Target, User};
use crate::console;
use crate::credential::Credentials;
use crate::daemon::workers::Workers;
use crate::identity::client_tls::Certificates;
use crate::identity::{Authenticator, Denied, Guess, Peer, PeerError, Penalties, Proof};
use crate::limits::{Door, Exceeded, Limits, Place};
use crate::primitives::lines::LostLines;
pub use crate::primitives::numbers::SessionNumbers;
use crate::primitives::stop::Stopping;
use crate::route::{OpenError, Reached, Route};
use crate::session::client::{ClientStream, HandshakeError};
use crate::session::explain::Explanation;
use crate::session::watch::Watch;
use crate::surface::status::{MemoryRow, Status};
use crate::telemetry::audit::{self, AuditFile, SessionEnd};
use crate::telemetry::end::Explained;
use crate::telemetry::live::{EndOrder, Live, Looks, OpenSession};
use crate::telemetry::opening::{Laps, OpenStage, Opening};
use crate::upstream::{EndpointLoop, Trail, Upstream, UpstreamStream};
use base::error::{ErrorKind, chain, with_fix};
use q_ipc::handshake::{Hello, HelloError, common_capability};
use q_relay::budget::LEAN_DIRECTION;
use q_relay::relay::{self, End, Relay};

/// `fatal(2) protocol_version(70)`: what a TLS client reports at once, instead of waiting.
const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46];
/// What an HTTP client reports.
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 44\r\nConnection: close\r\n\r\nThis port speaks q IPC: dial it with hopen.\n";
/// How long a session that is cut or killed may go on delivering what hopend has received. With
/// [`GOODBYE`] it stays within the grace that a stop gives to sessions that it cuts.
const CUT_DELIVERY: Duration = Duration::from_secs(3);
/// How long a cluster may take to close once its kernel has everything and the end of the stream.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a session that is cut lasts at most.
pub(crate) const CUT_LASTS: Duration = CUT_DELIVERY.saturating_add(GOODBYE);
/// How long a session whose `max_session_time` is over may wait for the answers that it is owed.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// Between two looks at whether a console has answered.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of the first read of a handshake.
const FIRST_READ: usize = 512;

/// What all sessions of the daemon share.
#[derive(Debug)]
pub struct Services {
    /// Tells who a client is.
    pub authenticator: Authenticator,
    /// Slows down those who guess.
    pub penalties: Penalties,
    /// Logins, ready before they are asked for.
    pub credentials: Credentials,
    /// The running sessions.
    pub tasks: TaskTracker,
    /// What they run on, if not on the runtime that accepts them.
    pub workers: Option<Workers>,
    /// Numbers them.
    pub sessions: SessionNumbers,
    /// What is open, and what went wrong last.
    pub live: Live,
    /// Looks at all of it wait for their turn here.
    pub looks: Looks<Status>,
    /// What consoles have listed.
    pub lists: console::Lists,
    /// How much of it anybody may have.
    pub limits: Limits,
    /// Who did what, in a file.
    pub audit: AuditFile,
    /// Counts the lines that the process's log has lost.
    pub lost_log_lines: LostLines,
    /// What repeats has one audit line together.
    pub repeats: audit::Repeats,
}

impl Services {
    /// Everything that the daemon shows of itself. Blocks for as long as it takes to look through
    /// `/proc` for the clients' processes.
    pub fn status(&self) -> Status {
        Status {
            memory: Some(self.memory()),
            ..self.live.status(&self.credentials)
        }
    }

    /// The same, for whoever may not block.
    ///
    /// # Errors
    /// It panicked.
    pub async fn look(self: Arc<Self>) -> Result<Arc<Status>, JoinError> {
        let services = Arc::clone(&self);
        self.looks.take(move || services.status()).await
    }

    /// What the buffers of sessions and handshakes hold.
    pub fn memory(&self) -> MemoryRow {
        let budget = self.limits.memory();
        MemoryRow {
            budget_bytes: budget.limit() as u64,
            used_bytes: budget.used() as u64,
            handshakes_bytes: budget.used_by_handshakes() as u64,
        }
    }
}

/// What one session starts with.
#[derive(Debug)]
pub struct Session {
    /// Where the client came in.
    pub listen: ListenAddress,
    /// Whether others than this host's processes can come in there.
    pub exposed: bool,
    /// Where it leads.
    pub route: Arc<Route>,
    /// What all sessions share.
    pub services: Arc<Services>,
    /// Tells when to end.
    pub stopping: Stopping,
    /// What TLS is spoken with, where it came in over TCP.
    pub tls: Option<Arc<Certificates>>,
    /// Its place as long as nobody knows who it is.
    pub door: Option<Door>,
}

/// Why a session never came to its relay.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The first bytes are no q handshake.
    #[error(transparent)]
    NotQ(#[from] HelloError),
    /// TLS did not come about.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// There is no certificate to show it.
    #[error(
        "the certificate of the endpoint can't be used. Fix: read the log, and run `hopend check`."
    )]
    NoCertificate,
    /// There is too much already.
    #[error(transparent)]
    Limit(#[from] Exceeded),
    /// It took too long over it.
    #[error("the client sent no complete handshake within {} s", .0.as_secs_f32())]
    HelloTimeout(Duration),
    /// It went away before it was through.
    #[error("the client went away before its handshake was complete")]
    Vanished,
    /// The kernel does not say whose connection it is.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Its password could not be checked in time.
    #[error(
        "too many passwords are being checked at once: no turn within {} s. Fix: find out who guesses.",
        .0.as_secs_f32()
    )]
    Crowded(Duration),
    /// It is nobody who may use the endpoint.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// hopend itself is the client, and the session has come through this endpoint before.
    #[error(transparent)]
    Loop(#[from] EndpointLoop),
    /// kdb+ can't be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The daemon stopped before the session was open.
    #[error("hopend is stopping")]
    Stopped,
}

impl Refusal {
    /// Whose side.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Peer(PeerError::Descriptors(_)) => ErrorKind::Internal,
            Self::NotQ(_) | Self::HelloTimeout(_) | Self::Vanished | Self::Peer(_) => {
                ErrorKind::Client
            }
            Self::Handshake(_) => ErrorKind::Client,
            Self::NoCertificate | Self::Loop(_) => ErrorKind::Configuration,
            Self::Limit(_) | Self::Crowded(_) => ErrorKind::Limit,
            Self::Denied(_) => ErrorKind::Denied,
            Self::Open(error) => error.kind(),
            Self::Stopped => ErrorKind::Internal,
        }
    }

    /// A port scan or a health check is no news.
    fn is_noise(&self) -> bool {
        match self {
            Self::Peer(error) => !matches!(error, PeerError::Descriptors(_)),
            _ => matches!(self, Self::Vanished | Self::Handshake(HandshakeError::Gone)),
        }
    }
}

/// Serves one connection from its first byte to its last.
pub async fn serve(client: ClientStream, mut session: Session) {
    let number = session.services.sessions.next();
    let mut record = audit::Record::new(number, &session.route.endpoint().name, &session.listen);
    let mut stopping = session.stopping.clone();
    let (tls, mut door) = (session.tls.take(), session.door.take());
    let mut client = match begin_tls(client, tls.as_ref()).await {
        Ok(client) => client,
        Err(client) => {
            refuse(&session, &record, &Refusal::NoCertificate);
            if let Some(client) = client {
                turn_away(client, &Refusal::NoCertificate).await;
            }
            return;
        }
    };
    let mut caller = None;
    // In a box: what it takes to open a session is gone while the session lasts.
    let opening = Box::pin(open(
        &mut client,
        &session,
        &mut door,
        &mut caller,
        &mut record,
    ));
    let opened = tokio::select! {
        opened = opening => opened,
        () = stopping.cutting() => Err(Refusal::Stopped),
    };
    match opened {
        Ok(behind) => {
            // Whoever is behind it has been identified.
            let Some(caller) = caller else { return };
            let services = &session.services;
            tell_lasting_later(services, record.opened(&services.repeats, &services.audit));
            let live = &services.live;
            let open = live.opened(&record, &caller.user, behind.opening());
            match behind {
                Behind::Kdb(upstream, _) => {
                    relay(client, upstream, &caller, &session, open, &record).await;
                }
                Behind::Console => console(client, &caller, &session, open, &record).await,
            }
        }
        Err(refusal) => {
            let reason = refuse(&session, &record, &refusal);
            match caller {
                Some(caller) if explains(&session, &refusal) => {
                    // Whoever got no place still has the door that others wait for.
                    let timeout = session.route.endpoint().handshake_timeout;
                    let limit = door.as_ref().map_or(Duration::MAX, |_| timeout);
                    explain(client, &caller, (&reason, limit), &session).await;
                }
                _ => turn_away(client, &refusal).await,
            }
        }
    }
}

/// The client's stream, with TLS where the endpoint has it and the client comes over TCP. Else what is
/// left of it, where the endpoint's certificate could never be used.
async fn begin_tls(
    client: ClientStream,
    tls: Option<&Arc<Certificates>>,
) -> Result<ClientStream, Option<ClientStream>> {
    let Some(tls) = tls.filter(|_| client.tcp().is_some()) else {
        return Ok(client);
    };
    match tls.current().await {
        Some(config) => client.with_tls(config).map_err(|_| None),
        None => Err(Some(client)),
    }
}

/// Tells of a refusal; what happened and why.
fn refuse(session: &Session, record: &audit::Record, refusal: &Refusal) -> String {
    let (kind, reason, noise) = (refusal.kind(), chain(refusal), refusal.is_noise());
    let services = &session.services;
    let refusal = (kind, &*reason, noise);
    tell_later(
        services,
        record.refused(refusal, &services.repeats, &services.audit),
    );
    if !noise {
        services.live.refused(record, kind, &reason);
    }
    reason
}

/// Has the line written of what repeats, when it is due.
fn tell_later(services: &Arc<Services>, due: Option<Duration>) {
    let Some(after) = due else { return };
    let services = Arc::clone(services);
    tokio::spawn(async move {
        sleep(after).await;
        services.repeats.tell(&services.audit);
    });
}

/// Has the lines written of sessions that last, as long as there are any to come.
fn tell_lasting_later(services: &Arc<Services>, mut due: Option<Duration>) {
    if due.is_none() {
        return;
    }
    let services = Arc::clone(services);
    tokio::spawn(async move {
        while let Some(after) = due {
            sleep(after).await;
            due = services.repeats.tell_lasting(&services.audit);
        }
    });
}

/// Who answers.
enum Behind {
    /// A cluster, a node, or another kdb+.
    Kdb(Upstream, Opening),
    /// hopend itself.
    Console,
}

impl Behind {
    fn opening(&self) -> Option<&Opening> {
        match self {
            Self::Kdb(_, opening) => Some(opening),
            Self::Console => None,
        }
    }
}

/// A client that has been identified.
struct Caller {
    capability: Option<u8>,
    /// What it sent behind its handshake.
    early: Vec<u8>,
    /// Once it has one.
    place: Option<Place>,
    user: Arc<User>,
    /// When its session ends by itself.
    limits: TimeLimits,
}

/// How long a session may go on.
#[derive(Debug, Clone, Copy)]
struct TimeLimits {
    /// While nobody uses it.
    idle: Option<Duration>,
    /// In all.
    whole: Option<Duration>,
}

impl TimeLimits {
    /// The shorter ones of the endpoint and the user.
    fn of(endpoint: &Endpoint, user: &User) -> Self {
        let shorter = |one: Option<Duration>, other| one.into_iter().chain(other).min();
        Self {
            idle: shorter(endpoint.idle_timeout, user.idle_timeout),
            whole: shorter(endpoint.max_session_time, user.max_session_time),
        }
    }
}

/// Leaves the `caller` behind once it is known who it is, however the rest goes.
async fn open(
    client: &mut ClientStream,
    session: &Session,
    door: &mut Option<Door>,
    caller: &mut Option<Caller>,
    record: &mut audit::Record,
) -> Result<Behind, Refusal> {
    let endpoint = session.route.endpoint();
    let services = &session.services;
    let (begun, laps) = (Instant::now(), Arc::<Laps>::default());
    let limit = endpoint.handshake_timeout;
    let peer = timeout_at(begun + limit, peer_of(client, session.exposed)).await;
    let peer = peer.map_err(|_| Refusal::HelloTimeout(limit))??;
    let account = services.authenticator.account(&peer).await;
    laps.add(OpenStage::Identify, begun.elapsed());
    record.peer(&peer, client.server(), account);
    let mut stopping = session.stopping.clone();
    if let Some(door) = door {
        let admitted = async {
            door.of(&peer, endpoint).await?;
            door.admit(endpoint).await
        };
        let admitted = tokio::select! {
            admitted = admitted => admitted?,
            () = stopping.draining() => return Err(Refusal::Stopped),
        };
        client.charge(admitted);
    }
    let handshake_begun = Instant::now();
    let introduced = laps.time(OpenStage::Handshake, async {
        let names = client.shake_hands().await?;
        let (hello, early) = read_hello(client, endpoint).await?;
        Ok::<_, Refusal>((names, hello, early))
    });
    let introduced = timeout_at(handshake_begun + limit, introduced);
    let (names, hello, early) = tokio::select! {
        introduced = introduced => introduced.unwrap_or(Err(Refusal::HelloTimeout(limit)))?,
        // Who has not said its name yet is nobody to wait for.
        () = stopping.draining() => return Err(Refusal::Stopped),
    };
    let names = names.as_deref();
    record.said(&hello, names);
    let trail = Trail::of(endpoint, client.tcp())?;

    let identified = identify(session, &peer, names, &hello);
    let user = laps.time(OpenStage::Identify, identified).await?;
    record.user(&user, endpoint);
    let known = caller.insert(Caller {
        capability: hello.capability,
        early,
        place: None,
        limits: TimeLimits::of(endpoint, &user),
        user: Arc::clone(&user),
    });
    let place = services.limits.place(endpoint, &user);
    let place = laps.time(OpenStage::Identify, place).await?;
    client.charge(place.memory());
    known.place = Some(place);
    *door = None;

    let (reached, capability) = if let Target::Console { .. } = endpoint.target {
        record.reached(&endpoint.target, None);
        (None, console::CAPABILITY)
    } else {
        let route = &session.route;
        let Reached {
            upstream,
            node,
            warm,
        } = route
            .open(&user, &hello, &services.credentials, &laps, &trail)
            .await?;
        record.reached(upstream.peer, node.as_deref());
        record.warm(warm);
        let capability = upstream.capability;
        (Some((upstream, warm)), capability)
    };

    // By itself: some clients hang when a message arrives in the same read.
    let answer = common_capability(hello.capability, capability);
    client
        .write_all(&[answer])
        .await
        .map_err(|_| Refusal::Vanished)?;
    let took = begun.elapsed();
    let Some((upstream, warm)) = reached else {
        return Ok(Behind::Console);
    };
    // Nobody waits for this.
    let route = &session.route;
    route.keep_warm(&user, hello.capability, &services.credentials);
    Ok(Behind::Kdb(upstream, Opening { took, warm, laps }))
}

async fn peer_of(client: &ClientStream, exposed: bool) -> Result<Peer, PeerError> {
    match client {
        ClientStream::Tcp(stream) => Peer::of_tcp(stream, exposed).await,
        ClientStream::Tls(stream) => Peer::of_tcp(stream.get_ref().0, exposed).await,
        ClientStream::Unix(stream) => Peer::of_unix(stream),
    }
}

async fn read_hello(
    client: &mut ClientStream,
    endpoint: &Endpoint,
) -> Result<(Hello, Vec<u8>), Refusal> {
    let limit = endpoint.max_handshake;
    let mut bytes = Zeroizing::new(Vec::with_capacity(FIRST_READ.min(limit)));
    loop {
        if let Some((hello, used)) = Hello::parse(&bytes, limit)? {
            return Ok((hello, bytes[used..].to_vec()));
        }
        if bytes.len() == bytes.capacity() {
            // Never more than the limit, and wiped where it stood before.
            let mut larger = Vec::with_capacity((bytes.capacity() * 2).min(limit));
            larger.extend_from_slice(&bytes);
            bytes = Zeroizing::new(larger);
        }
        match client.read_buf(&mut *bytes).await {
            Ok(0) | Err(_) => return Err(Refusal::Vanished),
            Ok(_) => {}
        }
    }
}

/// Even a sleep of nothing lasts until the timer's next millisecond.
async fn wait(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// Who this is. Those who give a password wait for others of their origin that do; those who failed
/// before wait first, and those who fail now wait for the answer.
async fn identify(
    session: &Session,
    peer: &Peer,
    certificate: Option<&[CertificateName]>,
    hello: &Hello,
) -> Result<Arc<User>, Refusal> {
    let (services, endpoint) = (&session.services, session.route.endpoint());
    let (penalties, limit) = (&services.penalties, endpoint.handshake_timeout);
    let crowded = |_| Refusal::Crowded(limit);
    let now = || Instant::now().into_std();
    let arrived = now();
    // Until the refusal has been held back, too.
    let _turn = if hello.password.is_empty() {
        None
    } else {
        let turn = timeout(limit, penalties.turn(peer)).await;
        let turn = turn.map_err(crowded)?;
        wait(penalties.delay(peer, now())).await;
        Some(turn)
    };
    let proof = Proof {
        exposed: session.exposed,
        peer,
        certificate,
    };
    let identified = services.authenticator.identify(endpoint, &proof, hello);
    match timeout(limit, identified).await.map_err(crowded)? {
        Ok(user) => {
            penalties.succeeded(peer, &hello.user);
            Ok(user)
        }
        Err(denied) => {
            if denied.guess {
                let guess = Guess {
                    peer,
                    hello,
                    arrived,
                };
                wait(penalties.refused(&guess, now())).await;
            }
            Err(denied.into())
        }
    }
}

/// What the client sees: q reports `'access` for an end of the stream, a connection error for a
/// reset. The reason itself is in the log.
async fn turn_away(mut client: ClientStream, refusal: &Refusal) {
    let answer = match refusal {
        Refusal::NotQ(HelloError::Tls) => TLS_ALERT,
        Refusal::NotQ(HelloError::Http) => HTTP_ANSWER,
        Refusal::Open(error) if !error.is_close_by_kdb() => return client.reset(),
        Refusal::Stopped
        | Refusal::Crowded(_)
        | Refusal::NoCertificate
        | Refusal::Limit(_)
        | Refusal::Peer(PeerError::Descriptors(_))
        | Refusal::Handshake(HandshakeError::NotTls) => return client.reset(),
        // rustls has said why; nothing can be written in the clear.
        Refusal::Handshake(_) => &[],
        _ => &[],
    };
    // The answer fits any socket buffer; a client that is gone does not need it.
    let _ = client.write_all(answer).await;
    client.close().await;
}

/// Whether the client hears the reason in place of kdb+. One that is nobody here never does.
fn explains(session: &Session, refusal: &Refusal) -> bool {
    session.route.endpoint().errors == Errors::Explain
        && matches!(refusal, Refusal::Open(_) | Refusal::Limit(_))
}

async fn explain(
    mut client: ClientStream,
    caller: &Caller,
    (reason, limit): (&str, Duration),
    session: &Session,
) {
    let explanation = Explanation {
        capability: caller.capability,
        early: &caller.early,
        max_message: session.route.endpoint().max_message,
        reason,
    };
    let mut stopping = session.stopping.clone();
    let given = tokio::select! {
        given = timeout(limit, explanation.give(&mut client)) => given.unwrap_or(Ok(())),
        () = stopping.draining() => Ok(()),
    };
    if let Err(error) = given {
        tracing::debug!("the client was not told: {error}");
    }
    client.close().await;
}

async fn relay(
    mut client: ClientStream,
    mut upstream: Upstream,
    caller: &Caller,
    session: &Session,
    mut open: OpenSession,
    record: &audit::Record,
) {
    let endpoint = session.route.endpoint();
    let memory = caller.place.as_ref().map(Place::memory);
    if let Some(memory) = memory {
        upstream.stream.charge(memory);
    }
    let (early, idle_timeout) = (&*caller.early, caller.limits.idle);
    let plan = relay::Plan {
        keepalive: endpoint.keepalive.clone(),
        max_message: endpoint.max_message,
    };
    let end = {
        let meters = Arc::clone(open.meters());
        let mut relay = Relay::new(&mut client, &mut upstream.stream, early, &plan, &meters);
        if let Some(memory) = memory {
            relay.charge(memory);
        }
        let (mut draining, mut cutting) = (session.stopping.clone(), session.stopping.clone());
        let mut told = false;
        let mut finishing = false;
        // Once the client has ended its side of the stream.
        let mut watch: Option<Watch> = None;
        // Looked at when it may be over, rather than moved with every byte.
        let mut look = Instant::now() + idle_timeout.unwrap_or_default();
        // When the session is over, then when its last answers are.
        let mut over = Instant::now() + caller.limits.whole.unwrap_or_default();
        let mut time_up: Option<Duration> = None;
        loop {
            tokio::select! {
                // A request that is here already comes before the end of an idle session.
                biased;
                end = relay.run_until_client_ends() => match end {
                    Some(End::Drained) if !told => {
                        let limit = time_up.unwrap_or_default();
                        break End::TimeUp { limit, cut: false };
                    }
                    Some(end) => break end,
                    None => watch = Some(Watch::since(Instant::now())),
                },
                () = cutting.cutting(), if !finishing => {
                    finishing = true;
                    relay.finish(End::Cut, Instant::now() + CUT_DELIVERY);
                }
                order = open.ordered(), if !finishing => {
                    finishing = true;
                    relay.finish(ordered(order), Instant::now() + CUT_DELIVERY);
                }
                () = sleep_until(over), if caller.limits.whole.is_some() && !finishing => {
                    let limit = caller.limits.whole.unwrap_or_default();
                    if time_up.is_some() {
                        finishing = true;
                        let end = End::TimeUp { limit, cut: true };
                        relay.finish(end, Instant::now() + CUT_DELIVERY);
                    } else {
                        time_up = Some(limit);
                        over = Instant::now() + LAST_ANSWERS;
                        relay.drain();
                    }
                }
                () = sleep_until(look), if idle_timeout.is_some() && !finishing => {
                    let limit = idle_timeout.unwrap_or_default();
                    let left = limit.saturating_sub(meters.idle());
                    if left.is_zero() && relay.is_idle() && relay.has_delivered() {
                        break End::Idle(limit);
                    }
                    look = Instant::now() + if left.is_zero() { limit } else { left };
                }
                () = draining.draining(), if !told => {
                    told = true;
                    relay.drain();
                }
                () = sleep_until(watch.as_ref().map_or(look, Watch::next)), if watch.is_some() => {
                    let Some(watch) = &mut watch else { continue };
                    let (client, upstream) = relay.connections();
                    let gone = watch.look((client, record.met()), upstream);
                    if gone && relay.is_up_to_the_cluster() {
                        break relay.lose_client();
                    }
                }
            }
        }
    };
    report(&end, session, open, record);
    let resets = end.resets_client();
    drop(end);
    // Both sides take their time to notice; neither has to wait for the other.
    if resets {
        client.reset();
        say_goodbye(upstream.stream).await;
    } else {
        tokio::join!(client.close(), say_goodbye(upstream.stream));
    }
}

/// Ends the cluster's stream and closes once the cluster has. What it still says is read: a close over
/// unread input would be a reset, which throws away what its kernel has yet to take.
async fn say_goodbye(mut upstream: UpstreamStream) {
    let goodbye = async {
        // Mostly the relay has done so.
        let _ = upstream.shutdown().await;
        // Within the guarantee of the session, which is charged still.
        let mut ignored = vec![0; LEAN_DIRECTION];
        while upstream.read(&mut ignored).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // A cluster that is gone, or stays, is left either way.
    let _ = timeout(GOODBYE, goodbye).await;
}

/// A session that hopend itself answers.
async fn console(
    mut client: ClientStream,
    caller: &Caller,
    session: &Session,
    mut open: OpenSession,
    record: &audit::Record,
) {
    let endpoint = session.route.endpoint();
    let services = &session.services;
    let status = || Box::pin(Arc::clone(services).look()) as console::Look;
    let dialled = record.server().map(|server| server.ip().to_canonical());
    let meters = Arc::clone(open.meters());
    let visit = console::Visit {
        user: &caller.user.name,
        environment: match &endpoint.target {
            Target::Console { environment } => environment.as_ref(),
            _ => None,
        },
        dialled: dialled.filter(|address| !address.is_loopback()),
        max_message: endpoint.max_message,
        live: &services.live,
        lists: &services.lists,
        status: &status,
        record,
        meters: &meters,
    };
    let mut cutting = session.stopping.clone();
    let end = tokio::select! {
        biased;
        end = console::serve(&visit, &mut client, &caller.early, session.stopping.clone()) => end,
        end = unused(caller.limits.idle, &meters) => end,
        end = time_up(caller.limits.whole, &meters) => end,
        () = cutting.cutting() => End::Cut,
        order = open.ordered() => ordered(order),
    };
    report(&end, session, open, record);
    if end.resets_client() {
        client.reset();
    } else {
        client.close().await;
    }
}

/// Returns when a console has been neither used nor waited for as long as that.
async fn unused(idle_timeout: Option<Duration>, meters: &relay::Meters) -> End {
    let Some(limit) = idle_timeout else {
        return std::future::pending().await;
    };
    loop {
        let left = limit.saturating_sub(meters.idle());
        if left.is_zero() && meters.outstanding() == 0 {
            return End::Idle(limit);
        }
        sleep(if left.is_zero() { limit } else { left }).await;
    }
}

/// How a session ends that is told to.
fn ordered(order: EndOrder) -> End {
    match order {
        EndOrder::Kill { uid } => End::Killed { uid },
        EndOrder::LostAccess(lost) => End::LostAccess(lost.to_string()),
    }
}

/// Returns when a console was open for as long as that and owes no answer.
async fn time_up(limit: Option<Duration>, meters: &relay::Meters) -> End {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    sleep(limit).await;
    let last = Instant::now() + LAST_ANSWERS;
    while meters.outstanding() > 0 {
        if Instant::now() >= last {
            return End::TimeUp { limit, cut: true };
        }
        sleep(LOOK_AGAIN).await;
    }
    End::TimeUp { limit, cut: false }
}

/// The record of a session that is over. What follows it is only tidying up.
fn report(end: &End, session: &Session, open: OpenSession, record: &audit::Record) {
    let reason = with_fix(chain(end), end.remedy().unwrap_or_default());
    let services = &session.services;
    let ended = SessionEnd {
        kind: end.kind(),
        reason: &reason,
        meters: open.meters(),
    };
    tell_later(
        services,
        record.ended(&ended, &services.repeats, &services.audit),
    );
    if let (Some(kind), Some(_)) = (end.kind(), end.remedy()) {
        services.live.failed(record, kind, &reason);
    }
    drop(open);
}
