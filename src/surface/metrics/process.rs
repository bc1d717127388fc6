//! The daemon as a process, under the names that are usual for it. What the system does not tell is
//! left out.

use std::fmt;
use std::fs;

use jiff::Timestamp;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use prometheus_client::registry::Unit;

use super::families::{About, Families};

/// How it is at this moment.
#[derive(Debug)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    open_files: Option<u64>,
    max_files: Option<u64>,
}

impl Process {
    pub(super) fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(),
            resident_bytes: bytes(&status, "VmRSS:"),
            virtual_bytes: bytes(&status, "VmSize:"),
            open_files: open_files(),
            max_files: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
        }
    }

    pub(super) fn encode(
        &self,
        families: &mut Families<'_, '_>,
        started: Timestamp,
    ) -> fmt::Result {
        let about = About::new("process_cpu", "CPU time, of the user and the system");
        let seconds = self.cpu_seconds.map(once);
        families.counter(about.in_unit(&Unit::Seconds), seconds)?;
        let about = About::new("process_resident_memory", "Memory that is in RAM");
        families.gauge(about.in_unit(&Unit::Bytes), self.resident_bytes.map(once))?;
        let about = About::new("process_virtual_memory", "Memory that has an address");
        families.gauge(about.in_unit(&Unit::Bytes), self.virtual_bytes.map(once))?;
        let about = About::new("process_open_fds", "Open file descriptors");
        families.gauge(about, self.open_files.map(once))?;
        let about = About::new("process_max_fds", "File descriptors that may be open");
        families.gauge(about, self.max_files.map(once))?;
        let about = About::new("process_start_time", "When the daemon started");
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970")]
        let started = started.as_millisecond() as f64 / 1000.0;
        families.gauge(about.in_unit(&Unit::Seconds), [once(started)])
    }
}

/// A sample of what there is once.
fn once<V>(value: V) -> ([(&'static str, &'static str); 0], V) {
    ([], value)
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let spent = usage.user_time() + usage.system_time();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of CPU time")]
    Some(spent.num_microseconds() as f64 / 1e6)
}

/// A line of `/proc/self/status`.
fn bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Linux 6.2 and later tell it as the folder's size; before, each one is counted.
fn open_files() -> Option<u64> {
    const FILES: &str = "/proc/self/fd";
    match fs::metadata(FILES).ok()?.len() {
        // The one that the folder is read by is one of them.
        0 => Some((fs::read_dir(FILES).ok()?.count() as u64).saturating_sub(1)),
        told => Some(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_told() {
        let before = Process::look();
        let files: Vec<_> = (0..10)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let after = Process::look();
        drop(files);
        assert!(before.cpu_seconds > Some(0.0) && after.cpu_seconds >= before.cpu_seconds);
        assert!(
            before.resident_bytes > Some(100_000) && before.virtual_bytes > before.resident_bytes
        );
        // Other tests open and close files meanwhile.
        assert!(after.open_files >= Some(10) && after.open_files < after.max_files);
    }

    #[test]
    fn a_line_of_the_kernels_in_bytes() {
        let status = "Name:\thopend\nVmSize:\t  10 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(bytes(status, "VmRSS:"), Some(2_097_152));
        assert_eq!(bytes(status, "VmSwap:"), None);
    }
}
