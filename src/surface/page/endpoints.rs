//! The table of endpoints, with the totals that the page's script draws rates from.

use std::fmt::{self, Write as _};

use super::html::{EscapedText, ShareBar, share};
use crate::primitives::shown::bytes;
use crate::telemetry::live::{DaemonTotals, EndpointTotals};
use crate::telemetry::status::{EndpointRow, Status};

/// Writes the table of endpoints.
pub(super) fn write(out: &mut String, status: &Status, totals: &DaemonTotals) -> fmt::Result {
    out.write_str(
        "<section id=\"endpoints\"><h2>Endpoints</h2><table><thead><tr><th scope=\"col\">Name</th>\
         <th scope=\"col\">Leads to, and listens at</th>\
         <th scope=\"col\">Sessions</th><th scope=\"col\" class=\"n\">Opened</th>\
         <th scope=\"col\" class=\"n\">Refused</th><th scope=\"col\" class=\"n\">Carried</th>\
         <th scope=\"col\" class=\"rate\">Rate, last two minutes</th></tr></thead><tbody>",
    )?;
    for row in &status.endpoints {
        let totals = totals
            .endpoints
            .iter()
            .find(|totals| totals.name == row.name);
        write_row(out, row, totals)?;
    }
    out.write_str("</tbody></table></section>\n")
}

fn write_row(out: &mut String, row: &EndpointRow, totals: Option<&EndpointTotals>) -> fmt::Result {
    let (up, down, messages) = totals.map_or((0, 0, 0), |totals| {
        let (up, down) = (totals.carried.to_cluster, totals.carried.to_client);
        (up.bytes, down.bytes, up.messages() + down.messages())
    });
    let listen = match &row.listen[..] {
        [] => "<span class=\"mark bad\">not bound</span>".to_owned(),
        addresses => EscapedText(&addresses.join(", ")).to_string(),
    };
    write!(
        out,
        "<tr data-endpoint=\"{name}\" data-up=\"{up}\" data-down=\"{down}\" \
         data-messages=\"{messages}\"><th scope=\"row\">{name}</th>\
         <td class=\"where\">{target}<small>{listen}</small></td>\
         <td class=\"of\" data-name=\"Sessions\">{open}<small> of {most}{warm}</small>{bar}</td>\
         <td class=\"n\" data-name=\"Opened\">{opened}</td><td class=\"n\" data-name=\"Refused\">{refused}</td>\
         <td class=\"n\" data-name=\"Carried\">↑ {} ↓ {}<small>{messages} messages</small></td>\
         <td class=\"rate\"></td></tr>",
        bytes(up),
        bytes(down),
        name = EscapedText(&row.name),
        target = EscapedText(&row.target),
        open = row.sessions,
        most = row.max_sessions,
        warm = match row.warm.iter().map(|warm| warm.ready).sum::<u64>() {
            0 => String::new(),
            ready => format!(", {ready} warm"),
        },
        bar = ShareBar {
            share: share(row.sessions, row.max_sessions),
            bad: row.sessions >= row.max_sessions,
        },
        opened = row.opened,
        refused = row.refused,
    )
}
