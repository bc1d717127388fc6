//! Received means delivered: hopend delivers each message that it has received completely, or counts it as
//! lost. These tests check the table in README's section "What is delivered when a session ends".

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use q_ipc::frame::{FrameTracker, HEADER_LEN, MessageType, StreamPart};
use q_ipc::message::text;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::support::kdb::{Kdb, Wire, tcp};
use crate::support::process::hopend;
use crate::support::{Log, Stage};

/// The time limit of each wait. It is long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of messages that the client of [`publish_and_exit`] publishes, and the length of each in bytes.
pub const PUBLISHED: (usize, usize) = (100, 10_000);

async fn stage_before(kdb: &Kdb) -> Stage {
    Stage::builder()
        .endpoint("plain", |plain| kdb.behind_plain(plain))
        .start()
        .await
}

/// Opens a handle. Returns the client's connection, and the connection from hopend that kdb+ accepted.
async fn open(stage: &Stage, kdb: &Kdb) -> (TcpStream, Wire) {
    let (handle, wire) = tokio::join!(stage.open("plain"), kdb.accept());
    (handle.stream, wire)
}

/// An async message whose text begins with its number.
fn numbered(number: usize, length: usize) -> Vec<u8> {
    text(
        MessageType::Async,
        &format!("{number:08}{}", "x".repeat(length)),
    )
}

/// The number of complete messages at the start of `bytes`.
fn whole(bytes: &[u8]) -> usize {
    let (mut tracker, mut at, mut count) = (FrameTracker::default(), 0, 0);
    loop {
        match tracker.next(&bytes[at..]).unwrap() {
            StreamPart::Header(_) => at += HEADER_LEN,
            StreamPart::Body(length) => {
                at += length;
                count += usize::from(tracker.at_boundary());
            }
            StreamPart::Incomplete => return count,
        }
    }
}

/// Reads until the end of the stream or an error. Sleeps for `pause` after each read.
async fn read_all(reader: &mut (impl AsyncRead + Unpin), pause: Duration) -> Vec<u8> {
    let mut got = Vec::new();
    while let Ok(1..) = reader.read_buf(&mut got).await {
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    got
}

/// The number of bytes that the peer's kernel has not acknowledged, from `/proc/net/tcp`. 0 if the
/// connection is over.
fn unsent(stream: &TcpStream) -> u64 {
    let shown = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let ip = u32::from_ne_bytes(address.ip().octets());
            format!("{ip:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(_) => panic!("an IPv6 address"),
    };
    let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
        return 0;
    };
    let ends = format!("{} {} ", shown(own), shown(peer));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table
        .lines()
        .find_map(|line| Some(line.split_once(&ends)?.1));
    let queue = line.map_or("0", |line| line[3..].split(':').next().unwrap());
    u64::from_str_radix(queue, 16).unwrap()
}

/// Waits until the peer's kernel has acknowledged all written bytes. The peer is hopend.
async fn acknowledged(stream: &TcpStream) {
    let told = async {
        while unsent(stream) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("not acknowledged");
}

fn reset_on_close(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Returns how many of the client's messages reach kdb+.
///
/// kdb+ publishes as fast as it can. It reads the client's messages at once, or only after the client has
/// exited. The client publishes and exits with unread input, so its close is a reset.
pub async fn publish_and_exit(mut client: TcpStream, wire: Wire, reads_at_once: bool) -> usize {
    let (may_read, mut reading) = watch::channel(reads_at_once);
    let (mut reader, mut writer) = tokio::io::split(wire);
    let feeding = tokio::spawn(async move {
        let update = numbered(0, 1_000);
        while writer.write_all(&update).await.is_ok() && writer.flush().await.is_ok() {}
    });
    let collecting = tokio::spawn(async move {
        reading.wait_for(|may| *may).await.unwrap();
        read_all(&mut reader, Duration::ZERO).await
    });
    client.readable().await.unwrap();
    let (count, length) = PUBLISHED;
    for number in 0..count {
        client.write_all(&numbered(number, length)).await.unwrap();
    }
    acknowledged(&client).await;
    drop(client);
    may_read.send_replace(true);
    let got = timeout(PATIENCE, collecting).await.unwrap().unwrap();
    feeding.abort();
    let expected: Vec<_> = (0..count).flat_map(|n| numbered(n, length)).collect();
    assert!(expected.starts_with(&got), "other bytes than were sent");
    whole(&got)
}

#[tokio::test]
async fn a_client_on_a_fast_feed_that_publishes_and_exits_loses_nothing() {
    for kdb in [Kdb::plain().await, Kdb::with_tls().await] {
        let stage = stage_before(&kdb).await;
        let mut arrived = Vec::new();
        for reads_at_once in [true, false].repeat(5) {
            let (client, wire) = open(&stage, &kdb).await;
            arrived.push(publish_and_exit(client, wire, reads_at_once).await);
        }
        assert_eq!(arrived, [PUBLISHED.0; 10], "messages of {}", PUBLISHED.0);
    }
}

/// How the client of a random case ends its connection.
#[derive(Debug, Clone, Copy)]
enum ClientEnd {
    /// Closes. With unread input, that is a reset.
    Close,
    Reset,
    /// Ends its sending side and reads to the end.
    HalfClose,
}

/// How the kdb+ of a random case ends its connection.
#[derive(Debug, Clone, Copy)]
enum KdbEnd {
    /// Closes after the client has.
    WithTheClient,
    /// Ends its sending side after its last update, and reads to the end.
    HalfClose,
    /// Resets the connection after it has read this many bytes.
    ResetAfter(usize),
}

/// The longest time for which the kdb+ of a random case computes before it reads.
const COMPUTES: Duration = Duration::from_secs(2);

/// When the kdb+ of a random case reads.
#[derive(Debug, Clone, Copy)]
enum Reading {
    AtOnce,
    Slowly,
    /// After the client has ended, or after [`COMPUTES`] if that is earlier.
    AfterTheClient,
}

#[derive(Debug)]
struct Plan {
    published: Vec<Vec<u8>>,
    /// The time after each message in either direction, in milliseconds.
    pause: u64,
    updates: Vec<Vec<u8>>,
    client_reads: bool,
    client: ClientEnd,
    kdb: KdbEnd,
    reading: Reading,
}

impl Plan {
    fn of(random: &mut Rng) -> Self {
        let mut messages = |most: usize| -> Vec<Vec<u8>> {
            let longest = *random.choice(&[10, 2_000, 40_000, 300_000]).unwrap();
            let count = random.usize(1..most);
            (0..count)
                .map(|n| numbered(n, random.usize(0..longest)))
                .collect()
        };
        let (published, updates) = (messages(40), messages(40));
        let client = *random
            .choice(&[ClientEnd::Close, ClientEnd::Reset, ClientEnd::HalfClose])
            .unwrap();
        let kdb = match random.u8(0..4) {
            0 => KdbEnd::ResetAfter(random.usize(0..200_000)),
            1 => KdbEnd::HalfClose,
            _ => KdbEnd::WithTheClient,
        };
        // A client that ends only its sending side reads everything.
        let client_reads = random.bool() || matches!(client, ClientEnd::HalfClose);
        Self {
            published,
            pause: random.u64(0..3),
            updates,
            client_reads,
            client,
            kdb,
            reading: *random
                .choice(&[Reading::AtOnce, Reading::Slowly, Reading::AfterTheClient])
                .unwrap(),
        }
    }
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// Plays the client. Returns the bytes that it has read, and whether hopend's kernel has acknowledged all
/// that it published before it ended. The second value is false if the connection broke before.
async fn play_client(
    plan: &Plan,
    stream: TcpStream,
    ended: watch::Sender<bool>,
) -> (Vec<u8>, bool) {
    let (mut reader, mut writer) = stream.into_split();
    let published = async {
        for message in &plan.published {
            if writer.write_all(message).await.is_err() {
                return false;
            }
            pause(plan.pause).await;
        }
        acknowledged(writer.as_ref()).await;
        // A broken connection has an empty send queue too, so check for an error.
        !matches!(writer.as_ref().take_error(), Ok(Some(_)) | Err(_))
    };
    let mut got = Vec::new();
    let all_published = if plan.client_reads {
        let reading = async {
            while let Ok(1..) = reader.read_buf(&mut got).await {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            published = published => published,
            () = reading => false,
        }
    } else {
        published.await
    };
    match plan.client {
        ClientEnd::Close => {}
        ClientEnd::Reset => reset_on_close(writer.as_ref()),
        ClientEnd::HalfClose => {
            let _ = writer.shutdown().await;
            ended.send_replace(true);
            while let Ok(1..) = reader.read_buf(&mut got).await {}
        }
    }
    drop((reader, writer));
    ended.send_replace(true);
    (got, all_published)
}

/// Plays kdb+. Returns the bytes that it has read.
async fn play_kdb(plan: &Plan, wire: Wire, mut client_ended: watch::Receiver<bool>) -> Vec<u8> {
    if let KdbEnd::ResetAfter(_) = plan.kdb {
        reset_on_close(tcp(&wire));
    }
    let (mut reader, mut writer) = tokio::io::split(wire);
    let says = async {
        for update in &plan.updates {
            if writer.write_all(update).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            pause(plan.pause).await;
        }
        if let KdbEnd::HalfClose = plan.kdb {
            let _ = writer.shutdown().await;
        }
    };
    let hears = async {
        let limit = match plan.kdb {
            KdbEnd::ResetAfter(limit) => limit as u64,
            KdbEnd::WithTheClient | KdbEnd::HalfClose => u64::MAX,
        };
        let slowly = match plan.reading {
            Reading::AtOnce => 0,
            Reading::Slowly => 2,
            Reading::AfterTheClient => {
                // If all buffers are full, the client cannot end before kdb+ reads, so this wait has a limit.
                let _ = timeout(COMPUTES, client_ended.wait_for(|ended| *ended)).await;
                0
            }
        };
        let mut reader = (&mut reader).take(limit);
        read_all(&mut reader, Duration::from_millis(slowly)).await
    };
    if let KdbEnd::ResetAfter(_) = plan.kdb {
        tokio::select! {
            got = hears => got,
            () = async { says.await; std::future::pending().await } => Vec::new(),
        }
    } else {
        let (got, ()) = tokio::join!(hears, says);
        let _ = writer.shutdown().await;
        got
    }
}

/// The number after `name=` in a log line. 0 if there is none.
fn figure(line: &str, name: &str) -> usize {
    let rest = line.split_once(&format!(" {name}="));
    rest.map_or(0, |(_, rest)| {
        rest.split(' ').next().unwrap().parse().unwrap()
    })
}

async fn random_case(kdb: &Kdb, stage: &Stage, log: &Log, seed: u64) {
    let plan = Plan::of(&mut Rng::with_seed(seed));
    let about = format!(
        "seed {seed}: {:?} {:?} {:?}, reads {}, {} up, {} down",
        plan.client,
        plan.kdb,
        plan.reading,
        plan.client_reads,
        plan.published.len(),
        plan.updates.len(),
    );
    let (stream, wire) = open(stage, kdb).await;
    // Find the session by its number: the system reuses the ports of clients.
    let sessions = stage.app.status().sessions;
    let number = sessions.iter().map(|row| row.session).max().unwrap();
    let session = format!("session={number} ");
    let (ended, client_ended) = watch::channel(false);
    let played = async {
        tokio::join!(
            play_client(&plan, stream, ended),
            play_kdb(&plan, wire, client_ended),
        )
    };
    let played = timeout(PATIENCE, played).await;
    let ((down, all_published), up) = played.unwrap_or_else(|_| panic!("hangs: {about}"));
    let line = log.line_with(&["session ended", &session]).await;
    let about = format!("{about}\n{line}");

    // Each receiver has got the sent bytes, in order and once.
    assert!(plan.published.concat().starts_with(&up), "{about}");
    assert!(plan.updates.concat().starts_with(&down), "{about}");
    let (sent, arrived) = (plan.published.len(), whole(&up));
    let lost = figure(&line, "lost_up");
    assert!(
        arrived + lost <= sent,
        "{arrived} arrived, {lost} lost: {about}"
    );
    let kdb_lives = matches!(plan.kdb, KdbEnd::WithTheClient);
    if all_published && kdb_lives {
        assert_eq!((arrived, lost), (sent, 0), "{about}");
    }
    let (sent, arrived) = (plan.updates.len(), whole(&down));
    let lost = figure(&line, "lost_down");
    assert!(
        arrived + lost <= sent,
        "{arrived} arrived, {lost} lost: {about}"
    );
    let reads_to_the_end = matches!(plan.client, ClientEnd::HalfClose);
    if reads_to_the_end && !matches!(plan.kdb, KdbEnd::ResetAfter(_)) {
        assert_eq!((arrived, lost), (sent, 0), "{about}");
    }
    assert_eq!(
        figure(&line, "unacknowledged_up"),
        0,
        "no deadline passed: {about}"
    );
}

/// The number of random cases for each kind of connection to kdb+, and the time after which the test skips
/// the rest.
const CASES: (u64, Duration) = (40, Duration::from_secs(60));

/// Random closes, resets, half-closes and pauses of the client and of kdb+. A failure names its seed, which
/// selects the same case again.
#[tokio::test]
async fn whatever_the_ends_each_complete_message_arrives_once_in_order_or_is_counted() {
    let (cases, limit) = CASES;
    for kdb in [Kdb::plain().await, Kdb::with_tls().await] {
        let (log, _guard) = Log::capture();
        let stage = stage_before(&kdb).await;
        let started = std::time::Instant::now();
        for seed in 0..cases {
            random_case(&kdb, &stage, &log, seed).await;
            if started.elapsed() > limit {
                println!("{seed} of {cases} cases: the machine is busy");
                break;
            }
        }
    }
}

/// A q that computes may write before it reads its input. If such a write fails, q closes the handle and
/// loses the input that it has not read. So hopend has to keep the connection open.
#[tokio::test]
async fn a_kdb_that_computes_finds_hopend_listening_until_it_has_read_what_its_kernel_has() {
    const QUERY: Duration = Duration::from_secs(60);
    for kdb in [Kdb::plain().await, Kdb::with_tls().await] {
        let (log, _guard) = Log::capture();
        let stage = stage_before(&kdb).await;
        let (mut client, mut wire) = open(&stage, &kdb).await;
        let taken = numbered(0, 1_000);
        client.write_all(&taken).await.unwrap();
        // An invalid header ends the session for the client, which keeps its connection open.
        client.write_all(&[9; HEADER_LEN]).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        // With the clock paused and nothing else to do, the runtime skips the time of the query.
        tokio::time::pause();
        sleep(QUERY).await;
        tokio::time::resume();
        for number in 0..2 {
            wire.write_all(&numbered(number, 1_000)).await.unwrap();
            wire.flush().await.unwrap();
            acknowledged(tcp(&wire)).await;
        }
        let got = timeout(PATIENCE, read_all(&mut wire, Duration::ZERO)).await;
        assert!(got.unwrap() == taken, "other bytes than were sent");
        drop(wire);
        log.line_with(&["session ended", "what is no q message"])
            .await;
    }
}

/// kdb+ hangs, and the client publishes more than all buffers hold. At the deadline hopend counts the
/// messages that it holds as lost. The bytes that the kernels hold still arrive.
#[tokio::test]
async fn a_kill_ends_a_session_with_a_kdb_that_hangs_and_counts_what_is_lost() {
    let kdb = Kdb::plain().await;
    let (log, _guard) = Log::capture();
    let stage = stage_before(&kdb).await;
    let (mut client, wire) = open(&stage, &kdb).await;
    let mut sent = 0;
    // kdb+ does not read, so in the end the client's kernel accepts no more bytes.
    loop {
        let message = numbered(sent, 50_000);
        match timeout(Duration::from_secs(2), client.write_all(&message)).await {
            Ok(written) => written.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    let config = stage.config_path().display().to_string();
    let number = stage.app.status().sessions[0].session.to_string();
    let kill = move || hopend(&["kill", &number, "--config", &config]);
    let killed = tokio::task::spawn_blocking(kill).await.unwrap();
    assert!(killed.status.success(), "{killed:?}");
    let line = log.line_with(&["session ended: killed"]).await;
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let (mut reader, _writer) = tokio::io::split(wire);
    let got = read_all(&mut reader, Duration::ZERO).await;
    let (arrived, lost) = (whole(&got), figure(&line, "lost_up"));
    assert!(lost > 0, "{line}");
    // Messages that hopend has never read are neither arrived nor lost.
    assert!(
        arrived + lost <= sent,
        "{arrived} arrived, {lost} lost of {sent}: {line}"
    );
    assert!(figure(&line, "unacknowledged_up") > 0, "{line}");
}
