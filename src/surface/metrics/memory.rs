//! The metrics of the memory budget.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{MetricFamilies, MetricInfo};
use crate::telemetry::status::MemoryRow;

pub(super) fn encode(families: &mut MetricFamilies<'_, '_>, memory: MemoryRow) -> fmt::Result {
    let info = MetricInfo::new(
        "hopend_memory_budget",
        "Memory that the buffers of sessions and handshakes may use (max_memory)",
    );
    let unlabelled: [(&str, &str); 0] = [];
    families.gauge(
        info.in_unit(&Unit::Bytes),
        [(unlabelled, memory.budget_bytes)],
    )?;
    let info = MetricInfo::new(
        "hopend_memory_used",
        "Memory that is charged to the budget, by purpose",
    );
    let sessions = memory.used_bytes.saturating_sub(memory.handshakes_bytes);
    let samples = [
        ("sessions", sessions),
        ("handshakes", memory.handshakes_bytes),
    ];
    families.gauge(
        info.in_unit(&Unit::Bytes),
        samples.map(|(purpose, bytes)| ([("purpose", purpose)], bytes)),
    )
}
