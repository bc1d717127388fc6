//! Instructions of the relay for each message and each KiB, counted by callgrind: the same on a busy
//! machine as on an idle one, so that CI can hold them.
//!
//! `cargo test --config 'profile.dev.opt-level=3' --bench instructions` counts, prints a table and
//! fails where a figure is over its ceiling in `ceilings.toml` beside this file. Each load runs once
//! as it is and once twice as long; the difference is what the work costs, without the start.
//! Counted is all that a session's task does: relay, keepalive, TLS, and the socket calls down to
//! the kernel. The ceilings are for that build, with its assertions; a release build counts less.

#![expect(
    clippy::print_stdout,
    reason = "a program of its own, whose output is a table"
)]
#![allow(clippy::cast_precision_loss, reason = "figures to be read")]

mod ceilings;
mod load;
mod peers;

use std::path::Path;
use std::process::Command;

use ceilings::{Ceilings, Judgement};
use load::Load;

/// The argument with which this program is what is counted.
const MODE: &str = "load";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [mode, name, times] if mode == MODE => run(name, times),
        _ => compare(),
    };
    if let Err(error) = done {
        eprintln!("instructions: {error}");
        std::process::exit(1);
    }
}

/// Runs one load and prints how often the session's task was woken.
fn run(name: &str, times: &str) -> Result<()> {
    let load = Load::named(name).ok_or("no such load")?;
    println!("{}", load.run(times.parse()?)?);
    Ok(())
}

fn compare() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ceilings = Ceilings::read()?;
    println!(
        "{:<28}{:>14}{:>10}{:>12}",
        "", "instructions", "ceiling", "wake-ups"
    );
    let mut over = Vec::new();
    let mut slack = Vec::new();
    for load in Load::ALL {
        let once = Counts::of(load, 1, folder.path())?;
        let twice = Counts::of(load, 2, folder.path())?;
        let each = |once: u64, twice: u64| twice.saturating_sub(once) as f64 / load.units() as f64;
        let instructions = each(once.instructions, twice.instructions);
        let ceiling = ceilings.of(load.name())?;
        println!(
            "{:<28}{instructions:>14.1}{ceiling:>10.1}{:>12.3}   a {}",
            load.name(),
            each(once.wakeups, twice.wakeups),
            load.unit(),
        );
        match ceilings::judge(instructions, ceiling) {
            Judgement::Over => over.push(load.name()),
            Judgement::Slack => slack.push(load.name()),
            Judgement::Held => {}
        }
    }
    if !slack.is_empty() {
        println!(
            "far below the ceiling, which can come down: {}",
            slack.join(", ")
        );
    }
    if cfg!(not(debug_assertions)) {
        println!("not judged: the ceilings are for the build with assertions");
    } else if !over.is_empty() {
        return Err(format!("over the ceiling: {}", over.join(", ")).into());
    }
    Ok(())
}

/// What one run came to.
struct Counts {
    instructions: u64,
    wakeups: u64,
}

impl Counts {
    fn of(load: Load, times: u32, folder: &Path) -> Result<Self> {
        let file = folder.join("callgrind.out");
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no", "--quiet"])
            .arg(format!("--toggle-collect=*{}*", load::COUNTED))
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(std::env::current_exe()?)
            .args([MODE, load.name(), &times.to_string()])
            .output()
            .map_err(|error| format!("valgrind: {error}; install Debian's package valgrind"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} under valgrind: {said}", load.name()).into());
        }
        let profile = std::fs::read_to_string(&file)?;
        let instructions = profile
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .ok_or("callgrind wrote no totals")?;
        Ok(Self {
            instructions: instructions.trim().parse()?,
            wakeups: String::from_utf8(output.stdout)?.trim().parse()?,
        })
    }
}
