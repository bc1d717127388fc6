//! What processes cost, by their clocks and /proc.

use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// The time that these processes have run so far, with threads that are over.
pub fn cpu(processes: &[u32]) -> Duration {
    let run = processes.iter().filter_map(|process| {
        let process = Pid::from_raw(i32::try_from(*process).ok()?);
        let clock = clock_getcpuclockid(process).ok()?;
        clock.now().ok().map(Duration::from)
    });
    run.sum()
}

/// Memory of these processes, what they share counted once, in bytes.
pub fn memory(processes: &[u32]) -> f64 {
    let sizes = processes.iter().filter_map(|process| {
        let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    });
    sizes.sum::<f64>() * 1024.0
}

/// The value below which so much of the sample lies.
pub fn percentile(sample: &mut [f64], part: f64) -> f64 {
    sample.sort_by(f64::total_cmp);
    let last = sample.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a small sample"
    )]
    let at = (part * last as f64).round() as usize;
    sample.get(at).copied().unwrap_or(f64::NAN)
}

pub fn median(sample: &[f64]) -> f64 {
    percentile(&mut sample.to_vec(), 0.5)
}
