//! `warm = n`: connections wait logged in for those who come, each for its own user, alive, clean and
//! up to date, and a hopen that gets one costs no login.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use q_ipc::frame::MessageType;
use q_ipc::message;
use q_ipc::value::Value;
use simulator::{ClusterFault, ConnectionEnd, Cut, Options, Simulator, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::configuration::{Change, EndpointTable, table};
use crate::support::{
    Configuration, Log, Process, QClient, Stage, account, process, write_configuration,
};

const HDB: &str = "hdb-cluster";
const WARM: usize = 3;

/// Three warm connections on every endpoint but the console.
fn warm(config: Configuration) -> Configuration {
    config.every_kdb_endpoint(|kdb| kdb.warm(3))
}

async fn stage(options: Options) -> Stage {
    stage_with(options, |hdb| hdb).await
}

/// With more keys of the endpoint `hdb`.
async fn stage_with(options: Options, hdb: impl FnOnce(EndpointTable) -> EndpointTable) -> Stage {
    Stage::builder()
        .options(options)
        .configure(warm)
        .endpoint("hdb", hdb)
        .start()
        .await
}

/// How many connections wait for a user.
fn ready(stage: &Stage, endpoint: &str, user: &str) -> usize {
    let status = stage.app.status();
    let mut endpoints = status.endpoints.iter();
    let row = endpoints.find(|row| row.name == endpoint).unwrap();
    let warm = row.warm.iter().find(|row| row.user == user);
    warm.map_or(0, |row| usize::try_from(row.ready).unwrap())
}

/// Returns when a user's connections are all there.
async fn full(stage: &Stage, endpoint: &str, user: &str) {
    let full = async {
        while ready(stage, endpoint, user) < WARM {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(Duration::from_secs(60), full).await;
    waited.unwrap_or_else(|_| panic!("{:?}", stage.app.status().endpoints));
}

/// A handle that says `capability`, and what it was answered.
async fn say(address: SocketAddr, capability: Option<u8>) -> (QClient, u8) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut hello = b":".to_vec();
    hello.extend(capability);
    hello.push(0);
    stream.write_all(&hello).await.unwrap();
    let answer = stream.read_u8().await.unwrap();
    (QClient { stream }, answer)
}

/// The audit lines of sessions that were opened, in order.
fn opens(log: &Log) -> Vec<String> {
    let text = log.text();
    let lines = text.lines().filter(|line| line.contains("session open"));
    lines.map(str::to_owned).collect()
}

/// Whether each of them got a connection that had waited.
fn were_warm(log: &Log) -> Vec<bool> {
    let opens = opens(log);
    opens
        .iter()
        .map(|line| line.contains("warm=true"))
        .collect()
}

async fn works(handle: &mut QClient) {
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
}

#[tokio::test]
async fn behind_the_first_hopen_all_are_warm_and_what_is_taken_is_made_again() {
    let (log, _guard) = Log::capture();
    let stage = stage(Options::default()).await;
    assert_eq!(ready(&stage, "hdb", &account()), 0, "nobody has come");
    let mut handles = Vec::new();
    for _ in 0..4 {
        let mut handle = stage.open("hdb").await;
        works(&mut handle).await;
        handles.push(handle);
        full(&stage, "hdb", &account()).await;
        assert_eq!(stage.sim.live(HDB), handles.len() + WARM);
    }
    assert_eq!(were_warm(&log), [false, true, true, true]);
    drop(handles);
    stage.sim.wait_for_connections(HDB, WARM).await;
}

/// Alice comes while connections of the other account wait, on an endpoint where each logs in as
/// itself and on one where all log in the same.
#[tokio::test]
async fn nobody_gets_what_was_made_for_another() {
    let (log, _guard) = Log::capture();
    let stage = stage(Options::default()).await;
    let password = stage.password();
    for endpoint in ["hdb", "plain"] {
        let address = stage.address(endpoint);
        let _mine = stage.open(endpoint).await;
        full(&stage, endpoint, &account()).await;
        let mut alice = QClient::open(address, "alice", &password).await.unwrap();
        works(&mut alice).await;
        assert_eq!(ready(&stage, endpoint, &account()), WARM, "{endpoint}");
        full(&stage, endpoint, "alice").await;
        // Whoever does not know the password gets none of hers.
        assert!(QClient::open(address, "alice", "guess").await.is_err());
        assert_eq!(ready(&stage, endpoint, "alice"), WARM);
        QClient::open(address, "alice", &password).await.unwrap();
        let _mine = stage.open(endpoint).await;
    }
    assert_eq!(were_warm(&log), [false, false, true, true].repeat(2));
    for line in opens(&log) {
        let alices = line.contains("user=\"alice\"");
        assert_ne!(alices, line.contains(&format!("user=\"{}\"", account())));
    }
    // What waits for alice was logged in as alice.
    let records = stage.sim.connections();
    let hdb = records.iter().filter(|record| record.cluster == HDB);
    let of_alice = hdb.filter(|record| record.user.contains("alice")).count();
    assert!(of_alice > WARM, "{of_alice}");
}

#[tokio::test]
async fn those_that_wait_are_kept_alive() {
    const IDLE_LIMIT: Duration = Duration::from_millis(1_500);
    for ping in ["async", "sync"] {
        let (log, _guard) = Log::capture();
        let options = Options {
            idle_limit: IDLE_LIMIT,
            ..Options::default()
        };
        let keepalive = table([("every", "100ms"), ("message", "1+1"), ("mode", ping)]);
        let stage = stage_with(options, |hdb| hdb.keepalive(keepalive)).await;
        drop(stage.open("hdb").await);
        full(&stage, "hdb", &account()).await;
        let began = Instant::now();
        stage
            .sim
            .wait_until(|_| began.elapsed() > 3 * IDLE_LIMIT)
            .await;
        let records = stage.sim.connections();
        let lost =
            |record: &&simulator::ConnectionRecord| record.ended == Some(ConnectionEnd::Idle);
        assert_eq!(records.iter().find(lost), None, "{ping}");
        assert_eq!(records.len(), 1 + WARM, "{ping}: none was made anew");
        let mut handle = stage.open("hdb").await;
        for number in 0..20 {
            let answer = handle.ask(&format!("{number}+0")).await;
            assert_eq!(answer, Ok(Value::Long(number)), "{ping}");
        }
        assert_eq!(were_warm(&log), [false, true], "{ping}");
    }
}

#[tokio::test]
async fn one_that_has_ended_is_given_to_nobody() {
    for cut in [Cut::Fin, Cut::Reset, Cut::InsideFrame] {
        let (log, _guard) = Log::capture();
        let stage = stage(Options::default()).await;
        drop(stage.open("hdb").await);
        full(&stage, "hdb", &account()).await;
        stage.sim.wait_for_connections(HDB, WARM).await;
        // kdb+ is restarted.
        assert_eq!(stage.sim.cut(HDB, cut), WARM);
        stage.sim.wait_until(|sim| sim.live(HDB) == 0).await;
        let mut handle = stage.open("hdb").await;
        works(&mut handle).await;
        assert_eq!(were_warm(&log), [false, false], "{cut:?}");
        full(&stage, "hdb", &account()).await;
        works(&mut stage.open("hdb").await).await;
        assert_eq!(were_warm(&log), [false, false, true], "{cut:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_refused_takes_along_what_it_had_opened() {
    let stage = stage(Options::default()).await;
    drop(stage.open("hdb").await);
    full(&stage, "hdb", &account()).await;
    stage.sim.wait_for_connections(HDB, WARM).await;
    let before = stage.sim.connections().len();
    stage
        .sim
        .faults()
        .cluster(HDB, ClusterFault::RefuseLogin, Times::Next(1));
    // Nothing waits for this client: it is logged in anew, refused, and then let in.
    let (mut old, _) = say(stage.address("hdb"), Some(3)).await;
    works(&mut old).await;
    stage
        .sim
        .wait_until(|sim| {
            let records = sim.connections();
            records[..before].iter().all(|r| r.ended.is_some())
        })
        .await;
    full(&stage, "hdb", &account()).await;
}

#[tokio::test]
async fn a_login_that_was_renewed_renews_what_waits() {
    let options = Options {
        string_life: Duration::from_secs(6),
        ..Options::default()
    };
    let stage = stage(options).await;
    drop(stage.open("hdb").await);
    full(&stage, "hdb", &account()).await;
    stage
        .sim
        .wait_until(|sim| {
            let records = sim.connections();
            let ended = records.iter().filter(|record| record.ended.is_some());
            ended.count() > WARM && sim.live(HDB) == WARM
        })
        .await;
    let ends: Vec<_> = stage.sim.connections().iter().map(|r| r.ended).collect();
    let in_order =
        |end: &Option<ConnectionEnd>| matches!(end, None | Some(ConnectionEnd::ByClient));
    assert!(ends.iter().all(in_order), "{ends:?}");
}

/// A login command's answer, or a file's, may be another at any time.
#[tokio::test]
async fn another_password_in_the_file_makes_the_old_connections_worthless() {
    let (log, _guard) = Log::capture();
    let stage = stage(Options::default()).await;
    drop(stage.open("plain").await);
    full(&stage, "plain", &account()).await;
    let path = stage.folder.path().join("plain.password");
    std::fs::write(path, "another\n").unwrap();
    let refused = QClient::open(stage.address("plain"), "", "").await;
    assert!(refused.is_err(), "an old connection was given");
    log.line_with(&["its login is over"]).await;
    stage.sim.wait_for_connections("plain", 0).await;
}

#[tokio::test]
async fn clients_of_different_ages_get_what_they_can_read() {
    let (log, _guard) = Log::capture();
    let options = Options {
        big_endian: true,
        ..Options::default()
    };
    let stage = stage(options).await;
    let address = stage.address("hdb");
    // (what it says, what it is answered, whether a connection was there)
    for (capability, answer, warm) in [
        (Some(6), 6, false),
        (Some(6), 6, true),
        (Some(3), 3, false),
        (Some(3), 3, true),
        (None, 0, false),
        (None, 0, true),
        (Some(3), 3, true),
    ] {
        let (mut handle, answered) = say(address, capability).await;
        assert_eq!(answered, answer);
        works(&mut handle).await;
        drop(handle);
        assert_eq!(were_warm(&log).last(), Some(&warm), "{capability:?}");
        // One for it has come, and the pool is full.
        stage
            .sim
            .wait_until(|sim| {
                let records = sim.connections();
                let live: Vec<_> = records.iter().filter(|r| r.ended.is_none()).collect();
                live.len() == WARM && live.iter().any(|r| r.capability == capability)
            })
            .await;
        full(&stage, "hdb", &account()).await;
    }
}

#[tokio::test]
async fn a_reload_that_changes_the_endpoint_or_its_users_ends_what_waits_there() {
    let mut stage = stage(Options::default()).await;
    // A user who is removed loses the live session, too.
    let changes: [(Change<EndpointTable>, usize); 2] = [
        (|hdb| hdb.connect_timeout("9s"), 1),
        (|hdb| hdb.users("alice"), 0),
    ];
    for (change, live) in changes {
        let mut handle = stage.open("hdb").await;
        full(&stage, "hdb", &account()).await;
        stage.reload(|config| config);
        assert_eq!(ready(&stage, "hdb", &account()), WARM, "nothing changed");
        stage.reload(|config| config.endpoint("hdb", change));
        assert_eq!(ready(&stage, "hdb", &account()), 0);
        stage.sim.wait_for_connections(HDB, live).await;
        if live > 0 {
            works(&mut handle).await;
        }
        drop(handle);
        stage.sim.wait_for_connections(HDB, 0).await;
    }
    let records = stage.sim.connections();
    let by_client =
        |record: &simulator::ConnectionRecord| record.ended == Some(ConnectionEnd::ByClient);
    assert!(records.iter().all(by_client), "{records:?}");
}

#[tokio::test]
async fn a_stop_ends_what_waits_in_order_and_waits_for_nothing() {
    let stage = stage(Options::default()).await;
    drop(stage.open("hdb").await);
    full(&stage, "hdb", &account()).await;
    stage.sim.wait_for_connections(HDB, WARM).await;
    let Stage { sim, app, .. } = stage;
    let summary = app.stop().await;
    assert_eq!((summary.open, summary.cut), (0, 0));
    sim.wait_for_connections(HDB, 0).await;
    let ends: Vec<_> = sim.connections().iter().map(|r| r.ended).collect();
    assert_eq!(ends, [Some(ConnectionEnd::ByClient); 1 + WARM]);
}

#[tokio::test]
async fn nodes_share_what_waits() {
    let stage = stage_with(Options::default(), |hdb| hdb.node("spread")).await;
    drop(stage.open("hdb").await);
    full(&stage, "hdb", &account()).await;
    stage.sim.wait_for_connections(HDB, WARM).await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..9 {
        let mut handle = stage.open("hdb").await;
        let Ok(Value::Symbol(node)) = handle.ask("nodeId[]").await else {
            panic!("no symbol");
        };
        *seen.entry(node).or_insert(0) += 1;
        full(&stage, "hdb", &account()).await;
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [3, 3, 3]);
    // One that takes no connections is left by those that wait.
    stage.sim.stop_node("sim-hdb-node-2").await;
    while ready(&stage, "hdb", &account()) == WARM {
        tokio::task::yield_now().await;
    }
    full(&stage, "hdb", &account()).await;
    works(&mut stage.open("hdb").await).await;
}

/// An address in front of another that takes connections while it is `up`.
struct Door {
    address: SocketAddr,
    up: Arc<AtomicBool>,
    through: Arc<AtomicUsize>,
}

async fn door(to: u16) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = Door {
        address: listener.local_addr().unwrap(),
        up: Arc::default(),
        through: Arc::default(),
    };
    let (up, through) = (Arc::clone(&door.up), Arc::clone(&door.through));
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = listener.accept().await {
            if !up.load(Ordering::SeqCst) {
                continue;
            }
            let through = Arc::clone(&through);
            tokio::spawn(async move {
                let mut inner = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                through.fetch_add(1, Ordering::SeqCst);
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                through.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    door
}

#[tokio::test]
async fn they_go_back_to_the_first_address_when_it_works_again() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    let port = sim.plain().port;
    let door = door(port).await;
    let [first, second] =
        [door.address.port(), port].map(|port| format!(":tcps://localhost:{port}"));
    let stage = Stage::builder()
        .simulator(sim)
        .configure(warm)
        .endpoint("plain", |plain| plain.connect([first, second]))
        .start()
        .await;
    drop(stage.open("plain").await);
    full(&stage, "plain", &account()).await;
    works(&mut stage.open("plain").await).await;
    let second = format!("to=127.0.0.1:{port}");
    assert!(opens(&log).iter().all(|line| line.contains(&second)));

    door.up.store(true, Ordering::SeqCst);
    let back = async {
        while door.through.load(Ordering::SeqCst) < WARM || stage.sim.live("plain") > WARM {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), back).await.unwrap();
    full(&stage, "plain", &account()).await;
    works(&mut stage.open("plain").await).await;
    let last = opens(&log).pop().unwrap();
    assert!(last.contains(&format!("to={}", door.address)), "{last}");
    assert!(last.contains("warm=true"), "{last}");
}

#[tokio::test]
async fn a_cluster_that_is_down_is_asked_less_and_less() {
    let stage = stage(Options::default()).await;
    drop(stage.open("hdb").await);
    full(&stage, "hdb", &account()).await;
    let faults = stage.sim.faults();
    faults.cluster(HDB, ClusterFault::CloseAtAccept, Times::Next(2));
    stage.sim.cut(HDB, Cut::Reset);
    stage.sim.wait_until(|sim| sim.live(HDB) == 0).await;
    let began = Instant::now();
    while ready(&stage, "hdb", &account()) > 0 {
        tokio::task::yield_now().await;
    }
    full(&stage, "hdb", &account()).await;
    // A rest after the loss and one after each failure, each twice as long but for its jitter.
    let rests = Duration::from_secs(1 + 2 + 4).mul_f64(0.7);
    assert!(began.elapsed() > rests, "{:?}", began.elapsed());
}

#[tokio::test]
async fn status_tells_how_many_wait_for_whom() {
    let stage = stage(Options::default()).await;
    let _handle = stage.open("hdb").await;
    full(&stage, "hdb", &account()).await;
    let config = stage.config_path();
    let mut command = process::command(&["status", "--config", config.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("WARM"));
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words(lines.next().unwrap()),
        ["WARM", "ENDPOINT", "READY", "OF", "TROUBLE"],
        "{text}"
    );
    assert_eq!(words(lines.next().unwrap()), [&account(), "hdb", "3", "3"]);
}

/// kdb+ without TLS that says something to whoever comes, behind the answer to the login.
#[tokio::test]
async fn what_kdb_says_first_is_heard_by_the_client_it_is_meant_for() {
    let kdb = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = kdb.local_addr().unwrap();
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = kdb.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::spawn(async move {
                while stream.read_u8().await.unwrap() != 0 {}
                stream.write_all(&[6]).await.unwrap();
                let greeting = message::text(MessageType::Async, &number.to_string());
                stream.write_all(&greeting).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    let stage = Stage::builder()
        .configure(warm)
        .endpoint("plain", |plain| plain.connect(format!(":{address}")))
        .start()
        .await;
    let mut last = 0;
    for _ in 0..3 {
        let mut handle = stage.open("plain").await;
        let (_, body) = handle.message().await.unwrap();
        let number: usize = String::from_utf8_lossy(&body[6..]).parse().unwrap();
        assert!(number > last, "it was logged in for this client");
        last = number;
    }
    let told = async {
        loop {
            let status = stage.app.status();
            let mut rows = status.endpoints.iter().flat_map(|row| &row.warm);
            let reason = rows.find_map(|row| row.reason.clone());
            if let Some(reason) = reason {
                return reason;
            }
            tokio::task::yield_now().await;
        }
    };
    let reason = timeout(Duration::from_secs(60), told).await.unwrap();
    assert!(reason.contains("of its own accord"), "{reason}");
}

/// In a daemon of its own connections wait on one runtime and are used on another.
#[tokio::test(flavor = "multi_thread")]
async fn they_move_to_the_runtime_of_the_session() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), warm);
    let mut command = process::command(&["run", "--config", path.to_str().unwrap()]);
    let mut daemon = Process::spawn(&mut command);
    let line = daemon.line_with("endpoint=\"hdb\" address=127.0.0.1:");
    daemon.line_with("ready");
    let address = line.rsplit("address=").next().unwrap().parse().unwrap();
    for _ in 0..20 {
        let mut handle = QClient::open(address, "", "").await.unwrap();
        for number in 0..20 {
            let answer = handle.ask(&format!("{number}+0")).await;
            assert_eq!(answer, Ok(Value::Long(number)));
        }
        drop(handle);
        sim.wait_for_connections(HDB, WARM).await;
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, output) = daemon.end();
    assert!(status.success(), "{output}");
    let warm = output.matches("warm=true").count();
    assert!(warm >= 10, "{warm} of 20");
    sim.wait_for_connections(HDB, 0).await;
    let ends: Vec<_> = sim.connections().iter().map(|r| r.ended).collect();
    let in_order = |end: &Option<ConnectionEnd>| *end == Some(ConnectionEnd::ByClient);
    assert!(ends.iter().all(in_order), "{ends:?}");
}
