//! The crate `kdb_codec`.

use std::io::ErrorKind;
use std::time::Duration;

use kdb_codec::{ConnectionMethod, Error, K, QStream, qattribute, qmsg_type, qtype};
use simulator::{Cut, Options};
use tokio::time::timeout;

use super::{kx_user, stage};
use crate::support::{Stage, account};

const LARGE: usize = 100_000_000;

async fn connect(stage: &Stage, credential: &str) -> Result<QStream, Error> {
    connect_to(stage.address("hdb").port(), credential).await
}

async fn connect_to(port: u16, credential: &str) -> Result<QStream, Error> {
    QStream::connect(ConnectionMethod::TCP, "127.0.0.1", port, credential).await
}

async fn ask(handle: &mut QStream, query: &str) -> K {
    handle.send_sync_message(&query).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_and_is_answered() {
    let stage = stage().await;
    let alice = format!("alice:{}", stage.password());
    for (credential, user) in [("", kx_user(&account())), (&alice, "alice".into())] {
        let mut handle = connect(&stage, credential).await.unwrap();
        assert_eq!(ask(&mut handle, ".z.u").await.get_symbol().unwrap(), user);
        assert_eq!(ask(&mut handle, "1+1").await.get_long().unwrap(), 2);
        handle.send_async_message(&"a:41").await.unwrap();
        assert_eq!(ask(&mut handle, "a+1").await.get_long().unwrap(), 42);

        let list = ask(&mut handle, "til 10").await;
        let ten: Vec<i64> = (0..10).collect();
        assert_eq!(*list.as_vec::<i64>().unwrap(), ten);

        let table = ask(&mut handle, "trades").await;
        let column = |name: &str| table.get_column(name).unwrap();
        let start = 776_000_000_000_000_000;
        let times: Vec<i64> = (0..5).map(|n| start + n * 60_000_000_000).collect();
        assert_eq!(*column("time").as_vec::<i64>().unwrap(), times);
        assert_eq!(
            *column("sym").as_vec::<String>().unwrap(),
            ["AAPL", "MSFT", "AAPL", "GOOG", "MSFT"]
        );
        assert_eq!(
            *column("price").as_vec::<f64>().unwrap(),
            [189.5, 411.25, 189.75, 141.0, 411.5]
        );
        assert_eq!(
            *column("size").as_vec::<i64>().unwrap(),
            [100, 200, 50, 75, 300]
        );

        let error = ask(&mut handle, "'mine").await;
        assert_eq!(error.get_error_string().unwrap(), "mine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_and_puts_100_mb() {
    let stage = stage().await;
    let mut handle = connect(&stage, "").await.unwrap();
    let got = ask(&mut handle, &format!("{LARGE}#0x01")).await;
    assert!(*got.as_vec::<u8>().unwrap() == vec![1; LARGE]);

    let put = K::new_compound_list(vec![
        K::new_string("{count x}".into(), 0),
        K::new_byte_list(vec![2; LARGE], 0),
    ]);
    let count = handle.send_sync_message(&put).await.unwrap();
    assert_eq!(count.get_long().unwrap(), i64::try_from(LARGE).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn is_told_that_a_password_is_wrong() {
    let stage = stage().await;
    // It has no error of its own for this: the stream ends where the capability byte should be.
    match connect(&stage, "alice:wrong").await.map(|_| ()) {
        Err(Error::IO(error)) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.sim.connections().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_told_that_the_cluster_went_away_in_a_query() {
    let stage = stage().await;
    let mut handle = connect(&stage, "").await.unwrap();
    let asked = async { ask(&mut handle, "system\"sleep 30\"").await };
    let cut = async {
        stage
            .sim
            .wait_until(|sim| sim.connections()[0].syncs == 1)
            .await;
        assert_eq!(stage.sim.cut("hdb-cluster", Cut::Fin), 1);
    };
    let both = timeout(Duration::from_secs(10), async { tokio::join!(asked, cut) });
    let (error, ()) = both.await.unwrap();
    let text = error.get_error_string().unwrap();
    assert!(
        text.contains("hopend: the cluster closed the connection with a request outstanding"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dials_the_unix_socket() {
    // The simulator's files give the socket the number of the TCP port.
    let stage = Stage::builder().fixed_ports().start().await;
    let number = stage.address("hdb").port();
    let connect = QStream::connect(ConnectionMethod::UDS, "", number, "");
    let mut handle = connect.await.unwrap();
    assert_eq!(ask(&mut handle, "1+1").await.get_long().unwrap(), 2);
    assert_eq!(stage.sim.connections()[0].capability, Some(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_what_the_cluster_compressed() {
    let options = Options {
        compress: true,
        ..Options::default()
    };
    let stage = Stage::builder().options(options).start().await;
    let mut handle = connect(&stage, "").await.unwrap();
    let numbers = ask(&mut handle, "1000000#7").await;
    let numbers = numbers.as_vec::<i64>().unwrap();
    assert!(numbers.len() == 1_000_000 && numbers.iter().all(|&n| n == 7));
    let sent = stage.sim.connections()[0].bytes_out;
    assert!(sent < 4_000_000, "{sent} bytes: not compressed");
}

#[tokio::test(flavor = "multi_thread")]
async fn is_called_back_before_the_answer() {
    let stage = stage().await;
    let mut handle = connect(&stage, "").await.unwrap();
    let question = "ask[\"well\"]";
    let sent = handle.send_message(&question, qmsg_type::synchronous);
    sent.await.unwrap();
    let (message_type, asked) = handle.receive_message().await.unwrap();
    assert_eq!(message_type, qmsg_type::synchronous);
    assert_eq!(asked.as_string().unwrap(), "well");
    let answer = K::new_string("nothing".to_owned(), qattribute::NONE);
    let sent = handle.send_message(&answer, qmsg_type::response);
    sent.await.unwrap();
    let (message_type, answer) = handle.receive_message().await.unwrap();
    assert_eq!(message_type, qmsg_type::response);
    assert_eq!(answer.as_string().unwrap(), "nothing");
}

/// Names and types of a table's columns; of the items, too, where they are a list.
fn columns(table: &K, names: &[&str]) -> Vec<(String, i8, Vec<i8>)> {
    assert_eq!(table.get_type(), qtype::TABLE);
    let of = |name: &&str| {
        let column = table.get_column(name).unwrap();
        let items = column.as_vec::<K>();
        let items = items.map(|items| items.iter().map(K::get_type).collect());
        (
            (*name).to_owned(),
            column.get_type(),
            items.unwrap_or_default(),
        )
    };
    names.iter().map(of).collect()
}

fn texts(table: &K, column: &str) -> Vec<String> {
    let column = table.get_column(column).unwrap();
    let items = column.as_vec::<K>().unwrap();
    let texts = items
        .iter()
        .map(|item| item.as_string().unwrap().to_owned());
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_console() {
    let stage = stage().await;
    let port = stage.address("console").port();
    let mut here = connect_to(port, "").await.unwrap();
    let mut there = connect(&stage, "").await.unwrap();
    let clusters = (
        ".aws.list_kx_clusters[]",
        &["cluster_name", "status", "cluster_type", "description"][..],
    );
    let nodes = (
        ".aws.list_kx_cluster_nodes[\"hdb-cluster\"]",
        &["node_id", "az_id", "launch_time"][..],
    );
    for (request, names) in [clusters, nodes] {
        let (mine, theirs) = (
            ask(&mut here, request).await,
            ask(&mut there, request).await,
        );
        assert_eq!(columns(&mine, names), columns(&theirs, names), "{request}");
    }
    let clusters = ask(&mut here, clusters.0).await;
    assert_eq!(
        texts(&clusters, "cluster_name"),
        ["gateway-cluster", "hdb-cluster", "rdb-cluster"]
    );
    let call = K::new_compound_list(vec![
        K::new_symbol(".aws.list_kx_cluster_nodes".into()),
        K::new_string("hdb-cluster".into(), qattribute::NONE),
    ]);
    let nodes = here.send_sync_message(&call).await.unwrap();
    assert_eq!(texts(&nodes, "az_id").len(), 3);
    let launched = nodes.get_column("launch_time").unwrap();
    assert_eq!(launched.get_type(), qtype::TIMESTAMP_LIST);

    let string = ask(&mut here, ".aws.get_kx_connection_string[\"hdb-cluster\"]").await;
    let port = string.as_string().unwrap().strip_prefix(":127.0.0.1:");
    let mut hdb = connect_to(port.unwrap().parse().unwrap(), "")
        .await
        .unwrap();
    assert_eq!(ask(&mut hdb, "1+1").await.get_long().unwrap(), 2);

    let sessions = ask(&mut here, "sessions").await;
    let kind = |name: &str| sessions.get_column(name).unwrap().get_type();
    assert_eq!(
        ["endpoint", "since", "idle", "bytes_up", "client"].map(kind),
        [
            qtype::SYMBOL_LIST,
            qtype::TIMESTAMP_LIST,
            qtype::TIMESPAN_LIST,
            qtype::LONG_LIST,
            qtype::COMPOUND_LIST,
        ]
    );
    let error = ask(&mut here, "select from sessions").await;
    let text = error.get_error_string().unwrap();
    assert!(text.contains("a console evaluates no q"), "{text}");
}
