//! Limits refuse what is too much, say so, and leave everybody else alone.

use std::time::{Duration, Instant};

use q_ipc::frame::MessageType;
use q_ipc::value::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::configuration::{Configuration, EndpointTable};
use crate::support::qclient::Refused;
use crate::support::{Log, QClient, Stage};

/// With keys for the endpoint `hdb`.
async fn stage(hdb: impl FnOnce(EndpointTable) -> EndpointTable) -> Stage {
    Stage::builder().endpoint("hdb", hdb).start().await
}

async fn alice(stage: &Stage) -> Result<QClient, Refused> {
    QClient::open(stage.address("hdb"), "alice", &stage.password()).await
}

#[tokio::test]
async fn one_user_cannot_take_all_of_an_endpoints_places() {
    let (log, _guard) = Log::capture();
    let stage = stage(|hdb| hdb.max_sessions(4)).await;
    let mut mine = Vec::new();
    for _ in 0..3 {
        mine.push(stage.open("hdb").await);
    }
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    log.line_with(&[
        "session refused",
        "at endpoint hdb has 3 sessions",
        "max_sessions_per_user of the endpoint",
        "raise it",
        "kind=\"limit\"",
    ])
    .await;
    let mut hers = alice(&stage).await.unwrap();
    assert_eq!(hers.ask("1+1").await, Ok(Value::Long(2)));
    assert!(matches!(alice(&stage).await, Err(Refused::Broken(_))));
    log.line_with(&["endpoint hdb has 4 sessions, which is max_sessions of the endpoint"])
        .await;
    let status = stage.app.status();
    let hdb = status
        .endpoints
        .iter()
        .find(|row| row.name == "hdb")
        .unwrap();
    assert_eq!((hdb.sessions, hdb.refused), (4, 2));
    assert!(
        status
            .errors
            .iter()
            .any(|row| row.message.contains("max_sessions"))
    );

    // Another endpoint has a limit of its own. Here a session can open as soon as a handle is closed.
    stage.open("rdb").await;
    drop(mine.pop());
    alice(&stage).await.unwrap();
}

#[tokio::test]
async fn who_is_refused_for_a_limit_is_told_why_where_errors_are_explained() {
    let stage = stage(|hdb| hdb.max_sessions(1).errors("explain")).await;
    let _first = stage.open("hdb").await;
    let mut second = stage.open("hdb").await;
    let reason = second.ask("1+1").await.unwrap_err();
    assert!(
        reason.contains("has 1 sessions") && reason.contains("raise it"),
        "{reason}"
    );
}

/// It keeps the place of those that are not known yet.
#[tokio::test]
async fn who_is_refused_for_a_limit_and_asks_nothing_is_let_go_soon() {
    let keys = |hdb: EndpointTable| {
        hdb.max_sessions(1)
            .errors("explain")
            .handshake_timeout("500ms")
    };
    let stage = stage(keys).await;
    let _first = stage.open("hdb").await;
    let mut second = stage.open("hdb").await;
    // Else after the minute that there is for explanations.
    let end = tokio::time::timeout(Duration::from_secs(30), second.sees_end());
    assert_eq!(end.await, Ok(true));
}

#[tokio::test]
async fn a_users_and_the_daemons_sessions_count_on_all_endpoints() {
    let (log, _guard) = Log::capture();
    let own = crate::support::account();
    let mut stage = Stage::builder()
        .user(&own, |own| own.max_sessions(2))
        .start()
        .await;
    let _mine = (stage.open("hdb").await, stage.open("rdb").await);
    let refused = QClient::open(stage.address("plain"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    log.line_with(&["has 2 sessions, which is max_sessions of the user"])
        .await;
    alice(&stage).await.unwrap();

    // Sessions that run count against limits that come with a reload.
    stage.reload(|config| config.daemon(|daemon| daemon.max_sessions(2)));
    assert!(matches!(alice(&stage).await, Err(Refused::Broken(_))));
    log.line_with(&["hopend has 2 sessions, which is max_sessions of [daemon]"])
        .await;
}

#[tokio::test]
async fn opens_beyond_the_pace_wait_for_their_turn_and_then_are_refused() {
    let (log, _guard) = Log::capture();
    let stage = stage(|hdb| hdb.max_opens_per_second(5)).await;
    let begun = Instant::now();
    let address = stage.address("hdb");
    let opens = (0..30).map(|_| QClient::open(address, "", ""));
    let opened = futures_util::future::join_all(opens).await;
    let count = opened.iter().filter(|open| open.is_ok()).count();
    // Four of the five at once, four within the second that each may wait; more if this machine is slow.
    let seconds = begun.elapsed().as_secs_f64();
    assert!(count >= 8, "{count}");
    assert!(
        (count as f64) < 9.0 + 4.0 * seconds,
        "{count} in {seconds} s"
    );
    // One of the five is kept for others.
    alice(&stage).await.unwrap();
    if count < 30 {
        log.line_with(&[
            "at endpoint hdb opens more than 4 sessions a second",
            "max_opens_per_second of the endpoint, less a share for its other users",
            "kind=\"limit\"",
        ])
        .await;
    }
    // The pace of one endpoint is no other's.
    stage.open("rdb").await;
}

#[tokio::test]
async fn an_idle_session_ends_and_keepalives_do_not_keep_it() {
    let (log, _guard) = Log::capture();
    let stage = stage(|hdb| hdb.idle_timeout("500ms").keepalive("100ms")).await;
    let mut idle = stage.open("hdb").await;
    idle.ask("1+1").await.unwrap();
    let begun = Instant::now();
    assert!(idle.sees_end().await);
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let line = log
        .line_with(&[
            "session ended",
            "neither used nor waiting for 0.5 s (idle_timeout)",
        ])
        .await;
    assert!(!line.contains("pings=0 "), "{line}");
}

#[tokio::test]
async fn an_idle_console_ends_as_well() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .endpoint("console", |console| console.idle_timeout("500ms"))
        .start()
        .await;
    let mut console = stage.open("console").await;
    console.ask("sessions").await.unwrap();
    assert!(console.sees_end().await);
    log.line_with(&["session ended", "(idle_timeout)"]).await;
}

/// The daemon's thread, which is this one, comes late to both.
#[tokio::test]
async fn a_request_that_came_before_the_idle_end_was_noticed_is_answered() {
    let stage = stage(|hdb| hdb.idle_timeout("500ms")).await;
    for _ in 0..8 {
        let mut handle = stage.open("hdb").await;
        handle.ask("1+1").await.unwrap();
        handle.send(MessageType::Sync, "2+2").await;
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(handle.answer().await, Ok(Value::Long(4)));
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_is_not_idle() {
    let stage = stage(|hdb| hdb.idle_timeout("300ms")).await;
    let mut waiting = stage.open("hdb").await;
    assert!(waiting.ask("system\"sleep 2\"").await.is_ok());
    assert!(waiting.sees_end().await);
}

/// Clients that send nothing hold handshake permits, and never the session permits of clients that do.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let stage = stage(|hdb| hdb.max_sessions(2).handshake_timeout("30s")).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(stage.address("hdb")).await.unwrap();
        stream.write_all(b"alice:").await.unwrap();
        silent.push(stream);
    }
    stage.open("hdb").await.ask("1+1").await.unwrap();
    alice(&stage).await.unwrap();
    let mut byte = [0];
    let first = &mut silent[0];
    let pending = tokio::time::timeout(Duration::from_millis(1), first.read(&mut byte)).await;
    assert!(pending.is_err(), "still in its handshake");
}

#[test]
fn descriptors_are_raised_and_what_they_do_not_suffice_for_is_told() {
    use crate::support::Process;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hopend.toml");
    let own = crate::support::account();
    Configuration::default()
        .add_user(&own, |user| user.os_user(&*own))
        .add_endpoint("a", |a| a.connect(":127.0.0.1:1").login("client"))
        .daemon(|daemon| daemon.control("off").max_sessions(100_000))
        .write(&path);
    let mut command = std::process::Command::new("bash");
    command.args([
        "-c",
        "ulimit -Sn 600; ulimit -Hn 1500; exec \"$0\" run --config \"$1\"",
    ]);
    command.arg(env!("CARGO_BIN_EXE_hopend")).arg(&path);
    let mut daemon = Process::spawn(&mut command);
    daemon.line_with("100000 sessions are allowed, and file descriptors for 514");
    daemon.line_with("ready");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["1500", "1500"]);
}
