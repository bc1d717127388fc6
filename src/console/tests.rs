//! A console over a pipe of a few bytes: who is shown what, in which types, and that nothing a
//! client sends leaves it without an answer or an end.

use std::sync::LazyLock;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{oneshot, watch};

use super::viewer::tests::endpoints;
use super::*;
use crate::config::{ListenAddress, Target};
use crate::credential::Retry;
use crate::listener::AddressState;
use crate::primitives::shutdown::ShutdownSender;
use crate::route::PreparedTarget;
use crate::route::nodes::{Discover, Nodes};
use crate::telemetry::live::Shown;
use crate::telemetry::status::{AddressRow, CredentialRow, EndpointRow, ErrorRow, SessionRow};
use crate::upstream::tls::TlsConfigs;
use base::error::ErrorKind;
use finspace::Node;
use q_ipc::compress::compress;
use q_ipc::message::text;

/// The system's roots are read once.
static TLS: LazyLock<TlsConfigs> = LazyLock::new(TlsConfigs::default);

/// Two clusters that somebody may use, one that only root may.
struct FinSpace;

impl Discover for FinSpace {
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

/// A session of `user`'s, as far as the client sees it.
struct Handle {
    stream: DuplexStream,
    stop: ShutdownSender,
    end: oneshot::Receiver<End>,
}

impl Handle {
    fn open(user: &'static str) -> Self {
        let (mut here, stream) = duplex(16);
        let stop = ShutdownSender::default();
        let stopping = stop.subscribe();
        let (told, end) = oneshot::channel();
        tokio::spawn(async move {
            let nodes = Nodes::new(Arc::new(FinSpace));
            let live = Live::default();
            live.serves(endpoints().into_iter().map(|b| shown(b, &nodes)).collect());
            let listen: ListenAddress = "127.0.0.1:5000".parse().unwrap();
            let environment = environment();
            let visit = Visit {
                user,
                environment: environment.as_ref(),
                dialled: None,
                max_message: None,
                live: &live,
                lists: &Lists::new(Arc::new(FinSpace)),
                status: &|| Box::pin(async { Ok(Arc::new(status())) }),
                record: &Record::new(1, "console", &listen),
                meters: &Meters::default(),
            };
            let end = serve(&visit, &mut here, &[], stopping).await;
            let _ = told.send(end);
        });
        Self { stream, stop, end }
    }

    async fn ask(&mut self, question: &str) -> Result<Value, String> {
        self.send(&text(MessageType::Sync, question)).await;
        self.answer().await.unwrap()
    }

    async fn table(&mut self, question: &str) -> Table {
        match self.ask(question).await {
            Ok(Value::Table(table)) => table,
            other => panic!("{question}: {other:?}"),
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// An answer, or none before the end of the stream.
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

fn shown(bound: crate::telemetry::live::Bound, nodes: &Nodes) -> Shown {
    let listen = bound.listen.into_iter().map(AddressState::Bound);
    Shown {
        route: Arc::new(PreparedTarget::new(bound.endpoint, &TLS, nodes)),
        listen: listen
            .map(|state| watch::Sender::new(state).subscribe())
            .collect(),
    }
}

fn environment() -> Option<Arc<Environment>> {
    endpoints()
        .into_iter()
        .find_map(|bound| match &bound.endpoint.target {
            Target::Console { environment } => environment.clone(),
            _ => None,
        })
}

/// A row of each kind for root and for alice, and a failure of nobody's.
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
        places: vec![AddressRow {
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

/// Columns as the module's documentation has them: `name s, listen C`.
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
    let mut root = Handle::open("root");
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
        ("root", "endpoint", "places", &["hdb", "secret", "mine"]),
        ("alice", "endpoint", "places", &["hdb", "mine"]),
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
        let table = Handle::open(user).table(request).await;
        assert_eq!(names(&table, column), expected, "{request} of {user}");
    }
    let asked = ".aws.list_kx_cluster_nodes[`$\"secret-cluster\"]";
    let refused = Handle::open("alice").ask(asked).await.unwrap_err();
    assert!(
        refused.starts_with("hopend: no endpoint that alice may use leads to cluster"),
        "{refused}"
    );
}

#[tokio::test]
async fn values_are_q_s() {
    let mut root = Handle::open("root");
    let places = root.table("places").await;
    let sessions = root.table("sessions").await;
    let credentials = root.table("credentials").await;
    for (table, column, expected) in [
        (&places, "resting", Value::Timespans(vec![1_500_000_000; 3])),
        (&places, "reason", Value::texts(["", "", ""])),
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
    let mut root = Handle::open("root");
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
    let mut root = Handle::open("root");
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
    let mut root = Handle::open("root");
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
    let mut root = Handle::open("root");
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
    let idle = Handle::open("root");
    idle.stop.drain();
    assert!(matches!(idle.end.await, Ok(End::Drained)));

    let mut busy = Handle::open("root");
    let question = ".aws.list_kx_cluster_nodes[`$\"slow-cluster\"]";
    busy.send(&text(MessageType::Sync, question)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    busy.stop.drain();
    assert!(busy.answer().await.unwrap().is_err());
    assert!(matches!(busy.end.await, Ok(End::Drained)));
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_answer_in_is_given_up() {
    let mut handle = Handle::open("root");
    handle.send(&text(MessageType::Sync, "sessions")).await;
    let Handle { stream, end, stop } = handle;
    let end = tokio::time::timeout(2 * TAKEN_IN, end).await.unwrap();
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

/// Says all of it, and reads what comes back to the end.
async fn answers(bytes: Vec<u8>) -> (usize, End) {
    let Handle { stream, end, stop } = Handle::open("root");
    let (reader, mut writer) = tokio::io::split(stream);
    let said = async {
        // The other side may have ended.
        let _ = writer.write_all(&bytes).await;
        let _ = writer.shutdown().await;
    };
    let heard = async {
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
    let ((), heard) = tokio::join!(said, heard);
    let end = end.await.expect("an end in order");
    drop(stop);
    (heard, end)
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
        let (heard, end) = run(answers(bytes));
        prop_assert_eq!(heard, bodies.iter().filter(|(sync, ..)| *sync).count());
        prop_assert!(matches!(end, End::ClientClosed), "{:?}", end);
    }
}

/// Noise, or what is nearly a request.
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
