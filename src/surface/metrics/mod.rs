//! What the daemon has done, for Prometheus: read off at each scrape, so that sessions count in
//! meters of their own and share nothing while they run.

mod endpoints;
mod families;
mod format;
mod memory;
mod outside;
mod process;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::config::LeftOut;
use crate::session::Services;
use crate::surface::status::MemoryRow;
use crate::telemetry::live::Totals;
use families::Families;
pub use format::Format;
use process::Process;

/// Whether user names stand in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// They stand in labels.
    Shown,
    /// Samples that differ in the user only become one.
    Withheld,
}

/// All metrics of the daemon as text, in the `format` that was negotiated.
///
/// # Errors
/// None that is known: writing to a string does not fail.
pub fn text(services: &Arc<Services>, format: Format, names: Names) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        totals: services.live.totals(&services.credentials),
        process: Process::look(),
        lost: outside::LinesLost {
            audit: services.audit.lost(),
            log: services.lost_log_lines.count(),
        },
        left_out: services.live.left_out(),
        memory: services.memory(),
        names,
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => format::prometheus(&text),
    })
}

#[derive(Debug)]
struct Scrape {
    totals: Totals,
    process: Process,
    lost: outside::LinesLost,
    left_out: Vec<LeftOut>,
    memory: MemoryRow,
    names: Names,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder
            .encode_descriptor("hopend_build", "What runs", None, MetricType::Info)?
            .encode_info(&version)?;
        let mut families = Families(&mut encoder);
        endpoints::encode(&mut families, &self.totals.endpoints)?;
        outside::credentials(&mut families, &self.totals.credentials, self.names)?;
        outside::calls(&mut families, &self.totals.calls)?;
        outside::lines(&mut families, self.lost)?;
        outside::left_out(&mut families, &self.left_out)?;
        memory::encode(&mut families, self.memory)?;
        self.process.encode(&mut families, self.totals.started)
    }
}
