//! A console: an endpoint of `kind = "console"`, where hopend itself answers q clients.
//!
//! It answers with hopend's state as q tables, and with the `.aws` functions that a q process has on a
//! FinSpace cluster.
//!
//! | request | columns (q types) |
//! |---|---|
//! | `endpoints` | name s, listen C, unbound C, target C, sessions j, max_sessions j, opened j, refused j |
//! | `addresses` | endpoint s, address C, zone s, resting n, reason C |
//! | `sessions` | session j, endpoint s, user s, account s, pid j, program C, client C, target C, node C, since p, idle n, bytes_up j, bytes_down j, messages_up j, messages_down j, outstanding j, pings j |
//! | `credentials` | user s, endpoints C, what C, age n, left n, refresh n, fetches j, last_error C |
//! | `errors` | time p, endpoint s, user s, side s, message C, times j |
//! | `.aws.list_kx_clusters[]` | cluster_name C, status C, cluster_type C, description C |
//! | `.aws.list_kx_cluster_nodes[cluster]` | node_id C, az_id C, launch_time p |
//!
//! An unknown pid, zone or time is null. `.aws.get_kx_connection_string[cluster]` and
//! `.aws.get_kx_node_connection_string[cluster;node]` answer with the address of the local endpoint that
//! leads to the cluster or node, for hopen: `:localhost:5010`. The columns of the `.aws` functions are those
//! of FinSpace. hopend calls FinSpace with the daemon's credentials and keeps a list for ten seconds.
//!
//! A user with `console = true` sees all rows and all clusters. Other users see their own sessions,
//! credentials and errors, the endpoints that they may use, and the clusters of these endpoints. A request
//! for a cluster that the user may not see has the same answer as one for a cluster that does not exist.
//!
//! The console answers requests in order. It counts async messages and ignores them.

mod discovery;
mod hopen_address;
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

use crate::config::{Endpoint, ListenAddress};
use crate::credential::FetchError;
use crate::primitives::shutdown::ShutdownReceiver;
use crate::telemetry::status::Status;
use base::error::ErrorKind;
pub use discovery::{DiscoveryCache, ListResult};
use finspace::environment::Environment;
use finspace::{Cluster, q_api};
use q_ipc::compress::decompress;
use q_ipc::frame::{HEADER_LEN, Header, HeaderError, MessageType};
use q_ipc::message::{error_response, message};
use q_ipc::value::{Table, Value, decode_message};
use q_relay::relay::{ClientPosition, End, Meters};
use request::ConsoleRequest;
use viewer::Viewer;

/// The capability that a console announces: the newest one, of kdb+ 4.
pub(crate) const CAPABILITY: u8 = 6;
/// The longest request in bytes, if the endpoint sets no `max_message`.
const DEFAULT_MAX_REQUEST: u64 = 1 << 20;
/// How long a request waits for FinSpace. After that the client receives an error, and the call goes on.
const FINSPACE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer. After that hopend ends the session.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The daemon, as far as a console needs it. The session supplies it.
pub trait ConsoleDaemon: Send + Sync {
    /// The endpoints that hopend serves now, in the order of the configuration.
    fn endpoints(&self) -> Vec<ConsoleEndpoint>;

    /// A snapshot of the daemon's state. Fails if the task that takes it panics.
    fn status(&self) -> BoxFuture<'_, Result<Arc<Status>, JoinError>>;

    /// Counts a failure that the console reported to the client, and keeps it for the table `errors`.
    fn record_failure(&self, kind: ErrorKind, message: &str);
}

/// An endpoint, and the addresses where it listens now.
#[derive(Debug, Clone)]
pub struct ConsoleEndpoint {
    /// The endpoint's configuration.
    pub endpoint: Arc<Endpoint>,
    /// The addresses with the ports that the system chose. Addresses that cannot be bound are missing.
    pub listen: Vec<ListenAddress>,
}

/// One session with a console.
pub struct ConsoleSession<'s> {
    /// The number of the session, for the log.
    pub number: u64,
    /// The `[[user]]` of the session.
    pub user: &'s str,
    /// The environment of the `.aws` functions. `None` if the configuration has no environment.
    pub environment: Option<&'s Arc<Environment>>,
    /// The address of this host that the client dialled, if the client is on another host.
    pub dialled: Option<IpAddr>,
    /// The longest request in bytes; 1 MiB if `None`.
    pub max_message: Option<u64>,
    /// The daemon that the console shows.
    pub daemon: &'s dyn ConsoleDaemon,
    /// The lists of clusters and nodes, which all sessions share.
    pub discovery: &'s DiscoveryCache,
    /// Counts the bytes and messages of the session.
    pub meters: &'s Meters,
}

/// Answers one request after another until the client closes the connection. If the daemon drains, ends
/// the session after the current answer. `early` holds the bytes that the client sent after its handshake.
pub async fn serve<S>(
    session: &ConsoleSession<'_>,
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
            // `biased` polls the reader first, so a request that has arrived is answered before a drain.
            biased;
            read = session.read(&mut reader) => read,
            () = stopping.draining() => return End::Drained,
        };
        let message = match read {
            Ok(message) => message,
            Err(ConsoleReadError { end, answer }) => {
                if let Some(answer) = answer {
                    // The session ends in any case.
                    let _ = session.write(&mut writer, &answer).await;
                }
                return end;
            }
        };
        if message.header.message_type == MessageType::Async {
            tracing::debug!(
                session = session.number,
                "the console ignores an async message"
            );
            continue;
        }
        session.meters.set_outstanding(1);
        let answer = session.answer(&message).await;
        let answer = self::message(MessageType::Response, &answer.encode());
        if let Err(error) = session.write(&mut writer, &answer).await {
            return End::ClientLost(error);
        }
        session.meters.set_outstanding(0);
    }
}

/// A message of the client.
struct ClientMessage {
    header: Header,
    /// The whole message with its header.
    bytes: Vec<u8>,
}

/// Why there is no next message.
struct ConsoleReadError {
    end: End,
    /// An answer to send before the session ends.
    answer: Option<Vec<u8>>,
}

impl ConsoleReadError {
    fn new(end: End) -> Self {
        Self { end, answer: None }
    }
}

/// Why a request has no answer.
enum ConsoleRequestError {
    /// The request is wrong, or the viewer may not make it. The text is for the client.
    Rejected(String),
    /// FinSpace gave no list.
    FinSpace(Arc<FetchError>),
    /// FinSpace did not answer in time.
    Timeout,
}

impl ConsoleSession<'_> {
    fn max_request(&self) -> u64 {
        self.max_message.unwrap_or(DEFAULT_MAX_REQUEST)
    }

    /// Reads the next message.
    async fn read<R>(&self, reader: &mut R) -> Result<ClientMessage, ConsoleReadError>
    where
        R: AsyncRead + Unpin,
    {
        let lost = |error| ConsoleReadError::new(End::ClientLost(error));
        let malformed = |error| End::ClientMessage {
            error,
            client: ClientPosition::BetweenMessages,
        };
        let mut head = [0; HEADER_LEN];
        if reader.read(&mut head[..1]).await.map_err(lost)? == 0 {
            return Err(ConsoleReadError::new(End::ClientClosed));
        }
        reader.read_exact(&mut head[1..]).await.map_err(lost)?;
        self.meters.active(Instant::now());
        let header =
            Header::parse(head).map_err(|error| ConsoleReadError::new(malformed(error)))?;
        if header.message_type == MessageType::Response {
            return Err(ConsoleReadError::new(End::ClientResponse));
        }
        if header.length > self.max_request() {
            let error = HeaderError::TooLong {
                length: header.length,
                limit: self.max_request(),
            };
            let answer = (header.message_type == MessageType::Sync)
                .then(|| error_response(&format!("hopend: {error}")));
            return Err(ConsoleReadError {
                end: malformed(error),
                answer,
            });
        }
        let mut bytes = head.to_vec();
        let body = header.length - HEADER_LEN as u64;
        let mut body = reader.take(body);
        body.read_to_end(&mut bytes).await.map_err(lost)?;
        if bytes.len() as u64 != header.length {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        self.meters.to_kdb.add_bytes(bytes.len());
        self.meters.to_kdb.add_message(header.message_type);
        self.meters.active(Instant::now());
        Ok(ClientMessage { header, bytes })
    }

    /// Writes an answer.
    async fn write<W>(&self, writer: &mut W, message: &[u8]) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        // Header and body are one write, because some clients expect the header in a single read.
        let written = timeout(WRITE_LIMIT, writer.write_all(message)).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.meters.to_client.add_bytes(message.len());
        self.meters.to_client.add_message(MessageType::Response);
        self.meters.active(Instant::now());
        Ok(())
    }

    /// Answers a sync message with a value, or with a q error.
    async fn answer(&self, message: &ClientMessage) -> Value {
        let answer = match self.parse(message) {
            Ok(request) => self.execute(request).await,
            Err(text) => Err(ConsoleRequestError::Rejected(text)),
        };
        let text = match answer {
            Ok(value) => return value,
            Err(ConsoleRequestError::Rejected(text)) => text,
            Err(ConsoleRequestError::FinSpace(error)) => {
                let text = error.to_string();
                tracing::debug!(session = self.number, "{text}");
                self.daemon.record_failure(error.kind, &text);
                text
            }
            Err(ConsoleRequestError::Timeout) => format!(
                "FinSpace has not answered within {} s. Fix: ask again: hopend goes on waiting for it.",
                FINSPACE_LIMIT.as_secs()
            ),
        };
        Value::Error(format!("hopend: {text}"))
    }

    /// Decodes the message and parses the request in it. The error is the text for the client.
    fn parse(&self, message: &ClientMessage) -> Result<ConsoleRequest, String> {
        let unreadable = |error: &dyn std::fmt::Display| format!("badmsg: {error}");
        let decoded = if message.header.compression == 0 {
            decode_message(&message.bytes)
        } else {
            let limit = usize::try_from(self.max_request()).unwrap_or(usize::MAX);
            let plain = decompress(&message.bytes, limit).map_err(|error| unreadable(&error))?;
            decode_message(&plain)
        };
        let (_, value) = decoded.map_err(|error| unreadable(&error))?;
        ConsoleRequest::parse(&value)
    }

    async fn execute(&self, request: ConsoleRequest) -> Result<Value, ConsoleRequestError> {
        let viewer = Viewer::new(self.user, self.daemon.endpoints(), self.dialled);
        let connection_string = |cluster: &str, node: Option<&str>| {
            viewer
                .connection_string(self.environment, cluster, node)
                .map(|string| Value::text(&string))
                .map_err(ConsoleRequestError::Rejected)
        };
        match request {
            ConsoleRequest::Nothing => Ok(Value::NULL),
            ConsoleRequest::Table(table) => {
                let status = self.daemon.status().await.map_err(|error| {
                    ConsoleRequestError::Rejected(format!(
                        "hopend cannot read its own state: {error}. Fix: report this."
                    ))
                })?;
                Ok(Value::Table(tables::status_table(table, &status, &viewer)))
            }
            ConsoleRequest::Clusters => self.clusters(&viewer).await.map(Value::Table),
            ConsoleRequest::Nodes { cluster } => {
                self.nodes(&viewer, &cluster).await.map(Value::Table)
            }
            ConsoleRequest::ConnectionString { cluster } => connection_string(&cluster, None),
            ConsoleRequest::NodeConnectionString { cluster, node } => {
                connection_string(&cluster, Some(&node))
            }
        }
    }

    async fn clusters(&self, viewer: &Viewer) -> Result<Table, ConsoleRequestError> {
        let environment = self.environment()?;
        let all = within_limit(self.discovery.clusters(environment)).await?;
        let is_visible = |cluster: &&Cluster| viewer.sees_cluster(environment, &cluster.name);
        let visible: Vec<_> = all.iter().filter(is_visible).cloned().collect();
        Ok(q_api::clusters(&visible))
    }

    async fn nodes(&self, viewer: &Viewer, cluster: &str) -> Result<Table, ConsoleRequestError> {
        let environment = self.environment()?;
        if !viewer.sees_cluster(environment, cluster) {
            return Err(ConsoleRequestError::Rejected(
                viewer.cluster_refusal(cluster),
            ));
        }
        let nodes = within_limit(self.discovery.nodes(environment, cluster)).await?;
        Ok(q_api::nodes(&nodes))
    }

    fn environment(&self) -> Result<&Arc<Environment>, ConsoleRequestError> {
        self.environment.ok_or_else(|| {
            ConsoleRequestError::Rejected(
                "the configuration has no FinSpace environment. Fix: add a table [environment.NAME] \
                 with its id and region."
                    .into(),
            )
        })
    }
}

/// Waits for a list, at most [`FINSPACE_LIMIT`].
async fn within_limit<T>(
    list: impl Future<Output = ListResult<T>>,
) -> Result<Arc<[T]>, ConsoleRequestError> {
    timeout(FINSPACE_LIMIT, list)
        .await
        .map_err(|_| ConsoleRequestError::Timeout)?
        .map_err(ConsoleRequestError::FinSpace)
}
