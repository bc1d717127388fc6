//! Clients that dawdle, stop reading, or vanish.

use std::process::Command;
use std::time::Duration;

use q_ipc::frame::MessageType;
use q_ipc::message;
use q_ipc::value::Value;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::relay::asked;
use super::{Case, Row, Sees};
use crate::support::kdb::Kdb;
use crate::support::{Configuration, QClient, vanish};

/// Long enough for a busy machine, short enough to fail in good time.
const PATIENCE: Duration = Duration::from_secs(30);
/// When kdb+ answers a client that is killed before that.
const ANSWERS_AFTER: Duration = Duration::from_secs(600);
/// Bytes of an answer that nobody reads: more than all buffers on its way hold.
const MUCH: u64 = 64 << 20;

/// A byte now and then, and the deadline of the handshake is of the whole.
async fn dawdles_at_the_login(row: &Row) {
    let change =
        |config: Configuration| config.endpoint("hdb", |hdb| hdb.handshake_timeout("300ms"));
    let case = Case::with(change).await;
    let stream = TcpStream::connect(case.stage.address("hdb")).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let read = tokio::io::AsyncReadExt::read(&mut reader, &mut [0]).await;
    assert_eq!(read.unwrap(), 0);
    row.saw(Sees::Access);
    row.logged(&case.log).await;
    drop(reader);
    drip.await.unwrap();
    let services = case.stage.app.services();
    let free = async {
        while services.memory().handshakes_bytes > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let free = timeout(PATIENCE, free).await;
    free.expect("its place is not free");
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

async fn dawdles_with_a_message(row: &Row) {
    let case = Case::start().await;
    let mut slow = case.stage.open("hdb").await;
    let mut other = case.stage.open("hdb").await;
    for byte in message::text(MessageType::Sync, "1+1") {
        slow.stream.write_all(&[byte]).await.unwrap();
        assert_eq!(other.ask("2+2").await, Ok(Value::Long(4)));
    }
    assert_eq!(slow.answer().await, Ok(Value::Long(2)));
    row.saw(Sees::Nothing);
    drop(slow);
    row.logged(&case.log).await;
    case.end();
}

/// hopend holds no more of the answer than its buffers and the kernel's.
async fn stops_reading(row: &Row) {
    let case = Case::start().await;
    let mut deaf = case.stage.open("hdb").await;
    let mut other = case.stage.open("hdb").await;
    deaf.send(MessageType::Sync, &format!("{MUCH}#0x00")).await;
    let begun = |sim: &simulator::Simulator| sim.connections()[0].bytes_out > 1 << 16;
    case.stage.sim.wait_until(begun).await;
    for _ in 0..100 {
        assert_eq!(other.ask("1+1").await, Ok(Value::Long(2)));
    }
    let sent = case.stage.sim.connections()[0].bytes_out;
    assert!(sent < MUCH / 2, "{sent} bytes went somewhere");
    row.saw(Sees::Nothing);
    drop(deaf);
    row.logged(&case.log).await;
    case.stage.sim.wait_for_connections("hdb-cluster", 1).await;
    let sent = case.stage.sim.connections()[0].bytes_out;
    assert!(sent > MUCH, "kdb+ could say {sent} bytes");
    case.end();
}

/// The timer that the kernel has set for hopend's end of a connection.
fn timer(filter: &str) -> String {
    let listed = Command::new("ss").args(["-tnoH", filter]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 1, "{filter}: {listed}");
    listed
        .split("timer:(")
        .nth(1)
        .unwrap_or_default()
        .to_owned()
}

/// What takes no packet any more, and has said nothing of it. Only the kernel's probes can tell, and
/// they need two minutes: here it is asked whether it has set them on both sides.
async fn vanishes(row: &Row) {
    let case = Case::start().await;
    let gone = case.stage.open("hdb").await;
    row.logged(&case.log).await;
    let client = gone.stream.local_addr().unwrap().port();
    let own = gone.stream.peer_addr().unwrap().port();
    let cluster = case.stage.sim.port("hdb-cluster").unwrap();
    // Others on this host may have the client's port, too, towards other addresses.
    let sides = [
        format!("sport = :{own} and dport = :{client}"),
        format!("dport = :{cluster}"),
    ];
    // What was said is acknowledged a moment later.
    while !sides
        .iter()
        .all(|side| timer(side).starts_with("keepalive"))
    {
        tokio::task::yield_now().await;
    }
    vanish(&SockRef::from(&gone.stream));
    assert!(timer(&sides[0]).starts_with("keepalive"));
    row.saw(case.hopen().await);
    case.end();
}

/// One session at a time: the next one needs its place.
fn of_one_session(config: Configuration) -> Configuration {
    config.endpoint("hdb", |hdb| hdb.max_sessions(1))
}

/// Such a client has closed both ways, which over TCP looks as if it had only ended its own.
async fn is_killed<S>(row: &Row, case: Case, mut handle: QClient<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    handle.send(MessageType::Sync, "system\"sleep 600\"").await;
    case.stage.sim.wait_until(asked).await;
    drop(handle);
    row.saw(Sees::Nothing);
    row.logged(&case.log).await;
    // hopend may still say goodbye to kdb+.
    let free = async { while case.hopen().await != Sees::Nothing {} };
    let free = timeout(PATIENCE, free).await;
    free.expect("its place is not free");
    // Nothing else happens: the clock runs ahead to the answer.
    tokio::time::pause();
    let closed = case.stage.sim.wait_for_connections("hdb-cluster", 0);
    let closed = timeout(2 * ANSWERS_AFTER, closed).await;
    tokio::time::resume();
    closed.expect("kdb+ finds the handle open");
    case.end();
}

async fn is_killed_over_tcp(row: &Row) {
    let case = Case::with(of_one_session).await;
    let handle = case.stage.open("hdb").await;
    is_killed(row, case, handle).await;
}

async fn is_killed_over_unix(row: &Row) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hdb");
    let both = ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
    let case =
        Case::with(|config| of_one_session(config).endpoint("hdb", |hdb| hdb.listen(both))).await;
    let stream = UnixStream::connect(&path).await.unwrap();
    let handle = QClient::log_in(stream, "", "").await.unwrap();
    is_killed(row, case, handle).await;
}

/// As long as its socket is held by anybody, hopend waits with it.
async fn ends_its_side(row: &Row) {
    let case = Case::start().await;
    let mut handle = case.stage.open("hdb").await;
    handle.send(MessageType::Sync, "system\"sleep 300\"").await;
    case.stage.sim.wait_until(asked).await;
    handle.stream.shutdown().await.unwrap();
    // Nothing else happens: the clock runs ahead from look to look, and to the answer.
    tokio::time::pause();
    handle.answer().await.unwrap();
    tokio::time::resume();
    row.saw(Sees::Nothing);

    row.logged(&case.log).await;
    case.end();
}

/// kdb+ publishes without a pause; a close over unread input is a reset. Whether hopend holds messages at
/// that moment is chance, so there are several clients.
async fn publishes_and_exits(row: &Row) {
    let kdb = Kdb::plain().await;
    let case = Case::with(|config| config.endpoint("plain", |plain| kdb.behind_plain(plain))).await;
    for reads_at_once in [true, false].repeat(5) {
        let (handle, wire) = tokio::join!(case.stage.open("plain"), kdb.accept());
        let arrived = crate::delivery::publish_and_exit(handle.stream, wire, reads_at_once).await;
        assert_eq!(arrived, crate::delivery::PUBLISHED.0);
        row.saw(Sees::Nothing);
    }
    row.logged(&case.log).await;
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

faults! {
    #[tokio::test]
    a_byte_now_and_then_at_the_login {
        fault: "a client that says its login byte by byte, without an end",
        sees: Sees::Access,
        log: &["session refused", "the client sent no complete handshake within 0.3 s", "kind=\"client\""],
        recovers: "its place is free after `handshake_timeout`",
        test(row): dawdles_at_the_login(row),
    }
    a_byte_now_and_then_in_a_session {
        fault: "a client that sends a message byte by byte",
        sees: Sees::Nothing,
        log: &["session ended", "the client closed", "messages_up=1", "kind=\"none\""],
        recovers: "nothing to recover: the message arrives whole, others are not held up",
        test(row): dawdles_with_a_message(row),
    }
    vanishes_without_a_word {
        fault: "a client that vanishes without a FIN, nothing under way to it",
        sees: Sees::Nothing,
        log: &["session open", "endpoint=\"hdb\""],
        recovers: "the kernel gives it up after five probes, two minutes; others are not held up",
        test(row): vanishes(row),
    }
    killed_while_it_waits {
        fault: "a client is killed while it waits for an answer",
        sees: Sees::Nothing,
        log: &["session ended", "the client closed with a request outstanding", "kind=\"client\""],
        recovers: "its session ends within seconds, its place is free; kdb+ finds the handle closed when it answers, as without hopend",
        test(row): is_killed_over_tcp(row),
    }
    killed_while_it_waits_at_a_unix_socket {
        fault: "the same over a Unix socket",
        sees: Sees::Nothing,
        log: &["session ended", "the client closed with a request outstanding", "kind=\"client\""],
        recovers: "the same",
        test(row): is_killed_over_unix(row),
    }
    ends_its_side_and_waits {
        fault: "a client ends its side of the stream and waits for its answer for five minutes",
        sees: Sees::Nothing,
        log: &["session ended", "the client closed", "messages_down=1", "kind=\"none\""],
        recovers: "nothing to recover: it gets its answer",
        test(row): ends_its_side(row),
    }
    publishes_and_exits_without_reading {
        fault: "a client on a fast feed publishes and exits, with input that it has not read",
        sees: Sees::Nothing,
        log: &["session ended", "the client's connection broke", "messages_up=100", "kind=\"client\""],
        recovers: "nothing to recover: kdb+ gets all that was sent, then the end",
        test(row): publishes_and_exits(row),
    }
    reads_no_more {
        fault: "a client that stops reading in the middle of an answer, and ends",
        sees: Sees::Nothing,
        log: &["session ended", "the client's connection broke", "kind=\"client\""],
        recovers: "when it ends hopend reads kdb+'s answer to its end, and the session is over; meanwhile others are not held up",
        test(row): stops_reading(row),
    }
}
