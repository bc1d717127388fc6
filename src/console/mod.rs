//! An endpoint of `kind = "console"`: hopend itself answers, with what it knows as q tables and with
//! the `.aws` functions that a q process has on a FinSpace cluster.
//!
//! | request | columns (q types) |
//! |---|---|
//! | `endpoints` | name s, listen C, unbound C, target C, sessions j, max_sessions j, opened j, refused j |
//! | `places` | endpoint s, place C, zone s, resting n, reason C |
//! | `sessions` | session j, endpoint s, user s, account s, pid j, program C, client C, target C, node C, since p, idle n, bytes_up j, bytes_down j, messages_up j, messages_down j, outstanding j, pings j |
//! | `credentials` | user s, endpoints C, what C, age n, left n, refresh n, fetches j, last_error C |
//! | `errors` | time p, endpoint s, user s, side s, message C, times j |
//! | `.aws.list_kx_clusters[]` | cluster_name C, status C, cluster_type C, description C |
//! | `.aws.list_kx_cluster_nodes[cluster]` | node_id C, az_id C, launch_time p |
//!
//! A pid, zone or time that is not known is null. `.aws.get_kx_connection_string[cluster]` and
//! `.aws.get_kx_node_connection_string[cluster;node]` answer with the address of the local endpoint
//! that leads there, for hopen: `:localhost:5010`. The columns of the `.aws` functions are
//! FinSpace's own; their lists are made with the daemon's credentials and kept for ten seconds.
//!
//! A user with `console = true` is shown everybody's rows and every cluster; others their own
//! sessions, credentials and errors, the endpoints that they may use, and the clusters that those
//! lead to. What a request may not see is answered as what is not there.
//!
//! Requests are answered in order. Async messages are counted, and do nothing.

mod address;
mod lists;
mod request;
mod tables;
#[cfg(test)]
mod tests;
mod viewer;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout};

use crate::credential::FetchError;
use crate::primitives::shutdown::ShutdownReceiver;
use crate::telemetry::audit::AuditRecord;
use crate::telemetry::live::Live;
use crate::telemetry::status::Status;
use finspace::environment::Environment;
use finspace::{Cluster, q_api};
pub use lists::{Listed, Lists};
use q_ipc::compress::decompress;
use q_ipc::frame::{HEADER_LEN, Header, HeaderError, MessageType};
use q_ipc::message::{error_response, message};
use q_ipc::value::{Table, Value, decode_message};
use q_relay::relay::{ClientPosition, End, Meters};
use request::Request;
use viewer::Viewer;

/// The newest form of the protocol, as kdb+ 4 has it.
pub const CAPABILITY: u8 = 6;
/// Bytes of the longest request, where the endpoint sets no `max_message`.
const MAX_REQUEST: u64 = 1 << 20;
/// How long FinSpace may take before the client is told that it does.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to take in an answer.
const TAKEN_IN: Duration = Duration::from_secs(10);

/// A look at the whole daemon.
pub type Look = BoxFuture<'static, Result<Arc<Status>, JoinError>>;

/// One session with a console.
pub struct Visit<'v> {
    /// The `[[user]]` that it is with.
    pub user: &'v str,
    /// The environment that `.aws` functions ask, if there is one.
    pub environment: Option<&'v Arc<Environment>>,
    /// The address of this host that the client dialled, when it came from elsewhere.
    pub dialled: Option<IpAddr>,
    /// Bytes of the longest request.
    pub max_message: Option<u64>,
    /// Which endpoints there are, and where failures are kept.
    pub live: &'v Live,
    /// Clusters and nodes.
    pub lists: &'v Lists,
    /// Looks at the whole daemon.
    pub status: &'v (dyn Fn() -> Look + Send + Sync),
    /// What is known of the session.
    pub record: &'v AuditRecord,
    /// What it has carried.
    pub meters: &'v Meters,
}

/// Why a request has no answer, for the client to read.
enum Refused {
    /// It can't be met as it was made.
    Asked(String),
    /// FinSpace did not give what it takes.
    Outside(Arc<FetchError>),
    /// FinSpace took too long.
    Late,
}

/// One message of the client's.
struct Message {
    header: Header,
    /// All of it, header included.
    bytes: Vec<u8>,
}

/// Answers one request after the other until the client closes, or, when nothing is being answered,
/// the daemon drains. `early` is what the client sent behind its handshake.
pub async fn serve<S>(
    visit: &Visit<'_>,
    client: &mut S,
    early: &[u8],
    mut stopping: ShutdownReceiver,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (reader, mut writer) = tokio::io::split(client);
    let mut reader = BufReader::new(early.chain(reader));
    loop {
        let read = tokio::select! {
            // What has come in already is answered still.
            biased;
            read = visit.read(&mut reader) => read,
            () = stopping.draining() => return End::Drained,
        };
        let message = match read {
            Ok(message) => message,
            Err((end, answer)) => {
                if let Some(answer) = answer {
                    // The session is over either way.
                    let _ = visit.write(&mut writer, &answer).await;
                }
                return end;
            }
        };
        if message.header.message_type == MessageType::Async {
            tracing::debug!(
                session = visit.record.session(),
                "an async message is ignored: a console has nothing to set"
            );
            continue;
        }
        visit.meters.set_outstanding(1);
        let answer = visit.answer(&message).await;
        let answer = self::message(MessageType::Response, &answer.encode());
        if let Err(error) = visit.write(&mut writer, &answer).await {
            return End::ClientLost(error);
        }
        visit.meters.set_outstanding(0);
    }
}

impl Visit<'_> {
    fn limit(&self) -> u64 {
        self.max_message.unwrap_or(MAX_REQUEST)
    }

    /// The next message; else the end, with what there is to answer first.
    async fn read<R>(&self, reader: &mut R) -> Result<Message, (End, Option<Vec<u8>>)>
    where
        R: AsyncRead + Unpin,
    {
        let lost = |error| (End::ClientLost(error), None);
        let garbled = |error| End::ClientMessage {
            error,
            client: ClientPosition::BetweenMessages,
        };
        let mut head = [0; HEADER_LEN];
        if reader.read(&mut head[..1]).await.map_err(lost)? == 0 {
            return Err((End::ClientClosed, None));
        }
        reader.read_exact(&mut head[1..]).await.map_err(lost)?;
        self.meters.active(Instant::now());
        let header = Header::parse(head).map_err(|error| (garbled(error), None))?;
        if header.message_type == MessageType::Response {
            return Err((End::ClientResponse, None));
        }
        if header.length > self.limit() {
            let error = HeaderError::TooLong {
                length: header.length,
                limit: self.limit(),
            };
            let answer = (header.message_type == MessageType::Sync)
                .then(|| error_response(&format!("hopend: {error}")));
            return Err((garbled(error), answer));
        }
        let mut bytes = head.to_vec();
        let body = header.length - HEADER_LEN as u64;
        let mut body = reader.take(body);
        body.read_to_end(&mut bytes).await.map_err(lost)?;
        if bytes.len() as u64 != header.length {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        self.meters.to_cluster.add_bytes(bytes.len());
        self.meters.to_cluster.add_message(header.message_type);
        self.meters.active(Instant::now());
        Ok(Message { header, bytes })
    }

    async fn write<W>(&self, writer: &mut W, message: &[u8]) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        // Header and body in one write: some clients read a header in one piece.
        let written = timeout(TAKEN_IN, writer.write_all(message)).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.meters.to_client.add_bytes(message.len());
        self.meters.to_client.add_message(MessageType::Response);
        self.meters.active(Instant::now());
        Ok(())
    }

    async fn answer(&self, message: &Message) -> Value {
        let answer = match self.request(message) {
            Ok(request) => self.meet(request).await,
            Err(text) => Err(Refused::Asked(text)),
        };
        let text = match answer {
            Ok(value) => return value,
            Err(Refused::Asked(text)) => text,
            Err(Refused::Outside(error)) => {
                let text = error.to_string();
                tracing::debug!(session = self.record.session(), "{text}");
                self.live.failed(self.record, error.kind, &text);
                text
            }
            Err(Refused::Late) => format!(
                "FinSpace has not answered within {} s. Fix: ask again: hopend goes on waiting for it.",
                DEADLINE.as_secs()
            ),
        };
        Value::Error(format!("hopend: {text}"))
    }

    fn request(&self, message: &Message) -> Result<Request, String> {
        let unreadable = |error: &dyn std::fmt::Display| format!("badmsg: {error}");
        let decoded = if message.header.compression == 0 {
            decode_message(&message.bytes)
        } else {
            let limit = usize::try_from(self.limit()).unwrap_or(usize::MAX);
            let plain = decompress(&message.bytes, limit).map_err(|error| unreadable(&error))?;
            decode_message(&plain)
        };
        let (_, value) = decoded.map_err(|error| unreadable(&error))?;
        Request::of(&value)
    }

    async fn meet(&self, request: Request) -> Result<Value, Refused> {
        let viewer = Viewer::new(self.user, self.live.endpoints(), self.dialled);
        let string = |cluster: &str, node: Option<&str>| {
            viewer
                .connection_string(self.environment, cluster, node)
                .map(|string| Value::text(&string))
                .map_err(Refused::Asked)
        };
        match request {
            Request::Nothing => Ok(Value::NULL),
            Request::Show(shown) => {
                let status = (self.status)().await.map_err(|error| {
                    Refused::Asked(format!(
                        "it can't tell its own state ({error}). Fix: report this."
                    ))
                })?;
                Ok(Value::Table(tables::of(shown, &status, &viewer)))
            }
            Request::Clusters => self.clusters(&viewer).await.map(Value::Table),
            Request::Nodes(cluster) => self.nodes(&viewer, &cluster).await.map(Value::Table),
            Request::ConnectionString(cluster) => string(&cluster, None),
            Request::NodeConnectionString(cluster, node) => string(&cluster, Some(&node)),
        }
    }

    async fn clusters(&self, viewer: &Viewer) -> Result<Table, Refused> {
        let environment = self.environment()?;
        let all = in_time(self.lists.clusters(environment)).await?;
        let sees = |cluster: &&Cluster| viewer.sees_cluster(environment, &cluster.name);
        let theirs: Vec<_> = all.iter().filter(sees).cloned().collect();
        Ok(q_api::clusters(&theirs))
    }

    async fn nodes(&self, viewer: &Viewer, cluster: &str) -> Result<Table, Refused> {
        let environment = self.environment()?;
        if !viewer.sees_cluster(environment, cluster) {
            return Err(Refused::Asked(viewer.refusal(cluster)));
        }
        let nodes = in_time(self.lists.nodes(environment, cluster)).await?;
        Ok(q_api::nodes(&nodes))
    }

    fn environment(&self) -> Result<&Arc<Environment>, Refused> {
        self.environment.ok_or_else(|| {
            Refused::Asked(
                "the configuration knows no FinSpace environment to list. Fix: add a table \
                 [environment.NAME] with its id and region."
                    .into(),
            )
        })
    }
}

async fn in_time<T>(list: impl Future<Output = Listed<T>>) -> Result<Arc<[T]>, Refused> {
    timeout(DEADLINE, list)
        .await
        .map_err(|_| Refused::Late)?
        .map_err(Refused::Outside)
}
