//! The text of `hopend status`: one table for each kind of row.

use std::cmp::Ordering;

use jiff::Timestamp;

use super::screen::{DOWN_MARK, ScreenView};
use super::table::{TextTable, wrap};
use crate::primitives::printable::printable;
use crate::primitives::shown::{bytes, time};
use crate::telemetry::status::{SessionRow, Status};

/// An order in which the live screen shows the sessions.
struct SessionOrder {
    name: &'static str,
    compare: fn(&SessionRow, &SessionRow) -> Ordering,
}

/// The key that sorts selects the next order, and after the last one the first.
const SESSION_ORDERS: [SessionOrder; 5] = [
    SessionOrder {
        name: "number",
        compare: |a, b| a.session.cmp(&b.session),
    },
    SessionOrder {
        name: "idle",
        compare: |a, b| a.idle_s.total_cmp(&b.idle_s),
    },
    SessionOrder {
        name: "waiting",
        compare: |a, b| b.outstanding.cmp(&a.outstanding),
    },
    SessionOrder {
        name: "down",
        compare: |a, b| b.bytes_down.cmp(&a.bytes_down),
    },
    SessionOrder {
        name: "user",
        compare: |a, b| a.user.cmp(&b.user),
    },
];

/// The whole status as text, without a line break at the end.
pub(super) fn text(status: &Status) -> String {
    sections(status, heading(status, ""), None).join("\n\n")
}

/// The lines of the live screen. Tables omit optional columns until they fit. Texts are wrapped, not cut.
pub(super) fn lines(status: &Status, view: ScreenView) -> Vec<String> {
    let mut sorted = status.clone();
    let order = &SESSION_ORDERS[view.sort_presses % SESSION_ORDERS.len()];
    sorted.sessions.sort_by(order.compare);
    let heading = heading(status, &format!(", sorted by {}", order.name));
    let text = sections(&sorted, heading, Some(view.width)).join("\n\n");
    text.lines().map(str::to_owned).collect()
}

/// The sections in their order. Faults stand first.
fn sections(status: &Status, heading: String, width: Option<usize>) -> Vec<String> {
    let mut sections = vec![heading];
    sections.extend(unbound(status, width));
    sections.extend(down(status, width));
    sections.push(endpoints(status, width));
    sections.extend(left_out(status, width));
    sections.extend(addresses(status, width));
    sections.extend(warm(status, width));
    sections.extend(sessions(status, width));
    sections.extend(credentials(status, width));
    sections.extend(errors(status, width));
    sections
}

/// The addresses that are down, each with the time and the reason.
fn down(status: &Status, width: Option<usize>) -> Option<String> {
    let mut lines = Vec::new();
    for endpoint in &status.endpoints {
        let name = &endpoint.name;
        for address in &endpoint.addresses {
            let Some(down) = address.down_s else { continue };
            let reason = address.reason.as_deref().unwrap_or_default();
            let since = time(down);
            lines.push(format!(
                "endpoint {name}: {} down for {since}: {reason}",
                address.name
            ));
        }
    }
    let lines = lines.iter().map(|line| {
        let line: String = line.chars().map(printable).collect();
        let wrapped = match width {
            Some(width) => wrap(&line, width.saturating_sub(DOWN_MARK.len())),
            None => vec![line],
        };
        format!("{DOWN_MARK}{}", wrapped.join("\n  "))
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    (!text.is_empty()).then_some(text)
}

/// The first line. `order` stands before the memory budget, which a narrow screen may cut off.
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

/// The local addresses where hopend does not listen. Clients may reach another process there.
fn unbound(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new(["NOT BOUND", "ENDPOINT", "FOR", "WHY"])
        .right_align([2])
        .text_last();
    let mut any = false;
    for endpoint in &status.endpoints {
        for row in &endpoint.unbound {
            any = true;
            table.add_row([
                row.address.clone(),
                endpoint.name.clone(),
                time(since(status, row.since)),
                row.reason.clone(),
            ]);
        }
    }
    any.then(|| table.fit(width))
}

fn endpoints(status: &Status, width: Option<usize>) -> String {
    let mut table = TextTable::new([
        "ENDPOINT", "LISTEN", "SESSIONS", "MOST", "OPENED", "REFUSED", "TARGET",
    ])
    .right_align([2, 3, 4, 5])
    .optional([3, 4, 1, 6]);
    for endpoint in &status.endpoints {
        let listen = match &endpoint.listen[..] {
            [] => "not bound".to_owned(),
            addresses => addresses.join(" "),
        };
        table.add_row([
            endpoint.name.clone(),
            listen,
            endpoint.sessions.to_string(),
            endpoint.max_sessions.to_string(),
            endpoint.opened.to_string(),
            endpoint.refused.to_string(),
            endpoint.target.clone(),
        ]);
    }
    table.fit(width)
}

fn left_out(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new(["LEFT OUT", "NAME", "STATE", "WHY"]).text_last();
    for row in &status.left_out {
        let name = if row.name.is_empty() {
            format!("line {}", row.line)
        } else {
            row.name.clone()
        };
        let state = match &*row.state {
            "kept" => "as it was before",
            "account_unknown" => "until its account is known",
            _ => "until the file is corrected and reloaded",
        };
        let reason = row.reason.clone();
        table.add_row([row.kind.clone(), name, state.to_owned(), reason]);
    }
    (!status.left_out.is_empty()).then(|| table.fit(width))
}

/// The addresses and nodes of the targets, and which of them rest after a failure.
fn addresses(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new(["ADDRESS", "ENDPOINT", "ZONE", "STATE"]).text_last();
    let mut any = false;
    for endpoint in &status.endpoints {
        for address in &endpoint.addresses {
            any = true;
            let state = match (address.resting_s, &address.reason) {
                (None, None) => "in use".to_owned(),
                (None, Some(reason)) => format!("tried with the next session: {reason}"),
                (Some(rest), None) => format!("rests for {}", time(rest)),
                (Some(rest), Some(reason)) => format!("rests for {}: {reason}", time(rest)),
            };
            table.add_row([
                address.name.clone(),
                endpoint.name.clone(),
                address.zone.clone(),
                state,
            ]);
        }
    }
    any.then(|| table.fit(width))
}

fn warm(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new(["WARM", "ENDPOINT", "READY", "OF", "TROUBLE"])
        .right_align([2, 3])
        .text_last();
    let mut any = false;
    for endpoint in &status.endpoints {
        for row in &endpoint.warm {
            any = true;
            table.add_row([
                row.user.clone(),
                endpoint.name.clone(),
                row.ready.to_string(),
                row.wanted.to_string(),
                row.reason.clone().unwrap_or_default(),
            ]);
        }
    }
    any.then(|| table.fit(width))
}

fn sessions(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new([
        "SESSION", "ENDPOINT", "USER", "ACCOUNT", "CLIENT", "OPEN", "IDLE", "WAITING", "UP",
        "DOWN", "PINGS", "TARGET",
    ])
    .right_align([0, 5, 6, 7, 8, 9, 10])
    .optional([10, 3, 11, 5, 4, 8, 9]);
    for row in &status.sessions {
        table.add_row([
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
    (!status.sessions.is_empty()).then(|| table.fit(width))
}

/// The client's program, process and address, such as `python3[4711] 127.0.0.1:40112`.
fn client(row: &SessionRow) -> String {
    match (&row.program, row.pid) {
        (Some(program), Some(pid)) => format!("{program}[{pid}] {}", row.client),
        (None, Some(pid)) => format!("[{pid}] {}", row.client),
        (_, None) => row.client.clone(),
    }
}

fn credentials(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new([
        "USER",
        "ENDPOINTS",
        "AGE",
        "LEFT",
        "NEXT",
        "FETCHED",
        "CREDENTIAL",
    ])
    .right_align([2, 3, 4, 5])
    .optional([2, 5, 1, 4])
    .text_last();
    let or_none = |time_s: Option<f64>| time_s.map_or_else(|| "-".to_owned(), time);
    for row in &status.credentials {
        let what = match &row.last_error {
            None => row.what.clone(),
            Some(error) => format!("{}: {error}", row.what),
        };
        table.add_row([
            row.user.clone(),
            row.endpoints.join(" "),
            or_none(row.age_s),
            or_none(row.left_s),
            or_none(row.refresh_s),
            row.fetches.to_string(),
            what,
        ]);
    }
    (!status.credentials.is_empty()).then(|| table.fit(width))
}

fn errors(status: &Status, width: Option<usize>) -> Option<String> {
    let mut table = TextTable::new(["AGO", "TIMES", "ENDPOINT", "USER", "SIDE", "LAST ERRORS"])
        .right_align([0, 1])
        .optional([1])
        .text_last();
    for row in &status.errors {
        table.add_row([
            time(since(status, row.time)),
            row.count.to_string(),
            row.endpoint.clone(),
            row.user.clone().unwrap_or_default(),
            row.side.clone(),
            row.message.clone(),
        ]);
    }
    (!status.errors.is_empty()).then(|| table.fit(width))
}

/// Seconds from `then` until the status was taken.
fn since(status: &Status, then: Timestamp) -> f64 {
    status.now.duration_since(then).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{AddressRow, EndpointRow, ErrorRow};

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
            ScreenView {
                width: 80,
                sort_presses: 0,
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
            ScreenView {
                width: 80,
                sort_presses: 0,
            },
        );
        assert!(lines[0].starts_with("hopend 0.1.0"), "{}", lines[0]);
        let expected = "✗ endpoint hdb: b:5011 down for 1m15s: no connection: Connection refused";
        assert_eq!(lines[2], expected.replace("1m15s", &time(75.0)));
        let all = text(&status());
        assert!(all.contains(&lines[2]), "{all}");
        assert!(all.find('✗') < all.find("ENDPOINT"), "{all}");
    }

    #[test]
    fn each_press_of_the_key_sorts_by_something_else() {
        let pressed = |sort_presses| {
            let view = ScreenView {
                width: 200,
                sort_presses,
            };
            lines(&status(), view)
        };
        let mut with_memory = status();
        with_memory.memory = Some(crate::telemetry::status::MemoryRow {
            budget_bytes: 6_320_000_000,
            used_bytes: 81_920,
            handshakes_bytes: 0,
        });
        let view = ScreenView {
            width: 80,
            sort_presses: 1,
        };
        let heading = lines(&with_memory, view).remove(0);
        let seen: String = heading.chars().take(view.width).collect();
        assert!(seen.contains("sorted by idle"), "{heading}");
        for (sort_presses, expected) in [
            (0, ["1", "2", "3"]),
            (1, ["3", "2", "1"]),
            (2, ["2", "1", "3"]),
            (3, ["3", "2", "1"]),
            (4, ["2", "3", "1"]),
            (5, ["1", "2", "3"]),
        ] {
            assert_eq!(numbers(&pressed(sort_presses)), expected, "{sort_presses}");
        }
    }
}
