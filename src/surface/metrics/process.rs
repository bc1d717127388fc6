//! The metrics of the daemon's process, under the names that Prometheus's client libraries use. A figure that the
//! system does not report is left out.

use std::fmt;
use std::fs;

use jiff::Timestamp;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use prometheus_client::registry::Unit;

use super::families::{MetricFamilies, MetricInfo};

/// The figures of the process at one moment.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    open_files: Option<u64>,
    max_files: Option<u64>,
}

impl ProcessMetrics {
    pub(super) fn read() -> Self {
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
        families: &mut MetricFamilies<'_, '_>,
        started: Timestamp,
    ) -> fmt::Result {
        let info = MetricInfo::new("process_cpu", "CPU time in user and kernel mode");
        let seconds = self.cpu_seconds.map(unlabelled);
        families.counter(info.in_unit(&Unit::Seconds), seconds)?;
        let info = MetricInfo::new("process_resident_memory", "Resident memory");
        families.gauge(
            info.in_unit(&Unit::Bytes),
            self.resident_bytes.map(unlabelled),
        )?;
        let info = MetricInfo::new("process_virtual_memory", "Virtual memory");
        families.gauge(
            info.in_unit(&Unit::Bytes),
            self.virtual_bytes.map(unlabelled),
        )?;
        let info = MetricInfo::new("process_open_fds", "Open file descriptors");
        families.gauge(info, self.open_files.map(unlabelled))?;
        let info = MetricInfo::new("process_max_fds", "Limit of open file descriptors");
        families.gauge(info, self.max_files.map(unlabelled))?;
        let info = MetricInfo::new(
            "process_start_time",
            "When the process started, as Unix time",
        );
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970")]
        let started = started.as_millisecond() as f64 / 1000.0;
        families.gauge(info.in_unit(&Unit::Seconds), [unlabelled(started)])
    }
}

/// A sample without labels.
fn unlabelled<V>(value: V) -> ([(&'static str, &'static str); 0], V) {
    ([], value)
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let spent = usage.user_time() + usage.system_time();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of CPU time")]
    Some(spent.num_microseconds() as f64 / 1e6)
}

/// A size in `/proc/self/status`, in bytes.
fn bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The number of open file descriptors. Linux 6.2 and later report it as the size of the folder. On older kernels
/// this counts the entries.
fn open_files() -> Option<u64> {
    const FILES: &str = "/proc/self/fd";
    match fs::metadata(FILES).ok()?.len() {
        // Reading the folder opens a descriptor that does not count.
        0 => Some((fs::read_dir(FILES).ok()?.count() as u64).saturating_sub(1)),
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_reports_its_figures() {
        let before = ProcessMetrics::read();
        let files: Vec<_> = (0..10)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let after = ProcessMetrics::read();
        drop(files);
        assert!(before.cpu_seconds > Some(0.0) && after.cpu_seconds >= before.cpu_seconds);
        assert!(
            before.resident_bytes > Some(100_000) && before.virtual_bytes > before.resident_bytes
        );
        // Other tests open and close files at the same time.
        assert!(after.open_files >= Some(10) && after.open_files < after.max_files);
    }

    #[test]
    fn a_line_of_the_kernels_in_bytes() {
        let status = "Name:\thopend\nVmSize:\t  10 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(bytes(status, "VmRSS:"), Some(2_097_152));
        assert_eq!(bytes(status, "VmSwap:"), None);
    }
}
