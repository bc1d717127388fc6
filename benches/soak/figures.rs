//! What was seen, and what the daemon's process holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Result;

/// Failures that are kept to be shown.
const KEPT: usize = 20;

/// Counts of everything.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) opened: AtomicU64,
    pub(crate) open: AtomicU64,
    /// Tries to open that failed, at the endpoint with faults.
    pub(crate) refused: AtomicU64,
    /// Sessions that hopend or a fault ended.
    pub(crate) ended: AtomicU64,
    /// Sessions that their client ended, the rude way included.
    pub(crate) left: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) reloads: AtomicU64,
    /// Times that the console was asked.
    pub(crate) consoles: AtomicU64,
    troubles: Mutex<BTreeMap<&'static str, u64>>,
    failures: Mutex<Vec<String>>,
    failed: AtomicU64,
}

/// What a process holds at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// Resident, in KiB.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// CPU time so far.
    pub(crate) busy: Duration,
}

impl Process {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let digits = line.and_then(|line| line.split_whitespace().next());
            digits.and_then(|digits| digits.parse::<u64>().ok())
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which ends with the last bracket; in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        let ticks: u64 = [12, 13]
            .iter()
            .filter_map(|at| fields.get(*at)?.parse::<u64>().ok())
            .sum();
        Ok(Self {
            memory: field("VmRSS:").ok_or("no VmRSS")?,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            threads: usize::try_from(field("Threads:").ok_or("no Threads")?)?,
            busy: Duration::from_millis(ticks * 10),
        })
    }

    /// The greater of both, each by itself.
    pub(crate) fn at_most(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
            busy: self.busy.max(other.busy),
        }
    }
}

impl Figures {
    pub(crate) fn count(&self, what: &AtomicU64) {
        what.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn trouble(&self, what: &'static str) {
        *lock(&self.troubles).entry(what).or_default() += 1;
    }

    /// Notes a failure unless `good`.
    pub(crate) fn judge(&self, good: bool, why: impl FnOnce() -> String) {
        if good {
            return;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = lock(&self.failures);
        if failures.len() < KEPT {
            let why = why();
            eprintln!("FAILED: {why}");
            failures.push(why);
        }
    }

    pub(crate) fn all_well(&self) -> bool {
        self.failed.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn progress(&self, took: Duration, daemon: &Process) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "{:>5} s  {} open  {} answers  {} MB  {} troubles  {} reloads  {} failures  daemon: {} MiB, {} descriptors",
            took.as_secs(),
            of(&self.open),
            of(&self.answers),
            of(&self.bytes) / 1_000_000,
            lock(&self.troubles).values().sum::<u64>(),
            of(&self.reloads),
            of(&self.failed),
            daemon.memory / 1024,
            daemon.descriptors,
        )
    }

    /// Everything, as Markdown.
    pub(crate) fn table(
        &self,
        (sessions, open): (usize, u64),
        took: Duration,
        before: &Process,
        peak: &Process,
        after: &Process,
    ) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed).to_string();
        let busy = after.busy.saturating_sub(before.busy);
        let cores = busy.as_secs_f64() / took.as_secs_f64();
        let three = |unit: &str, of: &dyn Fn(&Process) -> u64| {
            format!("{} / {} / {} {unit}", of(before), of(peak), of(after))
        };
        let mut rows = vec![
            ("sessions at a time", sessions.to_string()),
            ("open on average", open.to_string()),
            ("time", format!("{:.1} min", took.as_secs_f64() / 60.0)),
            ("sessions opened", of(&self.opened)),
            ("opens that failed", of(&self.refused)),
            ("sessions that a fault ended", of(&self.ended)),
            ("sessions that their client ended", of(&self.left)),
            ("answers compared", of(&self.answers)),
            ("bytes compared", of(&self.bytes)),
            ("reloads", of(&self.reloads)),
            ("times the console was asked", of(&self.consoles)),
            ("CPU of the daemon", format!("{cores:.2} cores")),
            (
                "memory before / most / after",
                three("MiB", &|p| p.memory / 1024),
            ),
            (
                "descriptors before / most / after",
                three("", &|p| p.descriptors as u64),
            ),
            (
                "threads before / most / after",
                three("", &|p| p.threads as u64),
            ),
        ];
        let troubles = lock(&self.troubles).clone();
        rows.extend(
            troubles
                .iter()
                .map(|(what, times)| (*what, times.to_string())),
        );
        rows.push(("failures", of(&self.failed)));
        let mut text = String::from("| | |\n|---|---|\n");
        for (name, figure) in rows {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {name} | {} |", figure.trim());
        }
        for failure in lock(&self.failures).iter() {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
