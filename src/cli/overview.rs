//! A status as a person reads it.

use jiff::Timestamp;

use super::table::Table;
use crate::shown::{bytes, time};
use crate::status::{EndpointRow, SessionRow, Status};

/// The whole of it, without a line break at the end.
pub(super) fn of(status: &Status) -> String {
    let mut parts = vec![heading(status)];
    parts.extend(unbound(status));
    parts.push(endpoints(status));
    parts.extend(left_out(status));
    parts.extend(places(status));
    parts.extend(warm(status));
    parts.extend(sessions(status));
    parts.extend(credentials(status));
    parts.extend(errors(status));
    parts.join("\n\n")
}

fn heading(status: &Status) -> String {
    let count = status.sessions.len();
    let memory = status.memory.map_or_else(String::new, |memory| {
        format!(
            ", {} of {} memory budget in use",
            bytes(memory.used_bytes),
            bytes(memory.budget_bytes)
        )
    });
    format!(
        "hopend {}, up {}, {count} {}{memory}",
        status.version,
        time(since(status, status.started)),
        if count == 1 { "session" } else { "sessions" },
    )
}

/// Addresses where clients do not reach hopend: first, because they may reach somebody else.
fn unbound(status: &Status) -> Option<String> {
    let mut table = Table::new(["NOT BOUND", "ENDPOINT", "FOR", "WHY"]).right([2]);
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
    any.then(|| table.to_string())
}

fn endpoints(status: &Status) -> String {
    let mut table = Table::new([
        "ENDPOINT", "LISTEN", "SESSIONS", "MOST", "OPENED", "REFUSED", "TARGET",
    ])
    .right([2, 3, 4, 5]);
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
    table.to_string()
}

fn left_out(status: &Status) -> Option<String> {
    let mut table = Table::new(["LEFT OUT", "NAME", "STATE", "WHY"]);
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
    (!status.left_out.is_empty()).then(|| table.to_string())
}

fn places(status: &Status) -> Option<String> {
    let mut table = Table::new(["PLACE", "ENDPOINT", "ZONE", "STATE"]);
    let of_endpoint = |endpoint: &EndpointRow| endpoint.places.len();
    if status.endpoints.iter().map(of_endpoint).sum::<usize>() == 0 {
        return None;
    }
    for endpoint in &status.endpoints {
        for place in &endpoint.places {
            let state = match (place.resting_s, &place.reason) {
                (None, _) => "in use".to_owned(),
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
    Some(table.to_string())
}

fn warm(status: &Status) -> Option<String> {
    let mut table = Table::new(["WARM", "ENDPOINT", "READY", "OF", "TROUBLE"]).right([2, 3]);
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
    any.then(|| table.to_string())
}

fn sessions(status: &Status) -> Option<String> {
    let mut table = Table::new([
        "SESSION", "ENDPOINT", "USER", "ACCOUNT", "CLIENT", "OPEN", "IDLE", "WAITING", "UP",
        "DOWN", "PINGS", "TARGET",
    ])
    .right([0, 5, 6, 7, 8, 9, 10]);
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
    (!status.sessions.is_empty()).then(|| table.to_string())
}

/// `python3[4711] 127.0.0.1:40112`
fn client(row: &SessionRow) -> String {
    match (&row.program, row.pid) {
        (Some(program), Some(pid)) => format!("{program}[{pid}] {}", row.client),
        (None, Some(pid)) => format!("[{pid}] {}", row.client),
        (_, None) => row.client.clone(),
    }
}

fn credentials(status: &Status) -> Option<String> {
    let mut table = Table::new([
        "USER",
        "ENDPOINTS",
        "AGE",
        "LEFT",
        "NEXT",
        "FETCHED",
        "CREDENTIAL",
    ])
    .right([2, 3, 4, 5]);
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
    (!status.credentials.is_empty()).then(|| table.to_string())
}

fn errors(status: &Status) -> Option<String> {
    let mut table =
        Table::new(["AGO", "TIMES", "ENDPOINT", "USER", "SIDE", "LAST ERRORS"]).right([0, 1]);
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
    (!status.errors.is_empty()).then(|| table.to_string())
}

fn since(status: &Status, then: Timestamp) -> f64 {
    status.now.duration_since(then).as_secs_f64()
}
