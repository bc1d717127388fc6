//! Clusters and nodes: logins, expressions, discovery over q, faults.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on stops with what it found"
)]

mod client;

use std::io;
use std::time::Duration;

use client::{alice, ask, in_future, next, open, open_with, parts, start, tls};
use q_ipc::compress::decompress;
use q_ipc::frame::{Header, MessageType};
use q_ipc::message::{message, text};
use q_ipc::value::{Value, decode_message};
use simulator::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

#[tokio::test]
async fn a_string_opens_one_place_for_one_user_for_its_life() {
    let (offset, options) = in_future();
    let sim = Simulator::start(options).await.unwrap();
    sim.add_user("bob");
    let string = sim.connection_string("alice", "hdb-cluster").unwrap();
    let (port, _, password) = parts(&string);
    assert!(open(&sim, &string).await.is_some());

    let other = sim.port("rdb-cluster").unwrap();
    let login = format!("alice:{password}\x06\0");
    assert!(open_with(&sim, other, &login).await.is_none());
    let node = sim.port("sim-hdb-node-1").unwrap();
    assert!(open_with(&sim, node, &login).await.is_none());
    let bob = format!("bob:{password}\x06\0");
    assert!(open_with(&sim, port, &bob).await.is_none());
    let longer = login.replace("X-Amz-Expires=900", "X-Amz-Expires=9000");
    assert!(open_with(&sim, port, &longer).await.is_none());
    assert!(open_with(&sim, port, "alice:\x06\0").await.is_none());
    assert_eq!(sim.refusals().len(), 5, "{:?}", sim.refusals());

    let to_node = sim.connection_string("alice", "sim-hdb-node-2").unwrap();
    let mut stream = open(&sim, &to_node).await.unwrap();
    let node = Value::Symbol("sim-hdb-node-2".into());
    assert_eq!(ask(&mut stream, "nodeId[]").await, node);
    assert!(sim.issued_secrets().contains(&password));

    *offset.lock().unwrap() = Duration::from_secs(901);
    assert!(open(&sim, &string).await.is_none());
    assert_eq!(
        sim.refusals().last().unwrap(),
        "hdb-cluster: the connection string has expired"
    );
}

#[tokio::test]
async fn a_cluster_lands_on_one_node_after_the_other() {
    let sim = start().await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut stream = alice(&sim).await;
        seen.push(ask(&mut stream, "nodeId[]").await.as_text().unwrap());
    }
    let nodes = ["sim-hdb-node-1", "sim-hdb-node-2", "sim-hdb-node-3"];
    assert_eq!(seen[..3], nodes);
    assert_eq!(seen[3], nodes[0]);
}

#[tokio::test]
async fn a_node_evaluates_what_it_lists() {
    let sim = start().await;
    let mut stream = alice(&sim).await;
    let longs = |items: &[i64]| Value::Longs(items.to_vec());
    for (question, answer) in [
        ("1+1", Value::Long(2)),
        ("2*3+4", Value::Long(14)),
        ("6%4", Value::Float(1.5)),
        ("7-2", Value::Long(5)),
        ("1 2 3", longs(&[1, 2, 3])),
        ("1 -2", longs(&[1, -2])),
        ("1+til 3", longs(&[1, 2, 3])),
        ("\"abc\"", Value::text("abc")),
        ("`a", Value::Symbol("a".into())),
        ("`a`b", Value::Symbols(vec!["a".into(), "b".into()])),
        ("3#0x01", Value::Bytes(vec![1, 1, 1])),
        ("2#1.5", Value::Floats(vec![1.5, 1.5])),
        ("a:1", Value::NULL),
        ("a", Value::Long(1)),
        ("a+1;a", Value::Long(1)),
        ("{x*2} 4", Value::Long(8)),
        ("{[a;b]a-b}[5;2]", Value::Long(3)),
        ("count til 10", Value::Long(10)),
        ("sum til 100000000", Value::Long(4_999_999_950_000_000)),
        ("'oops", Value::Error("oops".into())),
        ("'\"a b\"", Value::Error("a b".into())),
        ("count trades", Value::Long(5)),
        ("system\"sleep 0.001\"", Value::List(Vec::new())),
        (
            "(1;`a)",
            Value::List(vec![Value::Long(1), Value::Symbol("a".into())]),
        ),
        (".z.w", Value::Int(6)),
        ("", Value::NULL),
    ] {
        assert_eq!(ask(&mut stream, question).await, answer, "{question}");
    }
    let Value::Table(table) = ask(&mut stream, "select from trades").await else {
        panic!("no table");
    };
    assert_eq!(table.rows(), 5);
    let Value::Table(table) = ask(&mut stream, "([]a:1 2 3;b:`x`y`z)").await else {
        panic!("no table");
    };
    assert_eq!(table.column("a"), Some(&longs(&[1, 2, 3])));
    let Value::Error(error) = ask(&mut stream, "exit 0").await else {
        panic!("no error");
    };
    assert!(error.contains("not q; it knows 1+1"), "{error}");

    let put = Value::List(vec![
        Value::text("{count x}"),
        Value::Bytes(vec![0; 100_000]),
    ]);
    stream
        .write_all(&message(MessageType::Sync, &put.encode()))
        .await
        .unwrap();
    let (_, value) = decode_message(&next(&mut stream).await).unwrap();
    assert_eq!(value, Value::Long(100_000));
}

#[tokio::test]
async fn discovery_over_q_gives_tables_and_strings_that_open() {
    let sim = start().await;
    let mut stream = alice(&sim).await;
    let Value::Table(clusters) = ask(&mut stream, ".aws.list_kx_clusters[]").await else {
        panic!("no table");
    };
    let names = clusters.column("cluster_name").unwrap().as_texts().unwrap();
    assert_eq!(names, ["gateway-cluster", "hdb-cluster", "rdb-cluster"]);
    let question = ".aws.list_kx_cluster_nodes[\"rdb-cluster\"]";
    let Value::Table(nodes) = ask(&mut stream, question).await else {
        panic!("no table");
    };
    assert_eq!(nodes.rows(), 3);
    assert!(matches!(
        nodes.column("launch_time"),
        Some(Value::Timestamps(_))
    ));
    let question = ".aws.get_kx_node_connection_string[\"rdb-cluster\";\"sim-rdb-node-3\"]";
    let string = ask(&mut stream, question).await.as_text().unwrap();
    let mut node = open(&sim, &string).await.unwrap();
    let expected = Value::Symbol("sim-rdb-node-3".into());
    assert_eq!(ask(&mut node, "nodeId[]").await, expected);
}

#[tokio::test]
async fn a_node_calls_its_client() {
    let sim = start().await;
    let mut stream = alice(&sim).await;
    stream
        .write_all(&text(
            MessageType::Sync,
            "callback[\"tick\"];1+ask[\"2*3\"]",
        ))
        .await
        .unwrap();
    let pushed = next(&mut stream).await;
    assert_eq!(pushed, text(MessageType::Async, "tick"));
    assert_eq!(next(&mut stream).await, text(MessageType::Sync, "2*3"));
    // Asked back before the answer, as a nested call.
    assert_eq!(ask(&mut stream, "40+2").await, Value::Long(42));
    stream
        .write_all(&message(MessageType::Response, &Value::Long(6).encode()))
        .await
        .unwrap();
    let (_, value) = decode_message(&next(&mut stream).await).unwrap();
    assert_eq!(value, Value::Long(7));
}

#[tokio::test]
async fn pings_are_counted_and_not_answered() {
    let sim = start().await;
    let mut stream = alice(&sim).await;
    for _ in 0..3 {
        stream
            .write_all(&text(MessageType::Async, ""))
            .await
            .unwrap();
    }
    stream
        .write_all(&text(MessageType::Async, "a:5"))
        .await
        .unwrap();
    assert_eq!(ask(&mut stream, "pings[]").await, Value::Long(3));
    assert_eq!(ask(&mut stream, "a").await, Value::Long(5));
    let record = &sim.connections()[0];
    assert_eq!((record.pings, record.asyncs, record.syncs), (3, 4, 2));
}

#[tokio::test]
async fn an_idle_connection_is_reset_and_a_ping_keeps_it() {
    let options = Options {
        idle_limit: Duration::from_millis(300),
        ..Options::default()
    };
    let sim = Simulator::start(options).await.unwrap();
    let mut quiet = alice(&sim).await;
    let mut busy = alice(&sim).await;
    // Nothing comes back for twice the limit, but pings go out.
    let question = text(MessageType::Sync, "system\"sleep 0.6\";1");
    busy.write_all(&question).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let answer = loop {
        tokio::select! {
            biased;
            answer = next(&mut busy) => break answer,
            _ = tick.tick() => busy_ping(&mut busy).await,
        }
    };
    assert_eq!(decode_message(&answer).unwrap().1, Value::Long(1));
    let error = quiet.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(sim.connections()[0].ended, Some(ConnectionEnd::Idle));
    assert_eq!(sim.connections()[1].ended, None);
}

async fn busy_ping(stream: &mut TlsStream<TcpStream>) {
    stream
        .write_all(&text(MessageType::Async, ""))
        .await
        .unwrap();
}

#[tokio::test]
async fn large_answers_are_streamed() {
    let sim = start().await;
    let mut stream = alice(&sim).await;
    stream
        .write_all(&text(MessageType::Sync, "20000000#0x07"))
        .await
        .unwrap();
    let answer = next(&mut stream).await;
    assert_eq!(answer.len(), 8 + 6 + 20_000_000);
    assert!(answer[14..].iter().all(|&b| b == 7));
    stream
        .write_all(&text(MessageType::Sync, "til 2000000"))
        .await
        .unwrap();
    let (_, value) = decode_message(&next(&mut stream).await).unwrap();
    assert_eq!(value, Value::Longs((0..2_000_000).collect()));

    stream
        .write_all(&text(MessageType::Sync, "5000000000#0x00"))
        .await
        .unwrap();
    let mut start = [0; 18];
    stream.read_exact(&mut start).await.unwrap();
    let count = 5_000_000_000u64;
    let header = Header::parse(*start.first_chunk().unwrap()).unwrap();
    assert_eq!(header.length, count + 18);
    assert_eq!(start[8..10], [4, 0x80]);
    assert_eq!(start[10..], count.to_le_bytes());
}

#[tokio::test]
async fn answers_are_compressed_and_big_endian_on_request() {
    let options = Options {
        compress: true,
        ..Options::default()
    };
    let sim = Simulator::start(options).await.unwrap();
    let mut stream = alice(&sim).await;
    stream
        .write_all(&text(MessageType::Sync, "1000#7"))
        .await
        .unwrap();
    let answer = next(&mut stream).await;
    assert_eq!(answer[2], 1);
    let (_, value) = decode_message(&decompress(&answer, 1 << 20).unwrap()).unwrap();
    assert_eq!(value, Value::Longs(vec![7; 1000]));

    let options = Options {
        big_endian: true,
        ..Options::default()
    };
    let sim = Simulator::start(options).await.unwrap();
    let mut stream = alice(&sim).await;
    assert_eq!(ask(&mut stream, "1+1").await, Value::Long(2));
    stream
        .write_all(&text(MessageType::Sync, "til 2000000"))
        .await
        .unwrap();
    let (header, value) = decode_message(&next(&mut stream).await).unwrap();
    assert!(!header.little_endian);
    assert_eq!(value, Value::Longs((0..2_000_000).collect()));
}

#[tokio::test]
async fn live_connections_are_cut_in_three_ways() {
    let sim = start().await;
    for how in [Cut::Fin, Cut::Reset, Cut::InsideFrame] {
        let mut stream = alice(&sim).await;
        sim.wait_for_connections("hdb-cluster", 1).await;
        assert_eq!(sim.cut("hdb-cluster", how), 1);
        let mut rest = Vec::new();
        let result = stream.read_to_end(&mut rest).await;
        sim.wait_for_connections("hdb-cluster", 0).await;
        match how {
            Cut::Fin => assert_eq!((result.ok(), rest.len()), (Some(0), 0)),
            Cut::Reset => assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
            _ => assert_eq!((result.ok(), rest.len()), (Some(18), 18)),
        }
        let ended = sim.connections().last().unwrap().ended;
        assert_eq!(ended, Some(ConnectionEnd::Cut(how)));
    }
}

#[tokio::test]
async fn a_cluster_goes_wrong_as_it_is_told() {
    let sim = start().await;
    let port = sim.port("hdb-cluster").unwrap();
    let string = sim.connection_string("alice", "hdb-cluster").unwrap();
    for flaw in [
        CertificateFlaw::OtherAuthority,
        CertificateFlaw::OtherHost,
        CertificateFlaw::Expired,
    ] {
        let fault = ClusterFault::Certificate(flaw);
        sim.faults().cluster("hdb-cluster", fault, Times::Next(1));
        let error = tls(&sim, port).await.unwrap_err();
        assert!(error.to_string().contains("ertificate"), "{error}");
    }
    for fault in [
        ClusterFault::CloseAtAccept,
        ClusterFault::ResetAtAccept,
        ClusterFault::CloseAtTls,
        ClusterFault::Plaintext,
    ] {
        sim.faults().cluster("hdb-cluster", fault, Times::Next(1));
        assert!(tls(&sim, port).await.is_err(), "{fault:?}");
    }
    for fault in [
        ClusterFault::RefuseLogin,
        ClusterFault::CloseAfterLogin,
        ClusterFault::CloseAfterTls,
    ] {
        sim.faults().cluster("hdb-cluster", fault, Times::Next(1));
        assert!(open(&sim, &string).await.is_none(), "{fault:?}");
    }
    assert!(open(&sim, &string).await.is_some());
    sim.faults()
        .cluster("sim-hdb-node-1", ClusterFault::CloseAtAccept, Times::Always);
    let node = sim.connection_string("alice", "sim-hdb-node-1").unwrap();
    assert!(tls(&sim, parts(&node).0).await.is_err());
}

#[tokio::test]
async fn the_plain_double_takes_one_password() {
    let sim = start().await;
    let PlainServer {
        port,
        user,
        password,
    } = sim.plain();
    let login = format!("{user}:{password}\x03\0");
    let mut stream = open_with(&sim, *port, &login).await.unwrap();
    assert_eq!(ask(&mut stream, "1+1").await, Value::Long(2));
    assert!(open_with(&sim, *port, "svc:wrong\x03\0").await.is_none());
    assert_eq!(sim.connections()[0].capability, Some(3));
}

#[tokio::test]
async fn the_files_name_everything_that_hopend_needs() {
    use std::os::unix::fs::PermissionsExt;

    let sim = start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = sim.write_files(&dir.path().join("sim"), "j.doe").unwrap();
    let written: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let users = written["user"].as_array().unwrap();
    assert_eq!(users[0]["os_user"].as_str(), Some("j.doe"));
    assert_eq!(users[0]["kx_user"].as_str(), Some("j-doe"));
    assert_eq!(users[1]["name"].as_str(), Some("alice"));
    assert_eq!(written["endpoint"][0]["name"].as_str(), Some("hdb"));
    assert!(sim.connection_string("j-doe", "hdb-cluster").is_some());
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for file in [
        "hopend.toml",
        "credentials",
        "alice.password",
        "plain.password",
    ] {
        assert_eq!(mode(&path.with_file_name(file)), 0o600);
    }
    let hash = users[1]["password"].as_str().unwrap();
    let password = std::fs::read_to_string(path.with_file_name("alice.password")).unwrap();
    let hash = argon2::password_hash::phc::PasswordHash::new(hash).unwrap();
    use argon2::password_hash::PasswordVerifier;
    argon2::Argon2::default()
        .verify_password(password.trim_end().as_bytes(), &hash)
        .unwrap();
}
