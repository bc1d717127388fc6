//! The tiles at the top of the page: one figure each, for the daemon as a whole.

use std::fmt::{self, Write as _};

use super::html::share;
use crate::primitives::shown::time;
use crate::telemetry::live::{DaemonTotals, EndpointTotals};
use crate::telemetry::status::{CredentialRow, Status};

/// The share of the memory budget from which its tile is red. Soon hopend will refuse clients.
const MEMORY_NEARLY_FULL: f64 = 0.9;

/// Writes the tiles.
pub(super) fn write(out: &mut String, status: &Status, totals: &DaemonTotals) -> fmt::Result {
    let sum = |count: fn(&EndpointTotals) -> u64| totals.endpoints.iter().map(count).sum::<u64>();
    let life = |row: &CredentialRow| row.left_s;
    let soonest = status.credentials.iter().filter_map(life);
    let soonest = soonest.fold(f64::INFINITY, f64::min);
    let missing = status.credentials.iter().filter(|row| row.left_s.is_none());
    let missing = missing.filter(|row| row.last_error.is_some()).count();
    out.write_str("<dl class=\"tiles\">")?;
    let addresses = status.endpoints.iter().flat_map(|row| &row.addresses);
    let unbound = status.endpoints.iter().map(|row| row.unbound.len());
    let down = addresses.filter(|row| row.down_s.is_some()).count() + unbound.sum::<usize>();
    let mut tiles = vec![
        Tile::new("sessions", &sum(|endpoint| endpoint.open)),
        Tile::new("waiting for kdb+", &sum(|endpoint| endpoint.outstanding)),
        Tile::new("opened", &sum(|endpoint| endpoint.opened)),
        Tile::new("refused", &sum(|endpoint| endpoint.refused.sum())),
        Tile::new("failed", &sum(|endpoint| endpoint.failed.sum())),
        Tile::new("addresses down", &down).alarming(down > 0),
        match missing {
            0 if soonest.is_finite() => Tile::new("shortest credential", &time(soonest)),
            0 => Tile::new("credentials", &status.credentials.len()),
            missing => Tile::new("without a credential", &missing).alarming(true),
        },
    ];
    if let Some(memory) = status.memory {
        let used = share(memory.used_bytes, memory.budget_bytes);
        let percent = format!("{:.0} %", used * 100.0);
        let tile = Tile::new("memory budget in use", &percent);
        tiles.push(tile.alarming(used >= MEMORY_NEARLY_FULL));
    }
    for Tile {
        name,
        value,
        alarming,
    } in tiles
    {
        let class = if alarming { " class=\"bad\"" } else { "" };
        write!(out, "<div{class}><dt>{name}</dt><dd>{value}</dd></div>")?;
    }
    out.write_str("</dl>\n")
}

struct Tile {
    name: &'static str,
    value: String,
    /// Whether the tile is red.
    alarming: bool,
}

impl Tile {
    fn new(name: &'static str, value: &impl ToString) -> Self {
        Self {
            name,
            value: value.to_string(),
            alarming: false,
        }
    }

    fn alarming(self, alarming: bool) -> Self {
        Self { alarming, ..self }
    }
}
