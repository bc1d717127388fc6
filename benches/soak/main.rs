//! Many sessions through one daemon for a long time, with faults and reloads all along: no byte may
//! be lost or altered, and nothing may be left at the end.
//!
//! `cargo bench --bench soak` takes half an hour with 2,000 sessions, and less than a core;
//! `cargo bench --bench soak -- --minutes 3 --sessions 200` is shorter. The daemon is a process of
//! its own, in front of the simulator. Half of the sessions go to endpoints that have no faults:
//! they stay open from the first minute to the last, through reloads, renewed credentials and an AWS
//! in trouble. The others are cut, refused, and leave as they like; they open again. Every answer is
//! compared with what it has to be. Clients come over TCP, over TLS and through Unix sockets, most as
//! their account, some with a password. Now and then the reader of the daemon's log stalls, a client
//! publishes and exits at once, and a reload removes a user. Loopback only; it ends by itself.

#![expect(
    clippy::print_stdout,
    reason = "a program of its own, whose output is a table"
)]
#![allow(clippy::cast_precision_loss, reason = "figures to be read")]

mod client;
mod feed;
mod figures;
mod stage;
mod troubles;
mod ways;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use figures::{Figures, Process};
use stage::Stage;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Sessions opened a second, at the start.
const OPENED_A_SECOND: u32 = 100;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long the daemon has to let go of everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many sessions are open on average, in hundredths. Half of them are cut now and then, and open
/// again within seconds.
const MOSTLY_OPEN: u64 = 80;
/// What the daemon may hold beyond what it held before, in descriptors.
const SPARE_DESCRIPTORS: usize = 16;
/// What memory may grow by from the second third to the last, and from the start to the end, in KiB,
/// beyond a quarter.
const SPARE_MEMORY: u64 = 16 * 1024;

/// How long, and how many.
struct Options {
    minutes: f64,
    sessions: usize,
}

fn main() {
    let outcome = Options::read().and_then(|options| {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(soak(&options))
    });
    match outcome {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("soak: {error}");
            std::process::exit(1);
        }
    }
}

impl Options {
    fn read() -> Result<Self> {
        let mut options = Self {
            minutes: 30.0,
            sessions: 2_000,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a number"));
            match argument.as_str() {
                "--minutes" => options.minutes = value()?.parse()?,
                "--sessions" => options.sessions = value()?.parse()?,
                // cargo's own.
                "--bench" => {}
                _ => return Err("only --minutes and --sessions are known".into()),
            }
        }
        Ok(options)
    }
}

/// The whole run; whether all was well.
async fn soak(options: &Options) -> Result<bool> {
    let mut stage = Stage::set(options.sessions).await?;
    let figures = Arc::new(Figures::default());

    // Once without trouble, so that what follows is compared with a daemon that has been at work.
    eprintln!("warming up with {} sessions", options.sessions);
    let (stop, stopped) = watch::channel(false);
    let sessions = open_all(&stage, options.sessions, &figures, &stopped, false).await;
    stop.send_replace(true);
    closed(sessions, &figures).await;
    stage.let_go(&figures, None).await?;
    let before = stage.daemon.measure()?;

    let began = Instant::now();
    let end = began + Duration::from_secs_f64(options.minutes * 60.0);
    let (stop, stopped) = watch::channel(false);
    let sessions = open_all(&stage, options.sessions, &figures, &stopped, true).await;
    let (mut lowest, mut peak) = ([u64::MAX; 3], before);
    let mut shown = Instant::now();
    let (mut open, mut looks) = (0, 0);
    while Instant::now() < end {
        stage.make_trouble(&figures, end).await?;
        let now = stage.daemon.measure()?;
        open += figures.open.load(std::sync::atomic::Ordering::Relaxed);
        looks += 1;
        peak = peak.at_most(now);
        let third = 3 * began.elapsed().as_secs() / (end - began).as_secs().max(1);
        let lowest = &mut lowest[usize::try_from(third)?.min(2)];
        *lowest = now.memory.min(*lowest);
        if shown.elapsed() >= PROGRESS {
            shown = Instant::now();
            eprintln!("{}", figures.progress(began.elapsed(), &now));
        }
    }
    stage.end_trouble().await;
    stop.send_replace(true);
    closed(sessions, &figures).await;
    let sessions_left = stage.let_go(&figures, Some(before)).await?;
    let after = stage.daemon.measure()?;
    stage.still_serves(&figures).await;

    let took = began.elapsed();
    let open = open / looks.max(1);
    figures.judge(open >= MOSTLY_OPEN * options.sessions as u64 / 100, || {
        format!("only {open} sessions were open on average: there was hardly a soak")
    });
    figures.judge(sessions_left == 0, || {
        format!("{sessions_left} sessions are left in the daemon")
    });
    figures.judge(
        after.descriptors <= before.descriptors + SPARE_DESCRIPTORS,
        || {
            format!(
                "{} descriptors, {} before",
                after.descriptors, before.descriptors
            )
        },
    );
    let peak = peak.at_most(after);
    // Bursts come and go; what leaks stays.
    let [_, early, late] = lowest;
    figures.judge(late <= early / 4 * 5 + SPARE_MEMORY, || {
        format!(
            "never less than {} MiB of memory in the last third, {} in the second",
            late / 1024,
            early / 1024
        )
    });
    figures.judge(after.memory <= before.memory / 4 * 5 + SPARE_MEMORY, || {
        let of = |process: &Process| process.memory / 1024;
        format!(
            "{} MiB of memory at the end, {} before",
            of(&after),
            of(&before)
        )
    });
    stage.check_log(&figures);
    print!(
        "{}",
        figures.table((options.sessions, open), took, &before, &peak, &after)
    );
    let well = figures.all_well();
    if !well {
        println!("the daemon's log: {}", stage::LOG);
    }
    Ok(well)
}

/// Opens all sessions, some at a time. Those at endpoints without faults are opened when this comes
/// back.
async fn open_all(
    stage: &Stage,
    count: usize,
    figures: &Arc<Figures>,
    stopped: &watch::Receiver<bool>,
    busy: bool,
) -> JoinSet<()> {
    let mut sessions = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / OPENED_A_SECOND);
    for number in 0..count {
        pace.tick().await;
        let client = client::Client {
            number: number as u64,
            at: stage.endpoint(number),
            figures: Arc::clone(figures),
            stopped: stopped.clone(),
            // All together what a single core does with ease.
            pause: Duration::from_secs_f64(count as f64 / client::REQUESTS_A_SECOND),
            busy,
        };
        sessions.spawn(client.run());
    }
    sessions
}

async fn closed(mut sessions: JoinSet<()>, figures: &Figures) {
    while let Some(ended) = sessions.join_next().await {
        figures.judge(ended.is_ok(), || "a client panicked".to_owned());
    }
}

impl Process {
    /// Whether it holds no more than `before`, or little more.
    fn is_back(&self, before: &Process) -> bool {
        self.descriptors <= before.descriptors + SPARE_DESCRIPTORS
            && self.memory <= before.memory / 4 * 5 + SPARE_MEMORY
    }
}
