//! A console answers each sync message once and in order, with a q value. No message changes the tables
//! that it shows.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{Cluster, Node};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hopend::console::{ConsoleDaemon, ConsoleEndpoint, ConsoleSession, DiscoveryCache, serve};
use hopend::credential::Discover;
use hopend::credential::{Clock, Credentials, FetchError, Sources};
use hopend::primitives::shutdown::ShutdownSender;
use hopend::telemetry::live::Live;
use hopend::telemetry::status::Status;
use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message::{message, text};
use q_ipc::value::{Value, decode_message};
use q_relay::relay::Meters;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinError;

/// The requests whose answers must stay the same.
const TABLES: [&str; 5] = [
    "endpoints",
    "addresses",
    "sessions",
    "credentials",
    "errors",
];

/// A FinSpace without clusters.
struct EmptyFinSpace;

impl Discover for EmptyFinSpace {
    fn clusters<'a>(
        &'a self,
        _: &'a Arc<Environment>,
    ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn nodes<'a>(
        &'a self,
        _: &'a Arc<Environment>,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Node>, FetchError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>> {
        async { Ok(String::new()) }.boxed()
    }
}

/// A client that sends bytes, closes its direction and records the answers.
struct Client {
    said: io::Cursor<Vec<u8>>,
    heard: Vec<u8>,
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().said).poll_read(context, buffer)
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The first byte says what the others are: an expression, the body of a message, or a stream.
pub fn holds(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let request = match kind % 3 {
        0 => text(MessageType::Sync, &String::from_utf8_lossy(bytes)),
        1 if !bytes.is_empty() => message(MessageType::Sync, bytes),
        _ => bytes.to_vec(),
    };
    RUNTIME.with(|runtime| runtime.block_on(conversation(&request)));
}

async fn conversation(request: &[u8]) {
    let daemon = EmptyDaemon::default();
    let discovery = DiscoveryCache::new(Arc::new(EmptyFinSpace));
    let before = answers(&daemon, &discovery, &tables()).await;
    let with_it = answers(&daemon, &discovery, request).await;
    assert_eq!(
        with_it.len(),
        expected(request),
        "one answer to each question"
    );
    for answer in &with_it {
        match answer {
            Value::Error(text) => assert!(text.starts_with("hopend: "), "{text}"),
            Value::Table(_) | Value::Chars(_) | &Value::NULL => {}
            other => panic!("something was evaluated: {other:?}"),
        }
    }
    let after = answers(&daemon, &discovery, &tables()).await;
    assert_eq!(
        format!("{before:?}"),
        format!("{after:?}"),
        "it changed something"
    );
}

/// One request for each table.
fn tables() -> Vec<u8> {
    let requests = TABLES.map(|table| text(MessageType::Sync, table));
    requests.concat()
}

/// Answers that a stream has to get: one a whole sync message, until one that is no message, or a
/// sync one that is too long and told so.
fn expected(mut stream: &[u8]) -> usize {
    let mut count = 0;
    while let Some(head) = stream.first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::parse(*head) else {
            break;
        };
        let sync = usize::from(header.message_type == MessageType::Sync);
        if header.message_type == MessageType::Response {
            break;
        }
        if header.length > 1 << 20 {
            return count + sync;
        }
        let Some(rest) = stream.get(header.length as usize..) else {
            break;
        };
        count += sync;
        stream = rest;
    }
    count
}

/// A daemon without endpoints and sessions.
struct EmptyDaemon {
    status: Arc<Status>,
}

impl Default for EmptyDaemon {
    fn default() -> Self {
        let credentials = Credentials::new(Arc::new(Sources::default()), Clock::system());
        Self {
            status: Arc::new(Live::default().status(&credentials)),
        }
    }
}

impl ConsoleDaemon for EmptyDaemon {
    fn endpoints(&self) -> Vec<ConsoleEndpoint> {
        Vec::new()
    }

    fn status(&self) -> BoxFuture<'_, Result<Arc<Status>, JoinError>> {
        let status = Arc::clone(&self.status);
        async { Ok(status) }.boxed()
    }

    fn record_failure(&self, _: ErrorKind, _: &str) {}
}

async fn answers(daemon: &EmptyDaemon, discovery: &DiscoveryCache, request: &[u8]) -> Vec<Value> {
    let session = ConsoleSession {
        number: 1,
        user: "alice",
        environment: None,
        dialled: None,
        max_message: None,
        daemon,
        discovery,
        meters: &Meters::default(),
    };
    let stop = ShutdownSender::default();
    let mut client = Client {
        said: io::Cursor::new(request.to_vec()),
        heard: Vec::new(),
    };
    serve(&session, &mut client, &[], stop.subscribe()).await;
    let mut heard = &client.heard[..];
    let mut answers = Vec::new();
    while !heard.is_empty() {
        let head = *heard.first_chunk::<HEADER_LEN>().expect("a header");
        let header = Header::parse(head).expect("a message");
        assert_eq!(header.message_type, MessageType::Response);
        let (answer, rest) = heard.split_at(header.length as usize);
        answers.push(decode_message(answer).expect("a value of q").1);
        heard = rest;
    }
    answers
}
