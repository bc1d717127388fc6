//! The table of problems: parts of the configuration that are left out, addresses that are down, and
//! warm connections that are missing. The page omits the table while there are no problems.

use std::fmt::{self, Write as _};

use super::html::EscapedText;
use crate::primitives::shown::time;
use crate::telemetry::status::{AddressRow, LeftOutRow, Status, UnboundRow, WarmRow};

/// Writes the table. Addresses that clients or sessions cannot reach are red.
pub(super) fn write(out: &mut String, status: &Status) -> fmt::Result {
    let mut rows = String::new();
    for left_out in &status.left_out {
        write_left_out(&mut rows, left_out)?;
    }
    for endpoint in &status.endpoints {
        for unbound in &endpoint.unbound {
            ProblemRow::of_unbound(&endpoint.name, unbound, status).write(&mut rows)?;
        }
        for address in &endpoint.addresses {
            if let Some(down_s) = address.down_s {
                ProblemRow::of_address(&endpoint.name, address, down_s).write(&mut rows)?;
            }
        }
    }
    for endpoint in &status.endpoints {
        for warm in endpoint.warm.iter().filter(|warm| warm.ready < warm.wanted) {
            ProblemRow::of_warm(&endpoint.name, warm).write(&mut rows)?;
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section id=\"problems\"><h2>Problems</h2><table><thead><tr><th scope=\"col\">Endpoint</th>\
         <th scope=\"col\">What</th><th scope=\"col\">State</th><th scope=\"col\">Why</th></tr></thead>\
         <tbody>{rows}</tbody></table></section>"
    )
}

fn write_left_out(rows: &mut String, left_out: &LeftOutRow) -> fmt::Result {
    write!(
        rows,
        "<tr><th scope=\"row\">{} {}</th><td>line {} of the configuration</td><td>{}</td><td>{}</td></tr>",
        EscapedText(&left_out.kind),
        EscapedText(&left_out.name),
        left_out.line,
        match &*left_out.state {
            "kept" => "as it was before",
            _ => "left out",
        },
        EscapedText(&left_out.reason),
    )
}

/// One problem of an endpoint.
struct ProblemRow<'r> {
    endpoint: &'r str,
    what: String,
    state: String,
    why: &'r str,
    /// Whether an address is down. The row is then red.
    down: bool,
}

impl<'r> ProblemRow<'r> {
    fn of_unbound(endpoint: &'r str, unbound: &'r UnboundRow, status: &Status) -> Self {
        let seconds = status.now.duration_since(unbound.since).as_secs_f64();
        Self {
            endpoint,
            what: unbound.address.clone(),
            state: format!("not bound for {}", time(seconds)),
            why: &unbound.reason,
            down: true,
        }
    }

    fn of_address(endpoint: &'r str, address: &'r AddressRow, down_s: f64) -> Self {
        let down = time(down_s);
        Self {
            endpoint,
            what: format!("{} {}", address.name, address.zone)
                .trim_end()
                .to_owned(),
            state: match address.resting_s {
                Some(rest) => format!("down for {down}, tried again in {}", time(rest)),
                None => format!("down for {down}, tried with the next session"),
            },
            why: address.reason.as_deref().unwrap_or_default(),
            down: true,
        }
    }

    fn of_warm(endpoint: &'r str, warm: &'r WarmRow) -> Self {
        Self {
            endpoint,
            what: format!("warm connections of {}", warm.user),
            state: format!("{} of {}", warm.ready, warm.wanted),
            why: warm.reason.as_deref().unwrap_or_default(),
            down: false,
        }
    }

    fn write(&self, rows: &mut String) -> fmt::Result {
        write!(
            rows,
            "<tr{}><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
            if self.down { " class=\"down\"" } else { "" },
            EscapedText(self.endpoint),
            EscapedText(&self.what),
            self.state,
            EscapedText(self.why),
        )
    }
}
