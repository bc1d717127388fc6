//! The table of credentials.

use std::fmt::{self, Write as _};

use super::html::{ErrorNote, EscapedText, ShareBar};
use crate::primitives::shown::time;
use crate::telemetry::status::Status;

/// The share of a credential's life, from 0 to 1, below which hopend should have fetched it again. If
/// the last fetch failed, the bar is red below this share.
const LATE_REFRESH: f64 = 0.2;

/// Writes the table of credentials.
pub(super) fn write(out: &mut String, status: &Status) -> fmt::Result {
    if status.credentials.is_empty() {
        return Ok(());
    }
    out.write_str(
        "<section id=\"credentials\"><h2>Credentials</h2><table><thead><tr><th scope=\"col\">User</th>\
         <th scope=\"col\">Endpoints</th><th scope=\"col\">What</th><th scope=\"col\">Life left</th>\
         <th scope=\"col\" class=\"n\">Next fetch</th><th scope=\"col\" class=\"n\">Fetched</th>\
         <th scope=\"col\" class=\"n\">Failed</th></tr></thead><tbody>",
    )?;
    for row in &status.credentials {
        let left = match (row.left_s, row.age_s) {
            (Some(left), age) => {
                let life = left + age.unwrap_or_default();
                let share = if life > 0.0 { left / life } else { 0.0 };
                let bad = share < LATE_REFRESH && row.last_error.is_some();
                format!("{}{}", time(left), ShareBar { share, bad })
            }
            (None, _) if row.last_error.is_some() => {
                "<span class=\"mark bad\">none</span>".to_owned()
            }
            (None, _) => "–".to_owned(),
        };
        write!(
            out,
            "<tr><th scope=\"row\">{}</th><td data-name=\"Endpoints\">{}</td><td class=\"where\">{}{}</td>\
             <td class=\"of\" data-name=\"Life left\">{left}</td><td class=\"n\" data-name=\"Next fetch\">{}</td>\
             <td class=\"n\" data-name=\"Fetched\">{}</td><td class=\"n\" data-name=\"Failed\">{}</td></tr>",
            EscapedText(&row.user),
            EscapedText(&row.endpoints.join(", ")),
            EscapedText(&row.what),
            ErrorNote(row.last_error.as_deref()),
            row.refresh_s
                .map_or_else(|| "–".to_owned(), |next| format!("in {}", time(next))),
            row.fetches,
            row.failures,
        )?;
    }
    out.write_str("</tbody></table></section>\n")
}
