//! The status page: the state of the daemon as HTML.
//!
//! All facts are in the HTML, so that the page works without scripts. Its script reloads the facts every two seconds
//! and draws the rates of each endpoint.

mod credentials;
mod endpoints;
mod errors;
mod html;
mod problems;
mod sessions;
mod tiles;

use std::fmt::{self, Write as _};

use crate::primitives::shown::time;
use crate::telemetry::live::DaemonTotals;
use crate::telemetry::status::Status;
use html::EscapedText;

const PAGE: &str = include_str!("page.html");

/// The whole page. `nonce` marks its own style and script, so that the browser applies no others.
pub(super) fn whole(status: &Status, totals: &DaemonTotals, nonce: &str) -> String {
    PAGE.replace("{{nonce}}", nonce)
        .replace("{{facts}}", &facts(status, totals))
}

/// The part of the page that changes.
pub(super) fn facts(status: &Status, totals: &DaemonTotals) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a string does not fail.
    let _ = write_facts(&mut text, status, totals);
    text
}

fn write_facts(out: &mut String, status: &Status, totals: &DaemonTotals) -> fmt::Result {
    write_run(out, status)?;
    problems::write(out, status)?;
    tiles::write(out, status, totals)?;
    endpoints::write(out, status, totals)?;
    errors::write(out, status)?;
    sessions::write(out, status)?;
    credentials::write(out, status)
}

/// Writes the daemon's version and how long it has run.
fn write_run(out: &mut String, status: &Status) -> fmt::Result {
    let up = status.now.duration_since(status.started).as_secs_f64();
    writeln!(
        out,
        "<p class=\"run\" data-now=\"{}\">version {} · up {}</p>",
        status.now.as_millisecond(),
        EscapedText(&status.version),
        time(up)
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::telemetry::status::{AddressRow, EndpointRow, MemoryRow, SessionRow, UnboundRow};

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
            // The first session has been idle for longest, but waits for a response.
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
        let totals = DaemonTotals {
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
        // A browser fetches it every two seconds.
        assert!(page.len() < 100_000, "{}", page.len());
    }

    #[test]
    fn what_is_down_stands_at_the_top_in_red_with_the_time_since() {
        let now = Timestamp::UNIX_EPOCH;
        let address = |name: &str, down_s: Option<f64>| AddressRow {
            name: name.into(),
            zone: String::new(),
            down_s,
            resting_s: down_s.map(|_| 8.0),
            reason: down_s.map(|_| "refused".into()),
        };
        let endpoint = |name: &str, listen: &[&str], addresses: Vec<AddressRow>| EndpointRow {
            name: name.into(),
            listen: listen.iter().map(ToString::to_string).collect(),
            target: "there".into(),
            sessions: 0,
            max_sessions: 1,
            opened: 0,
            refused: 0,
            addresses,
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
                    vec![address("a:1", None), address("b:2", Some(75.0))],
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
            memory: Some(MemoryRow {
                budget_bytes: 1_000,
                used_bytes: 910,
                handshakes_bytes: 0,
            }),
        };
        let totals = DaemonTotals {
            started: now,
            endpoints: Vec::new(),
            credentials: Vec::new(),
            calls: Vec::new(),
        };
        let page = facts(&status, &totals);
        let full = "<div class=\"bad\"><dt>memory budget in use</dt><dd>91 %</dd>";
        assert!(page.contains(full), "{page}");
        let (_, from) = page.split_once("<section id=\"problems\">").unwrap();
        let (problems, _) = from.split_once("</section>").unwrap();
        let red: Vec<&str> = problems.split("<tr class=\"down\">").skip(1).collect();
        assert_eq!(red.len(), 2, "{problems}");
        let since = format!(
            "b:2</td><td>down for {}, tried again in {}",
            time(75.0),
            time(8.0)
        );
        assert!(red[0].contains(&since), "{problems}");
        assert!(
            red[1].contains("hdb") && red[1].contains("not bound"),
            "{problems}"
        );
        assert!(!problems.contains("a:1"), "{problems}");
        let at = |part: &str| page.find(part).unwrap();
        assert!(at("problems") < at("class=\"tiles\"") && at("problems") < at("id=\"endpoints\""));
        assert!(
            page.contains("<div class=\"bad\"><dt>addresses down</dt><dd>2</dd>"),
            "{page}"
        );

        status.endpoints.clear();
        assert!(!facts(&status, &totals).contains("problems"));
    }

    #[test]
    fn text_from_outside_stays_text() {
        let shown = EscapedText("<b onload='x'>&\"\u{202e}\n").to_string();
        assert_eq!(shown, "&lt;b onload=&#39;x&#39;&gt;&amp;&quot;??");
    }
}
