//! The metrics of `/metrics`, for Prometheus. Each scrape reads the sessions' own meters, because
//! sessions share no counter while they run.

mod endpoints;
mod families;
mod format;
mod memory;
mod outside;
mod process;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::config::LeftOutPart;
use crate::telemetry::live::DaemonTotals;
use crate::telemetry::status::MemoryRow;
use families::MetricFamilies;
pub(super) use format::MetricsFormat;
use outside::LinesLost;
use process::ProcessMetrics;

/// Whether the metrics contain user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserNames {
    /// Labels contain them.
    Shown,
    /// Samples that differ only in the user are added up.
    Withheld,
}

/// Everything that the metrics report, except for the process's own figures.
#[derive(Debug)]
pub struct MetricsSnapshot {
    pub(super) totals: DaemonTotals,
    /// Lines that are missing in the audit file.
    pub(super) audit_lines_lost: u64,
    /// Lines that are missing in the log.
    pub(super) log_lines_lost: u64,
    pub(super) left_out: Vec<LeftOutPart>,
    pub(super) memory: MemoryRow,
}

/// All metrics as text, in the negotiated format.
///
/// # Errors
/// The encoder fails. Writing to a string does not.
pub(super) fn text(
    snapshot: MetricsSnapshot,
    format: MetricsFormat,
    names: UserNames,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(MetricsCollector {
        snapshot,
        process: ProcessMetrics::read(),
        names,
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match format {
        MetricsFormat::OpenMetrics => text,
        MetricsFormat::Prometheus => format::prometheus(&text),
    })
}

#[derive(Debug)]
struct MetricsCollector {
    snapshot: MetricsSnapshot,
    process: ProcessMetrics,
    names: UserNames,
}

impl Collector for MetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let MetricsSnapshot {
            totals,
            audit_lines_lost,
            log_lines_lost,
            left_out,
            memory,
        } = &self.snapshot;
        let lost = LinesLost {
            audit: *audit_lines_lost,
            log: *log_lines_lost,
        };
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder
            .encode_descriptor(
                "hopend_build",
                "The version that runs",
                None,
                MetricType::Info,
            )?
            .encode_info(&version)?;
        let mut families = MetricFamilies(&mut encoder);
        endpoints::encode(&mut families, &totals.endpoints)?;
        outside::credentials(&mut families, &totals.credentials, self.names)?;
        outside::calls(&mut families, &totals.calls)?;
        outside::lines(&mut families, lost)?;
        outside::left_out(&mut families, left_out)?;
        memory::encode(&mut families, *memory)?;
        self.process.encode(&mut families, totals.started)
    }
}
