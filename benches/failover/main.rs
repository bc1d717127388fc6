//! Four clients open handles all the time, and one of the endpoint's two addresses stops answering for a
//! minute, as a kdb+ that computes does: its connections stand, and it answers no login.
//!
//! `cargo bench --bench failover` takes three minutes; `-- --seconds 10` stops the address for ten
//! seconds. It fails where a hopen failed, or where hopens after the first detection took more than 50 ms
//! longer in the 99th percentile than before. The daemon is a process of its own. Loopback only.

#![expect(
    clippy::print_stdout,
    reason = "a program of its own, whose output is a table"
)]

#[allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared with the tests"
)]
#[path = "../../tests/support/busy_kdb.rs"]
mod busy_kdb;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use busy_kdb::BusyKdb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CLIENTS: usize = 4;
/// What a client gives hopen.
const CLIENTS_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two hopens of one client.
const PAUSE: Duration = Duration::from_millis(10);
/// Before the address stops.
const NORMAL: Duration = Duration::from_secs(15);
/// A hopen that takes this long found the address out: a head start has passed.
const DETECTION: Duration = Duration::from_millis(200);
/// How much longer the 99th percentile may be after the detection.
const TOLERANCE: Duration = Duration::from_millis(50);

/// One hopen.
#[derive(Debug, Clone, Copy)]
struct Hopen {
    begun: Instant,
    took: Duration,
    succeeded: bool,
}

fn main() {
    let outcome = seconds().and_then(|stopped_for| {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            println!("| policy | hopens before | p99 ms | until detection | longest ms | after it | p99 ms | failed | |");
            println!("|---|---|---|---|---|---|---|---|---|");
            let mut well = true;
            for policy in ["failover", "spread"] {
                well &= run(policy, stopped_for).await?;
            }
            Ok(well)
        })
    });
    match outcome {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("failover: {error}");
            std::process::exit(1);
        }
    }
}

fn seconds() -> Result<Duration> {
    let mut seconds = 60;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                seconds = arguments
                    .next()
                    .ok_or("--seconds needs a number")?
                    .parse()?;
            }
            // cargo's own.
            "--bench" => {}
            _ => return Err("only --seconds is known".into()),
        }
    }
    Ok(Duration::from_secs(seconds))
}

/// One policy; whether all was well.
async fn run(policy: &str, stopped_for: Duration) -> Result<bool> {
    let (first, second) = (BusyKdb::answering(1).await, BusyKdb::answering(2).await);
    let folder = tempfile::tempdir()?;
    let (_daemon, address) = Daemon::start(folder.path(), policy, [&first, &second])?;
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(open_until(address, stopped.clone()));
    }
    sleep(NORMAL).await;
    first.set_busy(true);
    let stopped_at = Instant::now();
    sleep(stopped_for).await;
    stop.send_replace(true);
    let mut hopens = Vec::new();
    while let Some(done) = clients.join_next().await {
        hopens.extend(done?);
    }
    first.set_busy(false);
    Ok(report(policy, &hopens, stopped_at))
}

async fn open_until(address: SocketAddr, stopped: watch::Receiver<bool>) -> Vec<Hopen> {
    let mut hopens = Vec::new();
    while !*stopped.borrow() {
        let begun = Instant::now();
        let opened = timeout(CLIENTS_TIMEOUT, hopen(address)).await;
        hopens.push(Hopen {
            begun,
            took: begun.elapsed(),
            succeeded: matches!(opened, Ok(Ok(()))),
        });
        sleep(PAUSE).await;
    }
    hopens
}

async fn hopen(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b":\x06\0").await?;
    stream.read_u8().await.map(drop)
}

fn report(policy: &str, hopens: &[Hopen], stopped_at: Instant) -> bool {
    let slow = |hopen: &&Hopen| hopen.begun + hopen.took > stopped_at && hopen.took > DETECTION;
    let ends = hopens
        .iter()
        .filter(slow)
        .map(|hopen| hopen.begun + hopen.took);
    let detected = ends.min().unwrap_or(stopped_at);
    let took = |during: &dyn Fn(&Hopen) -> bool| {
        let mut took: Vec<_> = hopens
            .iter()
            .filter(|one| during(one))
            .map(|one| one.took)
            .collect();
        took.sort_unstable();
        took
    };
    let before = took(&|one| one.begun + one.took <= stopped_at);
    let until = took(&|one| one.begun < detected && one.begun + one.took > stopped_at);
    let after = took(&|one| one.begun >= detected && one.begun >= stopped_at);
    let failed = hopens.iter().filter(|one| !one.succeeded).count();
    let well = failed == 0 && p99(&after) <= p99(&before) + TOLERANCE && !after.is_empty();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    println!(
        "| {policy} | {} | {:.1} | {} | {:.0} | {} | {:.1} | {failed} | {} |",
        before.len(),
        ms(p99(&before)),
        until.len(),
        ms(until.last().copied().unwrap_or_default()),
        after.len(),
        ms(p99(&after)),
        if well { "met" } else { "**missed**" },
    );
    well
}

fn p99(sorted: &[Duration]) -> Duration {
    let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// The daemon's process. Killed when dropped.
struct Daemon(Child);

impl Daemon {
    /// Comes back when it is ready, with the endpoint's address.
    fn start(
        folder: &std::path::Path,
        policy: &str,
        kdb: [&BusyKdb; 2],
    ) -> Result<(Self, SocketAddr)> {
        let account = nix::unistd::User::from_uid(nix::unistd::getuid())?;
        let account = account
            .ok_or("the account that runs this has no name")?
            .name;
        let [first, second] = kdb.map(BusyKdb::connect);
        let config = folder.join("hopend.toml");
        let text = format!(
            "[[user]]\nname = {account:?}\nos_user = {account:?}\n\n\
             [[endpoint]]\nname = \"plain\"\nlisten = \"127.0.0.1:0\"\n\
             connect = [{first:?}, {second:?}]\npolicy = {policy:?}\nlogin = \"client\"\n\
             max_opens_per_second_per_user = \"off\"\n\n\
             [daemon]\ncontrol = \"off\"\n"
        );
        std::fs::write(&config, text)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_hopend"))
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = child.stderr.take().ok_or("no log")?;
        let mut lines = BufReader::new(errors).lines();
        let daemon = Self(child);
        for line in lines.by_ref() {
            let line = line?;
            let said = line.split("address=").nth(1);
            if let Some(address) = said.and_then(|said| said.split(' ').next()?.parse().ok()) {
                std::thread::spawn(move || lines.for_each(drop));
                return Ok((daemon, address));
            }
        }
        Err("the daemon did not become ready".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
