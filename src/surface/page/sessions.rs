//! The table of open sessions.

use std::fmt::{self, Write as _};

use super::html::EscapedText;
use crate::primitives::shown::{bytes, time};
use crate::telemetry::status::{SessionRow, Status};

/// The most rows. The page shows the number of further sessions.
const MAX_SESSIONS: usize = 200;

/// Writes the table of sessions.
pub(super) fn write(out: &mut String, status: &Status) -> fmt::Result {
    let mut rows: Vec<&SessionRow> = status.sessions.iter().collect();
    // Readers look for sessions that wait for kdb+, then for those that were busy last.
    rows.sort_by(|a, b| {
        let waits = |row: &SessionRow| row.outstanding > 0;
        waits(b).cmp(&waits(a)).then(a.idle_s.total_cmp(&b.idle_s))
    });
    let more = rows.len().saturating_sub(MAX_SESSIONS);
    rows.truncate(MAX_SESSIONS);
    // With rows sorted by session number, no row moves while the page reloads.
    rows.sort_by_key(|row| row.session);
    if rows.is_empty() {
        return out.write_str("<section><h2>Sessions</h2><p class=\"none\">None.</p></section>\n");
    }
    out.write_str(
        "<section id=\"sessions\"><h2>Sessions</h2><table><thead><tr><th scope=\"col\" class=\"n\">No.</th>\
         <th scope=\"col\">User</th><th scope=\"col\">Client</th><th scope=\"col\">Endpoint</th>\
         <th scope=\"col\">kdb+</th><th scope=\"col\" class=\"n\">Open for</th>\
         <th scope=\"col\" class=\"n\">Idle</th><th scope=\"col\" class=\"n\">Waiting</th>\
         <th scope=\"col\" class=\"n\">Messages</th>\
         <th scope=\"col\" class=\"n\">To kdb+</th><th scope=\"col\" class=\"n\">To client</th>\
         </tr></thead><tbody>",
    )?;
    for row in rows {
        write_row(out, row, status)?;
    }
    out.write_str("</tbody></table>")?;
    if more > 0 {
        write!(
            out,
            "<p class=\"none\">And {more} more, idle for longer: <code>hopend status</code>.</p>"
        )?;
    }
    out.write_str("</section>\n")
}

fn write_row(out: &mut String, row: &SessionRow, status: &Status) -> fmt::Result {
    let account = row.account.as_deref().unwrap_or_default();
    let program = match (&row.program, row.pid) {
        (Some(program), Some(pid)) => format!("{program} [{pid}] "),
        (None, Some(pid)) => format!("[{pid}] "),
        (_, None) => String::new(),
    };
    write!(
        out,
        "<tr><td class=\"n\">{}</td><th scope=\"row\">{}<small> {}</small></th><td class=\"where\">{}<small>{}</small></td>\
         <td data-name=\"Endpoint\">{}</td><td data-name=\"kdb+\">{}</td>\
         <td class=\"n\" data-name=\"Open for\">{}</td><td class=\"n\" data-name=\"Idle\">{}</td>\
         <td class=\"n\" data-name=\"Waiting\">{}</td><td class=\"n\" data-name=\"Messages\">{}</td>\
         <td class=\"n\" data-name=\"To kdb+\">{}</td><td class=\"n\" data-name=\"To client\">{}</td></tr>",
        row.session,
        EscapedText(&row.user),
        EscapedText(account),
        EscapedText(&program),
        EscapedText(&row.client),
        EscapedText(&row.endpoint),
        EscapedText(row.node.as_deref().unwrap_or(&row.target)),
        time(status.now.duration_since(row.since).as_secs_f64()),
        time(row.idle_s),
        if row.outstanding > 0 {
            row.outstanding.to_string()
        } else {
            "–".to_owned()
        },
        row.messages_up + row.messages_down,
        bytes(row.bytes_up),
        bytes(row.bytes_down),
    )
}
