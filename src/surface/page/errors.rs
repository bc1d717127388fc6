//! The table of the last errors.

use std::fmt::{self, Write as _};

use super::html::EscapedText;
use crate::primitives::shown::time;
use crate::telemetry::status::{ErrorRow, Status};
use base::error::ErrorKind;

/// The most rows. The page shows the number of further errors.
const MAX_ERRORS: usize = 10;

/// Writes the table of the last errors.
pub(super) fn write(out: &mut String, status: &Status) -> fmt::Result {
    if status.errors.is_empty() {
        return out
            .write_str("<section><h2>Last errors</h2><p class=\"none\">None.</p></section>\n");
    }
    out.write_str(
        "<section id=\"errors\"><h2>Last errors</h2><table><thead><tr><th scope=\"col\" class=\"n\">Ago</th>\
         <th scope=\"col\" class=\"n\">Times</th><th scope=\"col\">Side</th>\
         <th scope=\"col\">Endpoint</th><th scope=\"col\">User</th>\
         <th scope=\"col\">What, and what to do</th></tr></thead><tbody>",
    )?;
    for row in status.errors.iter().take(MAX_ERRORS) {
        write_row(out, row, status)?;
    }
    out.write_str("</tbody></table>")?;
    let more = status.errors.len().saturating_sub(MAX_ERRORS);
    if more > 0 {
        write!(
            out,
            "<p class=\"none\">And {more} more, longer ago: <code>hopend status</code>.</p>"
        )?;
    }
    out.write_str("</section>\n")
}

fn write_row(out: &mut String, row: &ErrorRow, status: &Status) -> fmt::Result {
    // Errors of clients are not red, because the administrator need not act on them.
    let of_clients = [ErrorKind::Client, ErrorKind::Denied].map(ErrorKind::name);
    let class = if of_clients.contains(&&*row.side) {
        "mark"
    } else {
        "mark bad"
    };
    write!(
        out,
        "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td><span class=\"{class}\">{}</span></td>\
         <td>{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
        time(status.now.duration_since(row.time).as_secs_f64()),
        row.count,
        EscapedText(&row.side),
        EscapedText(&row.endpoint),
        EscapedText(row.user.as_deref().unwrap_or_default()),
        EscapedText(&row.message),
    )
}
