//! A console answers q with hopend's state, and with the `.aws` functions of a cluster. It shows users only
//! their own rows, unless they have `console = true`.

use q_ipc::frame::MessageType;
use q_ipc::message::message;
use q_ipc::value::{Table, Value};
use simulator::{Options, Simulator};
use tokio::io::AsyncWriteExt;

use crate::support::process::command;
use crate::support::qclient::Refused;
use crate::support::{Log, QClient, Stage, account};

const DISCOVERY: [&str; 2] = [
    ".aws.list_kx_clusters[]",
    ".aws.list_kx_cluster_nodes[\"hdb-cluster\"]",
];

/// The type byte of a char vector in q IPC.
const CHARS: u8 = 10;
/// The type byte of a timestamp vector in q IPC.
const TIMESTAMPS: u8 = 12;

async fn stage() -> Stage {
    Stage::start().await
}

async fn as_alice(stage: &Stage, endpoint: &str) -> Result<QClient, Refused> {
    QClient::open(stage.address(endpoint), "alice", &stage.password()).await
}

async fn table(handle: &mut QClient, request: &str) -> Table {
    match handle.ask(request).await {
        Ok(Value::Table(table)) => table,
        other => panic!("{request}: {other:?}"),
    }
}

fn texts(table: &Table, column: &str) -> Vec<String> {
    let items = table.column(column).unwrap();
    items.as_texts().unwrap_or_else(|| panic!("{items:?}"))
}

/// The names of the columns, each with the type bytes of its items.
fn types(table: &Table) -> Vec<(&str, Vec<u8>)> {
    let of = |items: &Value| match items {
        Value::List(items) => items.iter().map(|item| item.encode()[0]).collect(),
        vector => vec![vector.encode()[0]],
    };
    let columns = table.columns.iter();
    columns.map(|(name, items)| (&**name, of(items))).collect()
}

/// Sends the list that `h(name;argument)` sends in q.
async fn apply(handle: &mut QClient, items: Vec<Value>) -> Result<Value, String> {
    let call = message(MessageType::Sync, &Value::List(items).encode());
    handle.stream.write_all(&call).await.unwrap();
    handle.answer().await
}

#[tokio::test]
async fn discovery_has_the_columns_and_types_that_a_cluster_has() {
    let stage = stage().await;
    let (mut console, mut cluster) = (stage.open("console").await, stage.open("hdb").await);
    for request in DISCOVERY {
        let (from_console, from_cluster) = (
            table(&mut console, request).await,
            table(&mut cluster, request).await,
        );
        assert_eq!(from_console.rows(), 3, "{request}");
        assert_eq!(types(&from_console), types(&from_cluster), "{request}");
        let names = from_console
            .columns
            .iter()
            .filter(|(name, _)| name != "launch_time");
        for (name, items) in names {
            assert_eq!(Some(items), from_cluster.column(name), "{request} {name}");
        }
    }
    let nodes = table(&mut console, DISCOVERY[1]).await;
    let texts = |name| (name, vec![CHARS; 3]);
    assert_eq!(
        types(&nodes),
        [
            texts("node_id"),
            texts("az_id"),
            ("launch_time", vec![TIMESTAMPS])
        ]
    );
    let clusters = table(&mut console, DISCOVERY[0]).await;
    let names = ["cluster_name", "status", "cluster_type", "description"];
    assert_eq!(types(&clusters), names.map(texts));
    let (name, head) = (".aws.list_kx_cluster_nodes", "hdb-cluster");
    let symbol = |text: &str| Value::Symbol(text.into());
    for call in [
        vec![symbol(name), Value::text(head)],
        vec![Value::text(name), Value::text(head)],
        vec![Value::text(name), symbol(head)],
    ] {
        let answer = apply(&mut console, call).await;
        assert_eq!(answer, Ok(Value::Table(nodes.clone())));
    }
    let clusters = apply(
        &mut console,
        vec![symbol(".aws.list_kx_clusters"), Value::NULL],
    );
    assert!(matches!(clusters.await, Ok(Value::Table(_))));
}

#[tokio::test]
async fn a_connection_string_is_what_hopen_takes_without_a_password() {
    let stage = Stage::builder()
        .configure(|config| {
            config.add_endpoint("second", |second| {
                second.cluster("hdb-cluster").node("sim-hdb-node-2")
            })
        })
        .start()
        .await;
    let mut console = stage.open("console").await;
    for (request, endpoint, node) in [
        (
            ".aws.get_kx_connection_string[\"hdb-cluster\"]",
            "hdb",
            None,
        ),
        (
            ".aws.get_kx_node_connection_string[\"hdb-cluster\";\"sim-hdb-node-2\"]",
            "second",
            Some("sim-hdb-node-2"),
        ),
    ] {
        let string = console.ask(request).await.unwrap().as_text().unwrap();
        let port = stage.address(endpoint).port();
        assert_eq!(string, format!(":127.0.0.1:{port}"));
        let mut handle = QClient::open(([127, 0, 0, 1], port).into(), "", "")
            .await
            .unwrap();
        assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
        if let Some(node) = node {
            assert_eq!(handle.ask("nodeId[]").await, Ok(Value::Symbol(node.into())));
        }
    }
    let nowhere = console
        .ask(".aws.get_kx_connection_string[\"gateway-cluster\"]")
        .await;
    assert_eq!(
        nowhere,
        Err(
            "hopend: no endpoint leads to cluster \"gateway-cluster\". Fix: add an [[endpoint]] with \
             cluster = \"gateway-cluster\"."
                .into()
        )
    );
}

#[tokio::test]
async fn who_may_see_all_does_and_others_see_their_own() {
    let stage = Stage::builder()
        .endpoint("rdb", |rdb| rdb.users(account()))
        .start()
        .await;
    stage.sim.wait_for_calls("GetKxConnectionString", 3).await;
    let (_mine, _hers) = (stage.open("hdb").await, as_alice(&stage, "hdb").await);
    assert!(as_alice(&stage, "rdb").await.is_err());
    assert!(
        QClient::open(stage.address("hdb"), "nobody", "x")
            .await
            .is_err()
    );

    let (mut all, mut alice) = (
        stage.open("console").await,
        as_alice(&stage, "console").await.unwrap(),
    );
    for (request, mine) in [("sessions", 2), ("credentials", 1)] {
        let users = texts(&table(&mut alice, request).await, "user");
        assert_eq!(users, vec!["alice"; mine], "{request}");
        let users = texts(&table(&mut all, request).await, "user");
        assert!(users.contains(&"alice".into()) && users.contains(&account()));
    }
    let name = ["hdb", "plain", "console"];
    assert_eq!(texts(&table(&mut alice, "endpoints").await, "name"), name);
    assert_eq!(table(&mut all, "endpoints").await.rows(), 4);
    let endpoints = texts(&table(&mut all, "sessions").await, "endpoint");
    assert_eq!(endpoints, ["hdb", "hdb", "console", "console"]);

    // Alice sees the refusal of her own session, and not that of a session without a user.
    let users = texts(&table(&mut alice, "errors").await, "user");
    assert!(users.iter().all(|user| user == "alice"), "{users:?}");
    let refused = texts(&table(&mut all, "errors").await, "message");
    assert!(
        refused.iter().any(|text| text.contains("nobody")),
        "{refused:?}"
    );

    let clusters = table(&mut alice, DISCOVERY[0]).await;
    assert_eq!(texts(&clusters, "cluster_name"), ["hdb-cluster"]);
    for request in [
        ".aws.list_kx_cluster_nodes[\"rdb-cluster\"]",
        ".aws.get_kx_connection_string[\"rdb-cluster\"]",
    ] {
        let refused = alice.ask(request).await.unwrap_err();
        assert!(refused.contains("no endpoint that alice may use leads to"));
        assert!(all.ask(request).await.is_ok());
    }
}

#[tokio::test]
async fn a_reload_takes_rights_from_sessions_that_are_open() {
    let mut stage = stage().await;
    let _hers = as_alice(&stage, "hdb").await;
    let mut console = stage.open("console").await;
    assert_eq!(table(&mut console, "sessions").await.rows(), 2);
    stage.reload(|config| config.user(&account(), |own| own.console(false)));
    assert_eq!(
        texts(&table(&mut console, "sessions").await, "user"),
        [account()]
    );
}

#[tokio::test]
async fn no_table_holds_a_secret() {
    let stage = stage().await;
    stage.sim.wait_for_calls("GetKxConnectionString", 4).await;
    let _session = stage.open("hdb").await;
    let mut console = stage.open("console").await;
    let secrets = stage.sim.issued_secrets();
    assert!(secrets.len() >= 4, "connection strings were handed out");
    for request in [
        "endpoints",
        "addresses",
        "sessions",
        "credentials",
        "errors",
    ] {
        let shown = table(&mut console, request).await;
        let bytes = Value::Table(shown).encode();
        let shown = String::from_utf8_lossy(&bytes);
        for secret in &secrets {
            assert!(!shown.contains(secret), "{request}: {shown}");
        }
        assert!(!shown.contains("X-Amz"), "{request}: {shown}");
    }
    let left = table(&mut console, "credentials").await;
    let Some(Value::Timespans(left)) = left.column("left") else {
        panic!("{left:?}");
    };
    let quarter = 15 * 60 * 1_000_000_000;
    assert!(
        left.iter().all(|left| (1..=quarter).contains(left)),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_loop_in_q_asks_aws_once_and_a_refusal_is_told_with_its_remedy() {
    let stage = stage().await;
    let mut console = stage.open("console").await;
    for _ in 0..50 {
        for request in DISCOVERY {
            table(&mut console, request).await;
        }
    }
    assert_eq!(stage.sim.calls("ListKxClusters"), 1);
    assert_eq!(stage.sim.calls("ListKxClusterNodes"), 1);

    stage
        .sim
        .faults()
        .deny("*", "finspace:ListKxClusterNodes", "*");
    for _ in 0..3 {
        let request = ".aws.list_kx_cluster_nodes[\"rdb-cluster\"]";
        let refused = console.ask(request).await.unwrap_err();
        assert!(
            refused.starts_with("hopend: finspace:ListKxClusterNodes on cluster rdb-cluster")
                && refused
                    .contains(". Fix: allow finspace:ListKxClusterNodes to the daemon's role: {"),
            "{refused}"
        );
    }
    let errors = table(&mut console, "errors").await;
    assert_eq!(errors.column("times"), Some(&Value::Longs(vec![3])));
    assert_eq!(
        errors.column("side"),
        Some(&Value::Symbols(vec!["denied".into()]))
    );
}

#[tokio::test]
async fn what_it_does_not_know_is_answered_with_what_there_is() {
    let (log, _guard) = Log::capture();
    let stage = stage().await;
    let mut console = stage.open("console").await;
    for request in ["select from sessions", "1+1", "exit 0"] {
        let answer = console.ask(request).await.unwrap_err();
        assert!(
            answer.starts_with("hopend: a console evaluates no q. Fix: ask it for endpoints, ")
        );
    }
    console.send(MessageType::Async, "").await;
    console.send(MessageType::Async, "exit 0").await;
    assert_eq!(table(&mut console, "errors").await.rows(), 0);
    let sessions = table(&mut console, "sessions").await;
    assert_eq!(texts(&sessions, "target"), ["console"]);
    assert_eq!(sessions.column("messages_up"), Some(&Value::Longs(vec![7])));
    assert_eq!(sessions.column("outstanding"), Some(&Value::Longs(vec![1])));
    drop(console);
    log.line_with(&[
        "session ended: the client closed",
        "to=console",
        "messages_up=7",
    ])
    .await;
    assert!(log.find(&["session open", "to=console"]).is_some());
}

#[tokio::test]
async fn a_drain_ends_an_idle_console_at_once() {
    let stage = stage().await;
    let mut console = stage.open("console").await;
    let summary = stage.app.stop().await;
    assert_eq!((summary.open, summary.cut), (1, 0));
    assert!(console.sees_end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_a_file_without_finspace() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = sim.write_files(folder.path(), &account()).unwrap();
    let checked = tokio::task::spawn_blocking(move || {
        command(&["check", "--config", path.to_str().unwrap()]).output()
    });
    let output = String::from_utf8(checked.await.unwrap().unwrap().stdout).unwrap();
    let line = output.lines().last().unwrap();
    assert!(
        line.starts_with("  console: localhost:") && line.contains("-> console, for "),
        "{output}"
    );

    let stage = Stage::builder()
        .simulator(sim)
        .configure(|config| config.without_environments().only_endpoints(&["console"]))
        .start()
        .await;
    let mut console = stage.open("console").await;
    assert_eq!(table(&mut console, "endpoints").await.rows(), 1);
    let answer = console.ask(DISCOVERY[0]).await.unwrap_err();
    assert!(
        answer.contains("add a table [environment.NAME]"),
        "{answer}"
    );
}
