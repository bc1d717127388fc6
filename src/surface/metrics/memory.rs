//! The memory budget.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{About, Families};
use crate::surface::status::MemoryRow;

pub(super) fn encode(families: &mut Families<'_, '_>, memory: MemoryRow) -> fmt::Result {
    let about = About::new(
        "hopend_memory_budget",
        "What the buffers of sessions and handshakes may hold (max_memory)",
    );
    let once: [(&str, &str); 0] = [];
    families.gauge(about.in_unit(&Unit::Bytes), [(once, memory.budget_bytes)])?;
    let about = About::new(
        "hopend_memory_used",
        "What is charged to the budget, by what it is for",
    );
    let sessions = memory.used_bytes.saturating_sub(memory.handshakes_bytes);
    let samples = [
        ("sessions", sessions),
        ("handshakes", memory.handshakes_bytes),
    ];
    families.gauge(
        about.in_unit(&Unit::Bytes),
        samples.map(|(purpose, bytes)| ([("purpose", purpose)], bytes)),
    )
}
