//! A status as a person reads it.

use std::cmp::Ordering;

use jiff::Timestamp;

use super::screen::{DOWN, View};
use super::table::{Table, wrap};
use crate::primitives::printable::printable;
use crate::primitives::shown::{bytes, time};
use crate::telemetry::status::{EndpointRow, SessionRow, Status};

/// In which order a watched status shows its sessions, and how that is called.
type Order = (&'static str, fn(&SessionRow, &SessionRow) -> Ordering);

/// The key that sorts goes from one to the next.
const ORDERS: [Order; 5] = [
    ("number", |a, b| a.session.cmp(&b.session)),
    ("idle", |a, b| a.idle_s.total_cmp(&b.idle_s)),
    ("waiting", |a, b| b.outstanding.cmp(&a.outstanding)),
    ("down", |a, b| b.bytes_down.cmp(&a.bytes_down)),
    ("user", |a, b| a.user.cmp(&b.user)),
];

/// The whole of it, without a line break at the end.
pub(super) fn of(status: &Status) -> String {
    parts(status, heading(status, ""), None).join("\n\n")
}

/// The lines of a screen: the columns that matter most where not all fit, and texts in full.
pub(super) fn lines(status: &Status, view: View) -> Vec<String> {
    let mut sorted = status.clone();
    let (name, order) = ORDERS[view.order % ORDERS.len()];
    sorted.sessions.sort_by(order);
    let heading = heading(status, &format!(", sorted by {name}"));
    let text = parts(&sorted, heading, Some(view.width)).join("\n\n");
    text.lines().map(str::to_owned).collect()
}

/// What is down comes first.
fn parts(status: &Status, heading: String, width: Option<usize>) -> Vec<String> {
    let mut parts = vec![heading];
    parts.extend(unbound(status, width));
    parts.extend(down(status, width));
    parts.push(endpoints(status, width));
    parts.extend(left_out(status, width));
    parts.extend(places(status, width));
    parts.extend(warm(status, width));
    parts.extend(sessions(status, width));
    parts.extend(credentials(status, width));
    parts.extend(errors(status, width));
    parts
}

/// Addresses that no session can go to, and since when.
fn down(status: &Status, width: Option<usize>) -> Option<String> {
    let mut lines = Vec::new();
    for endpoint in &status.endpoints {
        let name = &endpoint.name;
        for place in &endpoint.addresses {
            let Some(down) = place.down_s else { continue };
            let why = place.reason.as_deref().unwrap_or_default();
            let since = time(down);
            lines.push(format!(
                "endpoint {name}: {} down for {since}: {why}",
                place.name
            ));
        }
    }
    let lines = lines.iter().map(|line| {
        let line: String = line.chars().map(printable).collect();
        let wrapped = match width {
            Some(width) => wrap(&line, width.saturating_sub(DOWN.len())),
            None => vec![line],
        };
        format!("{DOWN}{}", wrapped.join("\n  "))
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    (!text.is_empty()).then_some(text)
}

/// The order stands before what a narrow screen may cut off.
fn heading(status: &Status, order: &str) -> String {
    let count = status.sessions.len();
    let memory = status.memory.map_or_else(String::new, |memory| {
        format!(
            ", {} of {} memory budget in use",
            bytes(memory.used_bytes),
            bytes(memory.budget_bytes)
        )
    });
    format!(
        "hopend {}, up {}, {count} {}{order}{memory}",
        status.version,
        time(since(status, status.started)),
        if count == 1 { "session" } else { "sessions" },
    )
}

/// Addresses where clients do not reach hopend: first, because they may reach somebody else.
fn unbound(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new(["NOT BOUND", "ENDPOINT", "FOR", "WHY"])
        .right([2])
        .text_last();
    let mut any = false;
    for endpoint in &status.endpoints {
        for row in &endpoint.unbound {
            any = true;
            table.row([
                row.address.clone(),
                endpoint.name.clone(),
                time(since(status, row.since)),
                row.reason.clone(),
            ]);
        }
    }
    any.then(|| table.fitted(width))
}

fn endpoints(status: &Status, width: Option<usize>) -> String {
    let mut table = Table::new([
        "ENDPOINT", "LISTEN", "SESSIONS", "MOST", "OPENED", "REFUSED", "TARGET",
    ])
    .right([2, 3, 4, 5])
    .spare([3, 4, 1, 6]);
    for endpoint in &status.endpoints {
        let listen = match &endpoint.listen[..] {
            [] => "not bound".to_owned(),
            addresses => addresses.join(" "),
        };
        table.row([
            endpoint.name.clone(),
            listen,
            endpoint.sessions.to_string(),
            endpoint.max_sessions.to_string(),
            endpoint.opened.to_string(),
            endpoint.refused.to_string(),
            endpoint.target.clone(),
        ]);
    }
    table.fitted(width)
}

fn left_out(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new(["LEFT OUT", "NAME", "STATE", "WHY"]).text_last();
    for row in &status.left_out {
        let name = if row.name.is_empty() {
            format!("line {}", row.line)
        } else {
            row.name.clone()
        };
        let state = match &*row.state {
            "kept" => "as it was before",
            "account_unknown" => "until its account is known",
            _ => "until the file is mended and reloaded",
        };
        let reason = row.reason.clone();
        table.row([row.kind.clone(), name, state.to_owned(), reason]);
    }
    (!status.left_out.is_empty()).then(|| table.fitted(width))
}

fn places(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new(["PLACE", "ENDPOINT", "ZONE", "STATE"]).text_last();
    let of_endpoint = |endpoint: &EndpointRow| endpoint.addresses.len();
    if status.endpoints.iter().map(of_endpoint).sum::<usize>() == 0 {
        return None;
    }
    for endpoint in &status.endpoints {
        for place in &endpoint.addresses {
            let state = match (place.resting_s, &place.reason) {
                (None, None) => "in use".to_owned(),
                (None, Some(why)) => format!("tried with the next session: {why}"),
                (Some(rest), None) => format!("rests for {}", time(rest)),
                (Some(rest), Some(why)) => format!("rests for {}: {why}", time(rest)),
            };
            table.row([
                place.name.clone(),
                endpoint.name.clone(),
                place.zone.clone(),
                state,
            ]);
        }
    }
    Some(table.fitted(width))
}

fn warm(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new(["WARM", "ENDPOINT", "READY", "OF", "TROUBLE"])
        .right([2, 3])
        .text_last();
    let mut any = false;
    for endpoint in &status.endpoints {
        for row in &endpoint.warm {
            any = true;
            table.row([
                row.user.clone(),
                endpoint.name.clone(),
                row.ready.to_string(),
                row.wanted.to_string(),
                row.reason.clone().unwrap_or_default(),
            ]);
        }
    }
    any.then(|| table.fitted(width))
}

fn sessions(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new([
        "SESSION", "ENDPOINT", "USER", "ACCOUNT", "CLIENT", "OPEN", "IDLE", "WAITING", "UP",
        "DOWN", "PINGS", "TARGET",
    ])
    .right([0, 5, 6, 7, 8, 9, 10])
    .spare([10, 3, 11, 5, 4, 8, 9]);
    for row in &status.sessions {
        table.row([
            row.session.to_string(),
            row.endpoint.clone(),
            row.user.clone(),
            row.account.clone().unwrap_or_default(),
            client(row),
            time(since(status, row.since)),
            time(row.idle_s),
            row.outstanding.to_string(),
            bytes(row.bytes_up),
            bytes(row.bytes_down),
            row.pings.to_string(),
            row.node.clone().unwrap_or_else(|| row.target.clone()),
        ]);
    }
    (!status.sessions.is_empty()).then(|| table.fitted(width))
}

/// `python3[4711] 127.0.0.1:40112`
fn client(row: &SessionRow) -> String {
    match (&row.program, row.pid) {
        (Some(program), Some(pid)) => format!("{program}[{pid}] {}", row.client),
        (None, Some(pid)) => format!("[{pid}] {}", row.client),
        (_, None) => row.client.clone(),
    }
}

fn credentials(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new([
        "USER",
        "ENDPOINTS",
        "AGE",
        "LEFT",
        "NEXT",
        "FETCHED",
        "CREDENTIAL",
    ])
    .right([2, 3, 4, 5])
    .spare([2, 5, 1, 4])
    .text_last();
    let or_none = |time_s: Option<f64>| time_s.map_or_else(|| "-".to_owned(), time);
    for row in &status.credentials {
        let what = match &row.last_error {
            None => row.what.clone(),
            Some(error) => format!("{}: {error}", row.what),
        };
        table.row([
            row.user.clone(),
            row.endpoints.join(" "),
            or_none(row.age_s),
            or_none(row.left_s),
            or_none(row.refresh_s),
            row.fetches.to_string(),
            what,
        ]);
    }
    (!status.credentials.is_empty()).then(|| table.fitted(width))
}

fn errors(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = Table::new(["AGO", "TIMES", "ENDPOINT", "USER", "SIDE", "LAST ERRORS"])
        .right([0, 1])
        .spare([1])
        .text_last();
    for row in &status.errors {
        table.row([
            time(since(status, row.time)),
            row.count.to_string(),
            row.endpoint.clone(),
            row.user.clone().unwrap_or_default(),
            row.side.clone(),
            row.message.clone(),
        ]);
    }
    (!status.errors.is_empty()).then(|| table.fitted(width))
}

fn since(status: &Status, then: Timestamp) -> f64 {
    status.now.duration_since(then).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{AddressRow, ErrorRow};

    fn session(number: u64, user: &str, idle_s: f64) -> SessionRow {
        SessionRow {
            session: number,
            endpoint: "hdb".into(),
            user: user.into(),
            account: Some("an-account-of-this-host".into()),
            pid: Some(4_711),
            program: Some("python3".into()),
            client: "127.0.0.1:40112".into(),
            server: None,
            target: "vpce-0123456789abcdef.finspace.example:443".into(),
            node: None,
            since: Timestamp::UNIX_EPOCH,
            idle_s,
            bytes_up: 1_000,
            bytes_down: 2_000 * number,
            messages_up: 1,
            messages_down: 1,
            outstanding: u64::from(number == 2),
            pings: 0,
        }
    }

    fn status() -> Status {
        let now = Timestamp::UNIX_EPOCH;
        let place = |name: &str, down_s: Option<f64>| AddressRow {
            name: name.into(),
            zone: String::new(),
            down_s,
            resting_s: None,
            reason: down_s.map(|_| "no connection: Connection refused".into()),
        };
        Status {
            version: "0.1.0".into(),
            started: now,
            now,
            endpoints: vec![EndpointRow {
                name: "hdb".into(),
                listen: vec!["127.0.0.1:26735".into(), "unix:26735".into()],
                target: ":tcps://rdb-a.internal:5011, :tcps://rdb-b.internal:5011".into(),
                sessions: 3,
                max_sessions: 4_096,
                opened: 5,
                refused: 1,
                addresses: vec![place("a:5011", None), place("b:5011", Some(75.0))],
                warm: Vec::new(),
                unbound: Vec::new(),
            }],
            sessions: vec![
                session(1, "zoe", 9.0),
                session(2, "alice", 8.0),
                session(3, "bob", 7.0),
            ],
            credentials: Vec::new(),
            errors: vec![ErrorRow {
                time: now,
                endpoint: "hdb".into(),
                user: Some("alice".into()),
                side: "upstream".into(),
                message: format!("{}. Fix: start it.", "a long reason ".repeat(12).trim_end()),
                count: 3,
            }],
            left_out: Vec::new(),
            memory: None,
        }
    }

    fn numbers(lines: &[String]) -> Vec<&str> {
        let at = lines
            .iter()
            .position(|line| line.starts_with("SESSION"))
            .unwrap();
        let rows = lines[at + 1..].iter().take_while(|line| !line.is_empty());
        rows.map(|row| row.split_whitespace().next().unwrap())
            .collect()
    }

    #[test]
    fn eighty_characters_show_what_matters_and_every_word_of_an_error() {
        let lines = lines(
            &status(),
            View {
                width: 80,
                order: 0,
            },
        );
        for line in &lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let text = lines.join("\n");
        for part in ["SESSION  ENDPOINT", "USER", "IDLE", "WAITING", "REFUSED"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let words = text.split_whitespace();
        assert_eq!(
            words.filter(|word| word.starts_with("reason")).count(),
            12,
            "{text}"
        );
        assert!(text.contains("Fix: start it."), "{text}");
    }

    #[test]
    fn what_is_down_comes_first_with_the_time_since() {
        let lines = lines(
            &status(),
            View {
                width: 80,
                order: 0,
            },
        );
        assert!(lines[0].starts_with("hopend 0.1.0"), "{}", lines[0]);
        let expected = "✗ endpoint hdb: b:5011 down for 1m15s: no connection: Connection refused";
        assert_eq!(lines[2], expected.replace("1m15s", &time(75.0)));
        let all = of(&status());
        assert!(all.contains(&lines[2]), "{all}");
        assert!(all.find('✗') < all.find("ENDPOINT"), "{all}");
    }

    #[test]
    fn each_press_of_the_key_sorts_by_something_else() {
        let of = |order| lines(&status(), View { width: 200, order });
        let mut with_memory = status();
        with_memory.memory = Some(crate::telemetry::status::MemoryRow {
            budget_bytes: 6_320_000_000,
            used_bytes: 81_920,
            handshakes_bytes: 0,
        });
        let (width, order) = (80, 1);
        let heading = lines(&with_memory, View { width, order }).remove(0);
        let seen: String = heading.chars().take(width).collect();
        assert!(seen.contains("sorted by idle"), "{heading}");
        for (order, expected) in [
            (0, ["1", "2", "3"]),
            (1, ["3", "2", "1"]),
            (2, ["2", "1", "3"]),
            (3, ["3", "2", "1"]),
            (4, ["2", "3", "1"]),
            (5, ["1", "2", "3"]),
        ] {
            assert_eq!(numbers(&of(order)), expected, "{order}");
        }
    }
}
