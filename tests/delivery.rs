//! Received means delivered: a message that hopend has received completely reaches the other side
//! completely, or is counted as lost. README's section "What is delivered when a session ends" is
//! the table that these tests hold.

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

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of the client that publishes and exits, and bytes of each.
pub const PUBLISHED: (usize, usize) = (100, 10_000);

async fn stage_before(kdb: &Kdb) -> Stage {
    Stage::builder()
        .endpoint("plain", |plain| kdb.behind_plain(plain))
        .start()
        .await
}

/// A client's handle and kdb+'s end of it.
async fn open(stage: &Stage, kdb: &Kdb) -> (TcpStream, Wire) {
    let (handle, wire) = tokio::join!(stage.open("plain"), kdb.accept());
    (handle.stream, wire)
}

/// An async message that says its number.
fn numbered(number: usize, length: usize) -> Vec<u8> {
    text(
        MessageType::Async,
        &format!("{number:08}{}", "x".repeat(length)),
    )
}

/// How many whole messages the bytes begin with.
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

/// Reads until the end or an error; `pause` after each read.
async fn read_all(reader: &mut (impl AsyncRead + Unpin), pause: Duration) -> Vec<u8> {
    let mut got = Vec::new();
    while let Ok(1..) = reader.read_buf(&mut got).await {
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    got
}

/// Bytes that the peer's kernel has not acknowledged, as `/proc/net/tcp` shows them.
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

/// Returns once hopend's kernel has all that was written.
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

/// kdb+ publishes as fast as it can and reads what comes, at once or when the client is gone; the
/// client publishes and exits without reading, which is a reset. How many messages arrived.
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

/// How a client of the random cases ends.
#[derive(Debug, Clone, Copy)]
enum ClientEnd {
    /// Closes; over unread input that is a reset.
    Close,
    Reset,
    /// Ends its sending side and reads to the end.
    HalfClose,
}

/// How a kdb+ of the random cases ends.
#[derive(Debug, Clone, Copy)]
enum KdbEnd {
    /// Closes when its client has.
    WithTheClient,
    /// Ends its sending side once it has said all, and reads to the end.
    HalfClose,
    /// Resets after so many bytes.
    ResetAfter(usize),
}

/// How long a kdb+ of the random cases computes at the most.
const COMPUTES: Duration = Duration::from_secs(2);

/// When kdb+ of the random cases reads.
#[derive(Debug, Clone, Copy)]
enum Reading {
    AtOnce,
    Slowly,
    /// When the client has ended, or after [`COMPUTES`].
    AfterTheClient,
}

#[derive(Debug)]
struct Plan {
    published: Vec<Vec<u8>>,
    /// Milliseconds after each message, either way.
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
        // A client that ends its sending side reads all that comes.
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

/// The client's part: what it read. Unless the connection broke before, hopend's kernel has all that it
/// published when it ends.
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
        // A connection that is over has no send queue.
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

/// kdb+'s part: what it read.
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
                // A client that finds all buffers full waits for kdb+.
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

/// The figure of that name in a log line.
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
    // Not the client's port, which the system gives to several of them.
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

    // In order, bytes equal, each once.
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

/// Cases of each kind, and the time that they may take together.
const CASES: (u64, Duration) = (40, Duration::from_secs(60));

/// Random cuts, resets, half-closes and pauses at both ends. A seed that failed once fails again.
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

/// q reads what has come once its query is done, and writes what it has to say before that. A write that
/// fails would have it close the handle, with what it has yet to read.
#[tokio::test]
async fn a_kdb_that_computes_finds_hopend_listening_until_it_has_read_what_its_kernel_has() {
    const QUERY: Duration = Duration::from_secs(60);
    for kdb in [Kdb::plain().await, Kdb::with_tls().await] {
        let (log, _guard) = Log::capture();
        let stage = stage_before(&kdb).await;
        let (mut client, mut wire) = open(&stage, &kdb).await;
        let taken = numbered(0, 1_000);
        client.write_all(&taken).await.unwrap();
        // No message: the session ends for the client, which keeps its connection.
        client.write_all(&[9; HEADER_LEN]).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        // Nothing else happens: the clock runs ahead.
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

/// A kdb+ that hangs, and a client that publishes more than all buffers hold: what the session has
/// left at its deadline is counted, and what the kernels have still arrives.
#[tokio::test]
async fn a_kill_ends_a_session_with_a_kdb_that_hangs_and_counts_what_is_lost() {
    let kdb = Kdb::plain().await;
    let (log, _guard) = Log::capture();
    let stage = stage_before(&kdb).await;
    let (mut client, wire) = open(&stage, &kdb).await;
    let mut sent = 0;
    // Nobody reads: in the end the client's kernel takes no more.
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
    // Messages that only the client's own kernel had are neither.
    assert!(
        arrived + lost <= sent,
        "{arrived} arrived, {lost} lost of {sent}: {line}"
    );
    assert!(figure(&line, "unacknowledged_up") > 0, "{line}");
}
