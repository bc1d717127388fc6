//! Console sessions over a pipe of a few bytes. The tests check which rows each user sees, the types of the
//! columns, and that every message of a client leads to an answer or to the end of the session.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;

use super::viewer::tests::endpoints;
use super::*;
use crate::config::Target;
use crate::credential::Discover;
use crate::credential::Retry;
use crate::primitives::shutdown::ShutdownSender;
use crate::telemetry::status::{AddressRow, CredentialRow, EndpointRow, ErrorRow, SessionRow};
use finspace::Node;
use q_ipc::compress::compress;
use q_ipc::message::text;

/// A FinSpace with two clusters that alice may use, and one that only root may use.
struct FakeFinSpace;

impl Discover for FakeFinSpace {
    fn clusters<'a>(
        &'a self,
        _: &'a Arc<Environment>,
    ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>> {
        let cluster = |name: &str| Cluster {
            name: name.into(),
            kind: "HDB".into(),
            status: "RUNNING".into(),
            description: String::new(),
        };
        let all = ["hdb-cluster", "alices-cluster", "secret-cluster"];
        async move { Ok(all.map(cluster).into()) }.boxed()
    }

    fn nodes<'a>(
        &'a self,
        _: &'a Arc<Environment>,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Node>, FetchError>> {
        async move {
            match cluster {
                "slow-cluster" => std::future::pending().await,
                "hdb-cluster" => Ok(vec![Node {
                    id: "node-1".into(),
                    zone: "use1-az1".into(),
                    launched: None,
                    status: "RUNNING".into(),
                }]),
                _ => Err(FetchError {
                    kind: ErrorKind::Denied,
                    retry: Retry::Refused,
                    message: "AWS says no".into(),
                    remedy: "allow it".into(),
                }),
            }
        }
        .boxed()
    }

    fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>> {
        async { Ok("use1-az1".into()) }.boxed()
    }
}

/// A daemon whose state is [`status`].
struct FakeDaemon;

impl ConsoleDaemon for FakeDaemon {
    fn endpoints(&self) -> Vec<ConsoleEndpoint> {
        endpoints()
    }

    fn status(&self) -> BoxFuture<'_, Result<Arc<Status>, JoinError>> {
        async { Ok(Arc::new(status())) }.boxed()
    }

    fn record_failure(&self, _: ErrorKind, _: &str) {}
}

/// The client's end of a session.
struct ClientHandle {
    stream: DuplexStream,
    stop: ShutdownSender,
    end: oneshot::Receiver<End>,
}

impl ClientHandle {
    fn open(user: &'static str) -> Self {
        let (mut server, stream) = duplex(16);
        let stop = ShutdownSender::default();
        let stopping = stop.subscribe();
        let (sender, end) = oneshot::channel();
        tokio::spawn(async move {
            let environment = environment();
            let session = ConsoleSession {
                number: 1,
                user,
                environment: environment.as_ref(),
                dialled: None,
                max_message: None,
                daemon: &FakeDaemon,
                discovery: &DiscoveryCache::new(Arc::new(FakeFinSpace)),
                meters: &Meters::default(),
            };
            let end = serve(&session, &mut server, &[], stopping).await;
            let _ = sender.send(end);
        });
        Self { stream, stop, end }
    }

    async fn ask(&mut self, request: &str) -> Result<Value, String> {
        self.send(&text(MessageType::Sync, request)).await;
        self.answer().await.unwrap()
    }

    async fn table(&mut self, request: &str) -> Table {
        match self.ask(request).await {
            Ok(Value::Table(table)) => table,
            other => panic!("{request}: {other:?}"),
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads an answer. Returns `None` at the end of the stream.
    async fn answer(&mut self) -> Option<Result<Value, String>> {
        let mut bytes = vec![0; HEADER_LEN];
        self.stream.read_exact(&mut bytes).await.ok()?;
        let header = Header::parse(bytes[..].try_into().unwrap()).unwrap();
        assert_eq!(header.message_type, MessageType::Response);
        bytes.resize(usize::try_from(header.length).unwrap(), 0);
        let rest = &mut bytes[HEADER_LEN..];
        self.stream.read_exact(rest).await.expect("a whole answer");
        Some(match decode_message(&bytes).expect("a q value").1 {
            Value::Error(text) => Err(text),
            value => Ok(value),
        })
    }
}

fn environment() -> Option<Arc<Environment>> {
    endpoints()
        .into_iter()
        .find_map(|served| match &served.endpoint.target {
            Target::Console { environment } => environment.clone(),
            _ => None,
        })
}

/// Rows of root and of alice in each table, and an error without a user.
fn status() -> Status {
    let now = jiff::Timestamp::from_second(946_684_800 + 60).unwrap();
    let endpoint = |name: &str| EndpointRow {
        name: name.into(),
        listen: vec!["127.0.0.1:5010".into(), "unix:5010".into()],
        unbound: Vec::new(),
        target: "cluster hdb-cluster in prod".into(),
        sessions: 1,
        max_sessions: 4_096,
        opened: 2,
        refused: 3,
        addresses: vec![AddressRow {
            name: "node-1".into(),
            zone: "use1-az1".into(),
            down_s: Some(3.5),
            resting_s: Some(1.5),
            reason: None,
        }],
        warm: Vec::new(),
    };
    let session = |user: &str| SessionRow {
        session: 7,
        endpoint: "hdb".into(),
        user: user.into(),
        account: None,
        pid: None,
        program: None,
        client: "127.0.0.1:40000".into(),
        server: None,
        target: "10.0.0.1:443".into(),
        node: None,
        since: now,
        idle_s: 0.5,
        bytes_up: 1,
        bytes_down: 2,
        messages_up: 3,
        messages_down: 4,
        outstanding: 5,
        pings: 6,
    };
    let credential = |user: &str| CredentialRow {
        user: user.into(),
        endpoints: vec!["hdb".into(), "near".into()],
        what: "connection string".into(),
        age_s: Some(1.0),
        left_s: Some(2.0),
        refresh_s: None,
        fetches: 1,
        failures: 0,
        last_error: None,
    };
    let error = |user: Option<&str>| ErrorRow {
        time: now,
        endpoint: "hdb".into(),
        user: user.map(str::to_owned),
        side: "upstream".into(),
        message: "it is gone".into(),
        count: 9,
    };
    Status {
        memory: None,
        version: "0".into(),
        started: now,
        now,
        left_out: Vec::new(),
        endpoints: ["hdb", "secret", "mine"].map(endpoint).into(),
        sessions: ["root", "alice"].map(session).into(),
        credentials: ["root", "alice"].map(credential).into(),
        errors: [Some("root"), Some("alice"), None].map(error).into(),
    }
}

/// The columns of a table in the form of the module's documentation: `name s, listen C`.
fn columns(table: &Table) -> String {
    let columns = table.columns.iter().map(|(name, items)| {
        let kind = match items {
            Value::Symbols(_) => "s",
            Value::Longs(_) => "j",
            Value::Timespans(_) => "n",
            Value::Timestamps(_) => "p",
            Value::List(items) if items.iter().all(|i| matches!(i, Value::Chars(_))) => "C",
            other => panic!("{name}: {other:?}"),
        };
        format!("{name} {kind}")
    });
    columns.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn columns_are_those_of_the_documentation() {
    let mut root = ClientHandle::open("root");
    let rows = include_str!("mod.rs").lines().filter_map(|line| {
        let (request, columns) = line.strip_prefix("//! | `")?.split_once("` | ")?;
        Some((request, columns.strip_suffix(" |")?))
    });
    let documented: Vec<_> = rows.collect();
    assert_eq!(documented.len(), 7);
    for (request, expected) in documented {
        let request = request.replace("[cluster]", "[`$\"hdb-cluster\"]");
        assert_eq!(columns(&root.table(&request).await), expected, "{request}");
    }
}

#[tokio::test]
async fn who_sees_all_is_shown_all_and_others_their_own() {
    let names = |table: &Table, column: &str| table.column(column).unwrap().as_texts().unwrap();
    for (user, column, request, expected) in [
        ("root", "name", "endpoints", &["hdb", "secret", "mine"][..]),
        ("alice", "name", "endpoints", &["hdb", "mine"]),
        ("mallory", "name", "endpoints", &[]),
        ("root", "endpoint", "addresses", &["hdb", "secret", "mine"]),
        ("alice", "endpoint", "addresses", &["hdb", "mine"]),
        ("root", "user", "sessions", &["root", "alice"]),
        ("alice", "user", "sessions", &["alice"]),
        ("mallory", "user", "sessions", &[]),
        ("root", "user", "credentials", &["root", "alice"]),
        ("alice", "user", "credentials", &["alice"]),
        ("root", "user", "errors", &["root", "alice", ""]),
        ("alice", "user", "errors", &["alice"]),
        (
            "root",
            "cluster_name",
            ".aws.list_kx_clusters[]",
            &["hdb-cluster", "alices-cluster", "secret-cluster"],
        ),
        (
            "alice",
            "cluster_name",
            ".aws.list_kx_clusters[]",
            &["hdb-cluster", "alices-cluster"],
        ),
    ] {
        let table = ClientHandle::open(user).table(request).await;
        assert_eq!(names(&table, column), expected, "{request} of {user}");
    }
    let asked = ".aws.list_kx_cluster_nodes[`$\"secret-cluster\"]";
    let refused = ClientHandle::open("alice").ask(asked).await.unwrap_err();
    assert!(
        refused.starts_with("hopend: no endpoint that alice may use leads to cluster"),
        "{refused}"
    );
}

#[tokio::test]
async fn values_are_q_s() {
    let mut root = ClientHandle::open("root");
    let addresses = root.table("addresses").await;
    let sessions = root.table("sessions").await;
    let credentials = root.table("credentials").await;
    for (table, column, expected) in [
        (
            &addresses,
            "resting",
            Value::Timespans(vec![1_500_000_000; 3]),
        ),
        (&addresses, "reason", Value::texts(["", "", ""])),
        (&sessions, "pid", Value::Longs(vec![i64::MIN; 2])),
        (
            &sessions,
            "since",
            Value::Timestamps(vec![60_000_000_000; 2]),
        ),
        (&credentials, "endpoints", Value::texts(["hdb near"; 2])),
        (
            &credentials,
            "left",
            Value::Timespans(vec![2_000_000_000; 2]),
        ),
        (&credentials, "refresh", Value::Timespans(vec![i64::MIN; 2])),
    ] {
        assert_eq!(table.column(column), Some(&expected), "{column}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_finspace_does_not_give_is_told() {
    let mut root = ClientHandle::open("root");
    let told = root.ask(".aws.list_kx_cluster_nodes`gone").await;
    assert_eq!(told, Err("hopend: AWS says no. Fix: allow it.".into()));
    let late = root
        .ask(".aws.list_kx_cluster_nodes[`$\"slow-cluster\"]")
        .await;
    assert!(late.unwrap_err().contains("has not answered within 10 s"));
    assert_eq!(root.ask("").await, Ok(Value::NULL), "the session goes on");
}

#[tokio::test]
async fn big_endian_and_compressed_requests_are_read() {
    let mut root = ClientHandle::open("root");
    let request = Value::List(vec![
        Value::text(&format!("{}endpoints", " ".repeat(4_000))),
        Value::NULL,
    ]);
    let header = |little_endian, length: usize| Header {
        little_endian,
        message_type: MessageType::Sync,
        compression: 0,
        length: length as u64,
    };
    for little_endian in [true, false] {
        let body = request.encode_in(little_endian);
        let header = header(little_endian, body.len() + HEADER_LEN);
        let plain = [&header.encode()[..], &body].concat();
        let compressed = compress(&plain).unwrap();
        for message in [plain, compressed] {
            root.send(&message).await;
            let answer = root.answer().await.unwrap();
            assert!(matches!(answer, Ok(Value::Table(_))), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn asyncs_do_nothing_and_responses_end_it() {
    let mut root = ClientHandle::open("root");
    for ignored in ["", "sessions", "exit 0"] {
        root.send(&text(MessageType::Async, ignored)).await;
    }
    assert!(root.ask("sessions").await.is_ok());
    root.send(&message(MessageType::Response, &Value::NULL.encode()))
        .await;
    assert!(root.answer().await.is_none());
    assert!(matches!(root.end.await, Ok(End::ClientResponse)));
}

#[tokio::test]
async fn a_request_that_is_too_long_is_told_so_and_not_read() {
    let mut root = ClientHandle::open("root");
    let header = [1, 1, 0, 0, 0, 0, 0x10, 1];
    root.send(&header).await;
    let told = root.answer().await.unwrap().unwrap_err();
    assert_eq!(
        told,
        "hopend: a message of 17825792 bytes (max_message of the endpoint is 1048576)"
    );
    assert!(root.answer().await.is_none());
    assert!(matches!(root.end.await, Ok(End::ClientMessage { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_an_answer_finish_and_ends_what_is_idle() {
    let idle = ClientHandle::open("root");
    idle.stop.drain();
    assert!(matches!(idle.end.await, Ok(End::Drained)));

    let mut busy = ClientHandle::open("root");
    let question = ".aws.list_kx_cluster_nodes[`$\"slow-cluster\"]";
    busy.send(&text(MessageType::Sync, question)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    busy.stop.drain();
    assert!(busy.answer().await.unwrap().is_err());
    assert!(matches!(busy.end.await, Ok(End::Drained)));
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_answer_in_is_given_up() {
    let mut handle = ClientHandle::open("root");
    handle.send(&text(MessageType::Sync, "sessions")).await;
    let ClientHandle { stream, end, stop } = handle;
    let end = tokio::time::timeout(2 * WRITE_LIMIT, end).await.unwrap();
    assert!(matches!(end, Ok(End::ClientLost(_))), "{end:?}");
    drop((stream, stop));
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test)
}

/// Sends the bytes, and counts the answers until the session ends. Also returns the end of the session.
async fn answers(bytes: Vec<u8>) -> (usize, End) {
    let ClientHandle { stream, end, stop } = ClientHandle::open("root");
    let (reader, mut writer) = tokio::io::split(stream);
    let send = async {
        // Fails if the console has ended the session.
        let _ = writer.write_all(&bytes).await;
        let _ = writer.shutdown().await;
    };
    let receive = async {
        let mut reader = BufReader::new(reader);
        let mut answers = 0;
        let mut head = [0; HEADER_LEN];
        while reader.read_exact(&mut head).await.is_ok() {
            let header = Header::parse(head).unwrap();
            let mut rest = vec![0; usize::try_from(header.length).unwrap() - HEADER_LEN];
            reader.read_exact(&mut rest).await.unwrap();
            answers += 1;
        }
        answers
    };
    let ((), answers) = tokio::join!(send, receive);
    let end = end.await.expect("an end in order");
    drop(stop);
    (answers, end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_answered_or_end_the_session(
        bytes in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
        run(answers(bytes));
    }

    #[test]
    fn every_sync_message_has_its_answer_whatever_it_holds(
        bodies in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), 0u8..3, body()), 0..8,
        )
    ) {
        let mut bytes = Vec::new();
        for (sync, little_endian, compression, body) in &bodies {
            let header = Header {
                little_endian: *little_endian,
                message_type: if *sync { MessageType::Sync } else { MessageType::Async },
                compression: *compression,
                length: (body.len() + HEADER_LEN) as u64,
            };
            bytes.extend(header.encode());
            bytes.extend(body);
        }
        let (answers, end) = run(answers(bytes));
        prop_assert_eq!(answers, bodies.iter().filter(|(sync, ..)| *sync).count());
        prop_assert!(matches!(end, End::ClientClosed), "{:?}", end);
    }
}

/// Random bytes, or values that resemble requests.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("sessions".to_owned()),
        Just(".aws.list_kx_clusters".to_owned()),
        Just(".aws.get_kx_connection_string".to_owned()),
        "\\PC{0,20}",
    ];
    let value = (
        name,
        proptest::collection::vec("[a-z\"`\\[\\];]{0,6}", 0..3),
    )
        .prop_flat_map(|(name, arguments)| {
            let list = std::iter::once(Value::text(&name))
                .chain(arguments.iter().map(|a| Value::text(a)))
                .collect();
            prop_oneof![
                Just(Value::text(&format!("{name}[{}]", arguments.join(";")))),
                Just(Value::Symbol(name)),
                Just(Value::List(list)),
            ]
        });
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..40),
        value.prop_map(|value| value.encode()),
    ]
}
