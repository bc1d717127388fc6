//! The table: medians, hopend's ratios, and whether the target is met.

use std::collections::BTreeMap;

use crate::contender::Contender;
use crate::figures::median;
use crate::rows::{Figure, Row, Target};

pub struct Table {
    contenders: Vec<Contender>,
    samples: BTreeMap<(&'static str, usize, Contender), Vec<f64>>,
}

impl Table {
    pub fn new(contenders: &[Contender]) -> Self {
        let names: Vec<_> = contenders.iter().map(|c| c.name()).collect();
        println!("| | {} | ratio | target | |", names.join(" | "));
        println!("|---|{}---|---|---|", "---|".repeat(names.len()));
        Self {
            contenders: contenders.to_vec(),
            samples: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, row: &Row, contender: Contender, figures: Option<Vec<f64>>) {
        for (at, figure) in figures.into_iter().flatten().enumerate() {
            let key = (row.name, at, contender);
            self.samples.entry(key).or_default().push(figure);
        }
    }

    pub fn print(&self, row: &Row) {
        for (at, figure) in row.figures.iter().enumerate() {
            let of = |contender: Contender| {
                let sample = self.samples.get(&(row.name, at, contender))?;
                Some(median(sample))
            };
            // What direct TLS has no process for is nothing to show.
            let cells = self.contenders.iter().map(|&contender| {
                of(contender)
                    .filter(|&value| value > 0.0)
                    .map_or_else(|| "-".to_owned(), short)
            });
            let cells: Vec<_> = cells.collect();
            let (ratio, target, met) = judge(figure, &self.contenders, of);
            println!(
                "| {}, {} | {} | {ratio} | {target} | {} |",
                row.name,
                figure.name,
                cells.join(" | "),
                match met {
                    Some(true) => "met",
                    Some(false) => "**missed**",
                    None => "",
                }
            );
        }
    }
}

fn judge(
    figure: &Figure,
    contenders: &[Contender],
    of: impl Fn(Contender) -> Option<f64>,
) -> (String, String, Option<bool>) {
    let own = of(Contender::Hopend).unwrap_or(f64::NAN);
    let peers: Vec<f64> = contenders
        .iter()
        .filter(|contender| contender.is_peer())
        .filter_map(|&contender| of(contender))
        .collect();
    let least = peers.iter().copied().fold(f64::NAN, f64::min);
    let most = peers.iter().copied().fold(f64::NAN, f64::max);
    let direct = of(Contender::Direct).unwrap_or(f64::NAN);
    match figure.target {
        Target::BelowPeer(limit) => {
            let ratio = own / least;
            let target = format!("≤ {limit} × best peer");
            (format!("{ratio:.2}"), target, Some(ratio <= limit))
        }
        Target::AbovePeer(limit) => {
            let ratio = own / most;
            let target = format!("≥ {limit} × best peer");
            (format!("{ratio:.2}"), target, Some(ratio >= limit))
        }
        Target::BelowDirectAndWarm(limit, warm_limit) => {
            let ratio = own / direct;
            let warm = of(Contender::Warm).unwrap_or(f64::NAN) / direct;
            (
                format!("{ratio:.2}, warm {warm:.2}"),
                format!("≤ {limit} × direct, warm ≤ {warm_limit}"),
                Some(ratio <= limit && warm <= warm_limit),
            )
        }
        Target::AbovePeerAndDirect(peer, of_direct) => {
            let (to_peer, to_direct) = (own / most, own / direct);
            (
                format!("{to_peer:.2}, {to_direct:.2} of direct"),
                format!("≥ {peer} × best peer, ≥ {of_direct} × direct"),
                Some(to_peer >= peer && to_direct >= of_direct),
            )
        }
        Target::AtMost(limit) => (String::new(), format!("≤ {limit}"), Some(own <= limit)),
        Target::Shown => (String::new(), String::new(), None),
    }
}

fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
