//! The state of the daemon as a web page. All facts are in the HTML, so it is read without scripts as
//! well; with them it asks for its facts again every two seconds and draws rates.

use std::fmt::{self, Write as _};

use crate::primitives::shown::{bytes, time};
use crate::surface::status::{CredentialRow, EndpointRow, ErrorRow, SessionRow, Status};
use crate::telemetry::live::{EndpointTotals, Totals};
use base::error::ErrorKind;

const PAGE: &str = include_str!("page.html");
/// Rows of sessions that are shown; the rest is counted.
const MOST_SESSIONS: usize = 200;
/// The same of errors.
const MOST_ERRORS: usize = 10;
/// The share of the memory budget from which on clients are refused, nearly.
const FULL: f64 = 0.9;
/// A credential that is worth less than this share of its life should have been fetched again.
const SHORT: f64 = 0.2;

/// The page. `nonce` is what its style and script name themselves by.
pub fn whole(status: &Status, totals: &Totals, nonce: &str) -> String {
    PAGE.replace("{{nonce}}", nonce)
        .replace("{{facts}}", &facts(status, totals))
}

/// What is on it and changes.
pub fn facts(status: &Status, totals: &Totals) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Nothing stands in the way of writing to a string.
    let _ = write(&mut text, status, totals);
    text
}

fn write(out: &mut String, status: &Status, totals: &Totals) -> fmt::Result {
    run(out, status)?;
    troubles(out, status)?;
    tiles(out, status, totals)?;
    endpoints(out, status, totals)?;
    errors(out, status)?;
    sessions(out, status)?;
    credentials(out, status)
}

fn run(out: &mut String, status: &Status) -> fmt::Result {
    let up = status.now.duration_since(status.started).as_secs_f64();
    writeln!(
        out,
        "<p class=\"run\" data-now=\"{}\">version {} · up {}</p>",
        status.now.as_millisecond(),
        Text(&status.version),
        time(up)
    )
}

fn tiles(out: &mut String, status: &Status, totals: &Totals) -> fmt::Result {
    let sum = |of: fn(&EndpointTotals) -> u64| totals.endpoints.iter().map(of).sum::<u64>();
    let life = |row: &CredentialRow| row.left_s;
    let soonest = status.credentials.iter().filter_map(life);
    let soonest = soonest.fold(f64::INFINITY, f64::min);
    let broken = status.credentials.iter().filter(|row| row.left_s.is_none());
    let broken = broken.filter(|row| row.last_error.is_some()).count();
    out.write_str("<dl class=\"tiles\">")?;
    let places = status.endpoints.iter().flat_map(|row| &row.places);
    let unbound = status.endpoints.iter().map(|row| row.unbound.len());
    let down = places.filter(|place| place.down_s.is_some()).count() + unbound.sum::<usize>();
    let tiles = [
        ("sessions", sum(|of| of.open).to_string(), false),
        (
            "waiting for kdb+",
            sum(|of| of.outstanding).to_string(),
            false,
        ),
        ("opened", sum(|of| of.opened).to_string(), false),
        ("refused", sum(|of| of.refused.sum()).to_string(), false),
        ("failed", sum(|of| of.failed.sum()).to_string(), false),
        ("addresses down", down.to_string(), down > 0),
        match broken {
            0 if soonest.is_finite() => ("shortest credential", time(soonest), false),
            0 => ("credentials", status.credentials.len().to_string(), false),
            broken => ("without a credential", broken.to_string(), true),
        },
    ];
    let memory = status.memory.map(|memory| {
        let used = share(memory.used_bytes, memory.budget_bytes);
        let shown = format!("{:.0} %", used * 100.0);
        ("memory budget in use", shown, used >= FULL)
    });
    for (name, value, bad) in tiles.into_iter().chain(memory) {
        let class = if bad { " class=\"bad\"" } else { "" };
        write!(out, "<div{class}><dt>{name}</dt><dd>{value}</dd></div>")?;
    }
    out.write_str("</dl>\n")
}

fn endpoints(out: &mut String, status: &Status, totals: &Totals) -> fmt::Result {
    out.write_str(
        "<section id=\"endpoints\"><h2>Endpoints</h2><table><thead><tr><th scope=\"col\">Name</th>\
         <th scope=\"col\">Leads to, and listens at</th>\
         <th scope=\"col\">Sessions</th><th scope=\"col\" class=\"n\">Opened</th>\
         <th scope=\"col\" class=\"n\">Refused</th><th scope=\"col\" class=\"n\">Carried</th>\
         <th scope=\"col\" class=\"rate\">Rate, last two minutes</th></tr></thead><tbody>",
    )?;
    for row in &status.endpoints {
        let of = totals.endpoints.iter().find(|of| of.name == row.name);
        endpoint(out, row, of)?;
    }
    out.write_str("</tbody></table></section>\n")
}

fn endpoint(out: &mut String, row: &EndpointRow, of: Option<&EndpointTotals>) -> fmt::Result {
    let (up, down, messages) = of.map_or((0, 0, 0), |of| {
        let (up, down) = (of.carried.to_cluster, of.carried.to_client);
        let messages = [
            up.asyncs,
            up.syncs,
            up.responses,
            down.asyncs,
            down.syncs,
            down.responses,
        ];
        (up.bytes, down.bytes, messages.iter().sum::<u64>())
    });
    let listen = match &row.listen[..] {
        [] => "<span class=\"mark bad\">not bound</span>".to_owned(),
        addresses => Text(&addresses.join(", ")).to_string(),
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
        name = Text(&row.name),
        target = Text(&row.target),
        open = row.sessions,
        most = row.max_sessions,
        warm = match row.warm.iter().map(|warm| warm.ready).sum::<u64>() {
            0 => String::new(),
            ready => format!(", {ready} warm"),
        },
        bar = Bar {
            share: share(row.sessions, row.max_sessions),
            bad: row.sessions >= row.max_sessions,
        },
        opened = row.opened,
        refused = row.refused,
    )
}

/// Addresses that are down, in red, and warm connections that are missing. What works needs no row.
fn troubles(out: &mut String, status: &Status) -> fmt::Result {
    let mut rows = String::new();
    for left_out in &status.left_out {
        write!(
            rows,
            "<tr><th scope=\"row\">{} {}</th><td>line {} of the configuration</td><td>{}</td><td>{}</td></tr>",
            Text(&left_out.kind),
            Text(&left_out.name),
            left_out.line,
            match &*left_out.state {
                "kept" => "as it was before",
                _ => "left out",
            },
            Text(&left_out.reason),
        )?;
    }
    for endpoint in &status.endpoints {
        for address in &endpoint.unbound {
            let unbound = status.now.duration_since(address.since).as_secs_f64();
            let row = Trouble {
                endpoint: &endpoint.name,
                what: &address.address,
                state: format!("not bound for {}", time(unbound)),
                why: &address.reason,
                down: true,
            };
            row.write(&mut rows)?;
        }
        for place in &endpoint.places {
            let Some(down) = place.down_s else { continue };
            let what = format!("{} {}", place.name, place.zone);
            let row = Trouble {
                endpoint: &endpoint.name,
                what: what.trim_end(),
                state: match place.resting_s {
                    Some(rest) => format!("down for {}, tried again in {}", time(down), time(rest)),
                    None => format!("down for {}, tried with the next session", time(down)),
                },
                why: place.reason.as_deref().unwrap_or_default(),
                down: true,
            };
            row.write(&mut rows)?;
        }
    }
    for endpoint in &status.endpoints {
        for warm in endpoint.warm.iter().filter(|warm| warm.ready < warm.wanted) {
            let row = Trouble {
                endpoint: &endpoint.name,
                what: &format!("warm connections of {}", warm.user),
                state: format!("{} of {}", warm.ready, warm.wanted),
                why: warm.reason.as_deref().unwrap_or_default(),
                down: false,
            };
            row.write(&mut rows)?;
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section id=\"troubles\"><h2>Not as it should be</h2><table><thead><tr><th scope=\"col\">Endpoint</th>\
         <th scope=\"col\">What</th><th scope=\"col\">State</th><th scope=\"col\">Why</th></tr></thead>\
         <tbody>{rows}</tbody></table></section>"
    )
}

/// A row of what is not as it should be.
struct Trouble<'t> {
    endpoint: &'t str,
    what: &'t str,
    state: String,
    why: &'t str,
    /// Sessions can't go there.
    down: bool,
}

impl Trouble<'_> {
    fn write(&self, rows: &mut String) -> fmt::Result {
        write!(
            rows,
            "<tr{}><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
            if self.down { " class=\"down\"" } else { "" },
            Text(self.endpoint),
            Text(self.what),
            self.state,
            Text(self.why),
        )
    }
}

fn errors(out: &mut String, status: &Status) -> fmt::Result {
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
    for row in status.errors.iter().take(MOST_ERRORS) {
        error(out, row, status)?;
    }
    out.write_str("</tbody></table>")?;
    let more = status.errors.len().saturating_sub(MOST_ERRORS);
    if more > 0 {
        write!(
            out,
            "<p class=\"none\">And {more} more, longer ago: <code>hopend status</code>.</p>"
        )?;
    }
    out.write_str("</section>\n")
}

fn error(out: &mut String, row: &ErrorRow, status: &Status) -> fmt::Result {
    // What clients do wrong is theirs to mend; the rest is the administrator's.
    let theirs = [ErrorKind::Client, ErrorKind::Denied].map(ErrorKind::name);
    let class = if theirs.contains(&&*row.side) {
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
        Text(&row.side),
        Text(&row.endpoint),
        Text(row.user.as_deref().unwrap_or_default()),
        Text(&row.message),
    )
}

fn sessions(out: &mut String, status: &Status) -> fmt::Result {
    let mut rows: Vec<&SessionRow> = status.sessions.iter().collect();
    // Those that wait and those that were busy last are looked for.
    rows.sort_by(|a, b| {
        let waits = |row: &SessionRow| row.outstanding > 0;
        waits(b).cmp(&waits(a)).then(a.idle_s.total_cmp(&b.idle_s))
    });
    let more = rows.len().saturating_sub(MOST_SESSIONS);
    rows.truncate(MOST_SESSIONS);
    // Else rows would change places under the eyes of whoever reads them.
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
            Text(&row.user),
            Text(account),
            Text(&program),
            Text(&row.client),
            Text(&row.endpoint),
            Text(row.node.as_deref().unwrap_or(&row.target)),
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
        )?;
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

fn credentials(out: &mut String, status: &Status) -> fmt::Result {
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
                let bad = share < SHORT && row.last_error.is_some();
                format!("{}{}", time(left), Bar { share, bad })
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
            Text(&row.user),
            Text(&row.endpoints.join(", ")),
            Text(&row.what),
            Note(row.last_error.as_deref()),
            row.refresh_s
                .map_or_else(|| "–".to_owned(), |next| format!("in {}", time(next))),
            row.fetches,
            row.failures,
        )?;
    }
    out.write_str("</tbody></table></section>\n")
}

#[expect(clippy::cast_precision_loss, reason = "a bar is drawn")]
fn share(some: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        some as f64 / all as f64
    }
}

/// A share of a whole, drawn.
struct Bar {
    share: f64,
    bad: bool,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = (self.share * 100.0).clamp(0.0, 100.0);
        let class = if self.bad { "bar bad" } else { "bar" };
        write!(
            f,
            "<svg class=\"{class}\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" \
             aria-hidden=\"true\"><rect width=\"100\" height=\"4\"/>\
             <rect class=\"full\" width=\"{width:.1}\" height=\"4\"/></svg>"
        )
    }
}

/// What went wrong, below what it is about.
struct Note<'n>(Option<&'n str>);

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, "<div class=\"why\">{}</div>", Text(text)),
            None => Ok(()),
        }
    }
}

/// Text from anywhere, as it may stand between tags and in a quoted attribute.
struct Text<'t>(&'t str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match crate::surface::status::printable(c) {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::surface::status::{PlaceRow, UnboundRow};

    #[test]
    fn of_many_sessions_those_that_are_busy_are_shown() {
        let now = Timestamp::UNIX_EPOCH;
        let session = |number: u32| SessionRow {
            session: number.into(),
            endpoint: "hdb".into(),
            user: "alice".into(),
            account: None,
            pid: None,
            program: None,
            client: "unix".into(),
            server: None,
            target: format!("node-{number:04}"),
            node: None,
            since: now,
            idle_s: f64::from(2_000 - number),
            bytes_up: 0,
            bytes_down: 0,
            messages_up: 0,
            messages_down: 0,
            // One that has been idle for longest, but for an answer that it waits for.
            outstanding: u64::from(number == 1),
            pings: 0,
        };
        let status = Status {
            version: String::new(),
            started: now,
            now,
            left_out: Vec::new(),
            endpoints: Vec::new(),
            sessions: (1..=2_000).map(session).collect(),
            credentials: Vec::new(),
            errors: Vec::new(),
            memory: None,
        };
        let totals = Totals {
            started: now,
            endpoints: Vec::new(),
            credentials: Vec::new(),
            calls: Vec::new(),
        };
        let page = facts(&status, &totals);
        let shown: Vec<&str> = page
            .split("<td data-name=\"kdb+\">node-")
            .skip(1)
            .map(|s| &s[..4])
            .collect();
        let busy = std::iter::once(1).chain(1_802..=2_000);
        let expected: Vec<String> = busy.map(|number| format!("{number:04}")).collect();
        assert_eq!(shown, expected);
        assert!(page.contains("And 1800 more, idle for longer"));
        // What a browser is given every two seconds.
        assert!(page.len() < 100_000, "{}", page.len());
    }

    #[test]
    fn what_is_down_stands_at_the_top_in_red_with_the_time_since() {
        let now = Timestamp::UNIX_EPOCH;
        let place = |name: &str, down_s: Option<f64>| PlaceRow {
            name: name.into(),
            zone: String::new(),
            down_s,
            resting_s: down_s.map(|_| 8.0),
            reason: down_s.map(|_| "refused".into()),
        };
        let endpoint = |name: &str, listen: &[&str], places: Vec<PlaceRow>| EndpointRow {
            name: name.into(),
            listen: listen.iter().map(ToString::to_string).collect(),
            target: "there".into(),
            sessions: 0,
            max_sessions: 1,
            opened: 0,
            refused: 0,
            places,
            warm: Vec::new(),
            unbound: Vec::new(),
        };
        let mut status = Status {
            version: String::new(),
            started: now,
            now,
            endpoints: vec![
                endpoint(
                    "rdb",
                    &["unix:1"],
                    vec![place("a:1", None), place("b:2", Some(75.0))],
                ),
                EndpointRow {
                    unbound: vec![UnboundRow {
                        address: "localhost:5010".into(),
                        socket: None,
                        since: now,
                        reason: "uid 33 has it".into(),
                        uid: Some(33),
                        pid: None,
                        program: None,
                    }],
                    ..endpoint("hdb", &[], Vec::new())
                },
            ],
            sessions: Vec::new(),
            credentials: Vec::new(),
            errors: Vec::new(),
            left_out: Vec::new(),
            memory: Some(crate::surface::status::MemoryRow {
                budget_bytes: 1_000,
                used_bytes: 910,
                handshakes_bytes: 0,
            }),
        };
        let totals = Totals {
            started: now,
            endpoints: Vec::new(),
            credentials: Vec::new(),
            calls: Vec::new(),
        };
        let page = facts(&status, &totals);
        let full = "<div class=\"bad\"><dt>memory budget in use</dt><dd>91 %</dd>";
        assert!(page.contains(full), "{page}");
        let (_, from) = page.split_once("<section id=\"troubles\">").unwrap();
        let (troubles, _) = from.split_once("</section>").unwrap();
        let red: Vec<&str> = troubles.split("<tr class=\"down\">").skip(1).collect();
        assert_eq!(red.len(), 2, "{troubles}");
        let since = format!(
            "b:2</td><td>down for {}, tried again in {}",
            time(75.0),
            time(8.0)
        );
        assert!(red[0].contains(&since), "{troubles}");
        assert!(
            red[1].contains("hdb") && red[1].contains("not bound"),
            "{troubles}"
        );
        assert!(!troubles.contains("a:1"), "{troubles}");
        let at = |part: &str| page.find(part).unwrap();
        assert!(at("troubles") < at("class=\"tiles\"") && at("troubles") < at("id=\"endpoints\""));
        assert!(
            page.contains("<div class=\"bad\"><dt>addresses down</dt><dd>2</dd>"),
            "{page}"
        );

        status.endpoints.clear();
        assert!(!facts(&status, &totals).contains("troubles"));
    }

    #[test]
    fn text_from_outside_stays_text() {
        let shown = Text("<b onload='x'>&\"\u{202e}\n").to_string();
        assert_eq!(shown, "&lt;b onload=&#39;x&#39;&gt;&amp;&quot;??");
    }
}
