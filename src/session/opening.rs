//! The three steps from a connection to an open session. An [`Accepted`] connection becomes [`Identified`],
//! then [`Admitted`], then [`Opened`]. Each step consumes the value before it, and can refuse the client.

use std::sync::Arc;
use std::time::Duration;

use finspace::environment::Environment;
use q_ipc::handshake::{Hello, common_capability};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zeroize::Zeroizing;

use super::Session;
use super::client::ClientStream;
use super::refusal::Refusal;
use super::refused::{LimitShare, Refused, RefusedClient};
use crate::config::{Endpoint, User};
use crate::console;
use crate::identity::{Guess, Peer, PeerError, Proof};
use crate::limits::{HandshakePermit, SessionPermit};
use crate::primitives::opening::{Laps, OpenStage, Opening};
use crate::route::{KdbConnection, PreparedTarget};
use crate::telemetry::audit;
use crate::upstream::{DialledEndpoints, Upstream};

/// The first length of the buffer for a handshake, in bytes. The buffer grows up to `max_handshake`.
const FIRST_READ: usize = 512;

/// A client's connection, the session that it asks for, and the record of both.
pub(super) struct Connection {
    pub(super) client: ClientStream,
    pub(super) session: Session,
    pub(super) record: audit::AuditRecord,
}

/// A connection whose client hopend has not identified yet.
pub(super) struct Accepted {
    connection: Connection,
    /// The permit of a client that hopend has not identified yet. None if the number of such clients has no
    /// limit.
    handshake: Option<HandshakePermit>,
    times: OpeningTimes,
}

/// A connection whose client is a user of the endpoint.
struct Identified {
    connection: Connection,
    handshake: Option<HandshakePermit>,
    times: OpeningTimes,
    introduction: Introduction,
}

/// A connection of a user within the user's limits.
struct Admitted {
    connection: Connection,
    times: OpeningTimes,
    introduction: Introduction,
    permit: SessionPermit,
}

/// An open session.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) caller: Caller,
    /// The session's share of the limits. Its drop gives the share back.
    pub(super) permit: SessionPermit,
    pub(super) server: Server,
}

/// Which process answers the session's requests.
pub(super) enum Server {
    /// kdb+.
    Kdb {
        upstream: Upstream,
        opening: Opening,
    },
    /// hopend itself, which lists the clusters of this environment.
    Console(Option<Arc<Environment>>),
}

/// A user whose client hopend has identified.
pub(super) struct Caller {
    pub(super) user: Arc<User>,
    /// The capability byte of the client's handshake.
    pub(super) capability: Option<u8>,
    /// The bytes that the client sent after its handshake.
    pub(super) early: Vec<u8>,
}

/// The start of the opening, and the durations of its stages.
struct OpeningTimes {
    begun: Instant,
    laps: Arc<Laps>,
}

/// An identified client, its handshake, and the endpoints through which its connection has passed. The client
/// can be a hopend itself: then the connection has passed an endpoint of that hopend.
struct Introduction {
    caller: Caller,
    hello: Hello,
    trail: Arc<DialledEndpoints>,
}

impl Accepted {
    /// Begins a session. On an endpoint with TLS, a client over TCP has to use TLS. A client over a Unix
    /// socket does not.
    pub(super) async fn begin(client: ClientStream, mut session: Session) -> Result<Self, Refused> {
        let number = session.services.sessions.next();
        let name = &session.target.endpoint().name;
        let record = audit::AuditRecord::new(number, name, &session.listen);
        let (tls, handshake) = (session.tls.take(), session.handshake.take());
        let begun = match tls.filter(|_| client.tcp().is_some()) {
            None => Ok(client),
            Some(tls) => match tls.current().await {
                Some(config) => client.with_tls(config),
                None => Err(client),
            },
        };
        let connection = |client| Connection {
            client,
            session,
            record,
        };
        match begun {
            Ok(client) => Ok(Self {
                connection: connection(client),
                handshake,
                times: OpeningTimes {
                    begun: Instant::now(),
                    laps: Arc::default(),
                },
            }),
            Err(client) => Err(Refused {
                connection: connection(client),
                refusal: Refusal::NoCertificate,
                client: RefusedClient::Unknown(handshake),
            }),
        }
    }

    /// Opens the session.
    pub(super) async fn open(self) -> Result<Opened, Refused> {
        self.identify().await?.admit().await?.reach().await
    }

    /// Identifies the client as a user of the endpoint.
    async fn identify(mut self) -> Result<Identified, Refused> {
        let mut stopping = self.connection.session.stopping.clone();
        let introduced = tokio::select! {
            introduced = self.introduce() => introduced,
            () = stopping.cutting() => Err(Refusal::Stopped),
        };
        match introduced {
            Ok(introduction) => Ok(Identified {
                connection: self.connection,
                handshake: self.handshake,
                times: self.times,
                introduction,
            }),
            Err(refusal) => Err(Refused {
                connection: self.connection,
                refusal,
                client: RefusedClient::Unknown(self.handshake),
            }),
        }
    }

    async fn introduce(&mut self) -> Result<Introduction, Refusal> {
        let Connection {
            client,
            session,
            record,
        } = &mut self.connection;
        let endpoint = session.target.endpoint();
        let services = &session.services;
        let OpeningTimes { begun, laps } = &self.times;
        let limit = endpoint.handshake_timeout;
        let peer = timeout_at(*begun + limit, peer_of(client, session.exposed)).await;
        let peer = peer.map_err(|_| Refusal::HelloTimeout(limit))??;
        let account = services.authenticator.account(&peer).await;
        laps.add(OpenStage::Identify, begun.elapsed());
        record.set_peer(&peer, client.server(), account);
        let mut stopping = session.stopping.clone();
        if let Some(permit) = &mut self.handshake {
            let reserved = async {
                permit.assign(&peer, endpoint).await?;
                permit.reserve_memory(endpoint).await
            };
            let memory = tokio::select! {
                reserved = reserved => reserved?,
                () = stopping.draining() => return Err(Refusal::Stopped),
            };
            client.charge(memory);
        }
        let handshake_begun = Instant::now();
        let handshake = laps.time(OpenStage::Handshake, async {
            let names = client.shake_hands().await?;
            let (hello, early) = read_hello(client, endpoint).await?;
            Ok::<_, Refusal>((names, hello, early))
        });
        let handshake = timeout_at(handshake_begun + limit, handshake);
        let (names, hello, early) = tokio::select! {
            handshake = handshake => handshake.unwrap_or(Err(Refusal::HelloTimeout(limit)))?,
            // A draining daemon does not wait for a client that it has not identified.
            () = stopping.draining() => return Err(Refusal::Stopped),
        };
        let names = names.as_deref();
        record.set_hello(&hello, names);
        let trail = DialledEndpoints::of(endpoint, client.tcp())?;
        let proof = Proof {
            exposed: session.exposed,
            peer: &peer,
            certificate: names,
        };
        let identified = identify(session, &proof, &hello);
        let user = laps.time(OpenStage::Identify, identified).await?;
        record.set_user(&user, endpoint);
        Ok(Introduction {
            caller: Caller {
                user,
                capability: hello.capability,
                early,
            },
            hello,
            trail,
        })
    }
}

impl Identified {
    /// Takes the session's share of the user's limits.
    async fn admit(mut self) -> Result<Admitted, Refused> {
        let Connection {
            client, session, ..
        } = &mut self.connection;
        let endpoint = session.target.endpoint();
        let user = &self.introduction.caller.user;
        let permit = session.services.limits.session_permit(endpoint, user);
        let permit = self.times.laps.time(OpenStage::Identify, permit);
        let mut stopping = session.stopping.clone();
        let permit = tokio::select! {
            permit = permit => permit.map_err(Refusal::from),
            () = stopping.cutting() => Err(Refusal::Stopped),
        };
        match permit {
            Ok(permit) => {
                client.charge(permit.memory());
                Ok(Admitted {
                    connection: self.connection,
                    times: self.times,
                    introduction: self.introduction,
                    permit,
                })
            }
            Err(refusal) => Err(Refused {
                connection: self.connection,
                refusal,
                client: RefusedClient::User {
                    caller: self.introduction.caller,
                    share: LimitShare::Handshake(self.handshake),
                },
            }),
        }
    }
}

impl Admitted {
    /// Opens a connection to kdb+ and logs in, or takes a connection that is ready. Then answers the client's
    /// handshake.
    async fn reach(mut self) -> Result<Opened, Refused> {
        let mut stopping = self.connection.session.stopping.clone();
        let reached = tokio::select! {
            reached = self.answer_handshake() => reached,
            () = stopping.cutting() => Err(Refusal::Stopped),
        };
        let caller = self.introduction.caller;
        match reached {
            Ok(server) => Ok(Opened {
                connection: self.connection,
                caller,
                permit: self.permit,
                server,
            }),
            Err(refusal) => Err(Refused {
                connection: self.connection,
                refusal,
                client: RefusedClient::User {
                    caller,
                    share: LimitShare::Session(self.permit),
                },
            }),
        }
    }

    async fn answer_handshake(&mut self) -> Result<Server, Refusal> {
        let Connection {
            client,
            session,
            record,
        } = &mut self.connection;
        let Introduction {
            caller,
            hello,
            trail,
        } = &self.introduction;
        let route = match &*session.target {
            PreparedTarget::Kdb(route) => route,
            PreparedTarget::Console(console) => {
                record.set_target(&session.target.endpoint().target, None);
                accept(client, hello, console::CAPABILITY).await?;
                return Ok(Server::Console(console.environment().cloned()));
            }
        };
        let credentials = &session.services.credentials;
        let OpeningTimes { begun, laps } = &self.times;
        let KdbConnection {
            upstream,
            node,
            warm,
        } = route
            .open(&caller.user, hello, credentials, laps, trail)
            .await?;
        record.set_target(upstream.peer, node.as_deref());
        record.set_warm(warm);
        accept(client, hello, upstream.capability).await?;
        let took = begun.elapsed();
        // Prepares the next connection in the background, so the client does not wait for it.
        route.keep_warm(&caller.user, hello.capability, credentials);
        let laps = Arc::clone(laps);
        Ok(Server::Kdb {
            upstream,
            opening: Opening { took, warm, laps },
        })
    }
}

impl Server {
    /// How long the opening took. None for a console, which opens at once.
    pub(super) fn opening(&self) -> Option<&Opening> {
        match self {
            Self::Kdb { opening, .. } => Some(opening),
            Self::Console(_) => None,
        }
    }
}

async fn peer_of(client: &ClientStream, exposed: bool) -> Result<Peer, PeerError> {
    match client {
        ClientStream::Tcp(stream) => Peer::of_tcp(stream, exposed).await,
        ClientStream::Tls(stream) => Peer::of_tcp(stream.get_ref().0, exposed).await,
        ClientStream::Unix(stream) => Peer::of_unix(stream),
    }
}

/// Reads the client's q handshake, and returns it with the bytes after it.
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
            // `Zeroizing` wipes the old memory, which may hold a part of the password.
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

/// Answers the client's handshake. The byte goes out alone: some clients hang if a message arrives in the
/// same read.
async fn accept(
    client: &mut ClientStream,
    hello: &Hello,
    server_capability: u8,
) -> Result<(), Refusal> {
    let answer = common_capability(hello.capability, server_capability);
    let written = client.write_all(&[answer]).await;
    written.map_err(|_| Refusal::Vanished)
}

/// Identifies the user by the client's proofs, such as its password or its certificate.
///
/// hopend checks the passwords of clients of the same origin one after the other. After wrong passwords
/// from an origin, its clients wait before the check. A client with a wrong password also waits for its
/// refusal.
async fn identify(
    session: &Session,
    proof: &Proof<'_>,
    hello: &Hello,
) -> Result<Arc<User>, Refusal> {
    let (services, endpoint) = (&session.services, session.target.endpoint());
    let (penalties, limit) = (&services.penalties, endpoint.handshake_timeout);
    let (peer, crowded) = (proof.peer, |_| Refusal::Crowded(limit));
    let now = || Instant::now().into_std();
    let arrived = now();
    // The turn lasts until the end of this function, so a delayed refusal also delays the next check.
    let _turn = if hello.password.is_empty() {
        None
    } else {
        let turn = timeout(limit, penalties.turn(peer)).await;
        let turn = turn.map_err(crowded)?;
        sleep_unless_zero(penalties.delay(peer, now())).await;
        Some(turn)
    };
    let identified = services.authenticator.identify(endpoint, proof, hello);
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
                sleep_unless_zero(penalties.refused(&guess, now())).await;
            }
            Err(denied.into())
        }
    }
}

/// Sleeps for `time`. Returns at once if it is zero: a tokio sleep of zero lasts up to a millisecond.
async fn sleep_unless_zero(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
