//! The q tables of hopend's state, with the rows that a viewer may see.

use std::time::SystemTime;

use jiff::Timestamp;

use super::request::StatusTable;
use super::viewer::Viewer;
use crate::telemetry::status::{
    AddressRow, CredentialRow, EndpointRow, ErrorRow, SessionRow, Status,
};
use q_ipc::time;
use q_ipc::value::{Table, Value};

/// Makes a table from a snapshot of the daemon's state.
pub(super) fn status_table(table: StatusTable, status: &Status, viewer: &Viewer) -> Table {
    match table {
        StatusTable::Endpoints => endpoints(&visible_endpoints(status, viewer)),
        StatusTable::Addresses => addresses(&visible_endpoints(status, viewer)),
        StatusTable::Sessions => {
            let rows = status.sessions.iter();
            let visible = rows.filter(|row| viewer.sees_user(Some(&row.user)));
            sessions(&visible.collect::<Vec<_>>())
        }
        StatusTable::Credentials => {
            let rows = status.credentials.iter();
            let visible = rows.filter(|row| viewer.sees_user(Some(&row.user)));
            credentials(&visible.collect::<Vec<_>>())
        }
        StatusTable::Errors => {
            let rows = status.errors.iter();
            let visible = rows.filter(|row| viewer.sees_user(row.user.as_deref()));
            errors(&visible.collect::<Vec<_>>())
        }
    }
}

fn visible_endpoints<'s>(status: &'s Status, viewer: &Viewer) -> Vec<&'s EndpointRow> {
    let rows = status.endpoints.iter();
    rows.filter(|row| viewer.sees_endpoint(&row.name)).collect()
}

fn endpoints(rows: &[&EndpointRow]) -> Table {
    Table::new()
        .with("name", symbols(rows, |row| &row.name))
        .with("listen", joined(rows, |row| &row.listen))
        .with("unbound", texts_of(rows, unbound))
        .with("target", texts(rows, |row| &row.target))
        .with("sessions", longs(rows, |row| row.sessions))
        .with("max_sessions", longs(rows, |row| row.max_sessions))
        .with("opened", longs(rows, |row| row.opened))
        .with("refused", longs(rows, |row| row.refused))
}

/// The local addresses where hopend does not listen, each with the reason, separated by semicolons.
fn unbound(row: &EndpointRow) -> String {
    let unbound = row.unbound.iter();
    let each = unbound.map(|row| format!("{}: {}", row.address, row.reason));
    each.collect::<Vec<_>>().join("; ")
}

/// An address or node of an endpoint's target.
struct EndpointAddress<'s> {
    endpoint: &'s str,
    row: &'s AddressRow,
}

fn addresses(endpoints: &[&EndpointRow]) -> Table {
    let mut addresses = Vec::new();
    for &EndpointRow {
        name,
        addresses: rows,
        ..
    } in endpoints
    {
        addresses.extend(rows.iter().map(|row| EndpointAddress {
            endpoint: name,
            row,
        }));
    }
    let rows: Vec<_> = addresses.iter().collect();
    Table::new()
        .with("endpoint", symbols(&rows, |address| address.endpoint))
        .with("address", texts(&rows, |address| &address.row.name))
        .with("zone", symbols(&rows, |address| &address.row.zone))
        .with("resting", timespans(&rows, |address| address.row.resting_s))
        .with(
            "reason",
            texts(&rows, |address| address.row.reason.as_deref().unwrap_or("")),
        )
}

fn sessions(rows: &[&SessionRow]) -> Table {
    let pids = rows.iter().map(|row| row.pid.map_or(i64::MIN, i64::from));
    Table::new()
        .with("session", longs(rows, |row| row.session))
        .with("endpoint", symbols(rows, |row| &row.endpoint))
        .with("user", symbols(rows, |row| &row.user))
        .with(
            "account",
            symbols(rows, |row| row.account.as_deref().unwrap_or("")),
        )
        .with("pid", Value::Longs(pids.collect()))
        .with(
            "program",
            texts(rows, |row| row.program.as_deref().unwrap_or("")),
        )
        .with("client", texts(rows, |row| &row.client))
        .with("target", texts(rows, |row| &row.target))
        .with("node", texts(rows, |row| row.node.as_deref().unwrap_or("")))
        .with("since", timestamps(rows, |row| row.since))
        .with("idle", timespans(rows, |row| Some(row.idle_s)))
        .with("bytes_up", longs(rows, |row| row.bytes_up))
        .with("bytes_down", longs(rows, |row| row.bytes_down))
        .with("messages_up", longs(rows, |row| row.messages_up))
        .with("messages_down", longs(rows, |row| row.messages_down))
        .with("outstanding", longs(rows, |row| row.outstanding))
        .with("pings", longs(rows, |row| row.pings))
}

fn credentials(rows: &[&CredentialRow]) -> Table {
    Table::new()
        .with("user", symbols(rows, |row| &row.user))
        .with("endpoints", joined(rows, |row| &row.endpoints))
        .with("what", texts(rows, |row| &row.what))
        .with("age", timespans(rows, |row| row.age_s))
        .with("left", timespans(rows, |row| row.left_s))
        .with("refresh", timespans(rows, |row| row.refresh_s))
        .with("fetches", longs(rows, |row| row.fetches))
        .with(
            "last_error",
            texts(rows, |row| row.last_error.as_deref().unwrap_or("")),
        )
}

fn errors(rows: &[&ErrorRow]) -> Table {
    Table::new()
        .with("time", timestamps(rows, |row| row.time))
        .with("endpoint", symbols(rows, |row| &row.endpoint))
        .with(
            "user",
            symbols(rows, |row| row.user.as_deref().unwrap_or("")),
        )
        .with("side", symbols(rows, |row| &row.side))
        .with("message", texts(rows, |row| &row.message))
        .with("times", longs(rows, |row| row.count))
}

/// A symbol column.
fn symbols<R>(rows: &[&R], column: fn(&R) -> &str) -> Value {
    Value::Symbols(rows.iter().map(|row| column(row).to_owned()).collect())
}

/// A column of strings.
fn texts<R>(rows: &[&R], column: fn(&R) -> &str) -> Value {
    Value::texts(rows.iter().map(|row| column(row)))
}

/// A column of strings that are made for each row.
fn texts_of<R>(rows: &[&R], column: fn(&R) -> String) -> Value {
    Value::texts(rows.iter().map(|row| column(row)))
}

/// A column of lists, each as one string with blanks between its items.
fn joined<R>(rows: &[&R], column: fn(&R) -> &[String]) -> Value {
    Value::texts(rows.iter().map(|row| column(row).join(" ")))
}

/// A long column. A value above the range of a long becomes the largest long.
fn longs<R>(rows: &[&R], column: fn(&R) -> u64) -> Value {
    let long = |row: &&R| i64::try_from(column(row)).unwrap_or(i64::MAX);
    Value::Longs(rows.iter().map(long).collect())
}

/// A timespan column, from seconds. `None` becomes a null.
fn timespans<R>(rows: &[&R], column: fn(&R) -> Option<f64>) -> Value {
    let spans = rows.iter().map(|row| time::timespan(column(row)));
    Value::Timespans(spans.collect())
}

/// A timestamp column.
fn timestamps<R>(rows: &[&R], column: fn(&R) -> Timestamp) -> Value {
    let times = rows.iter().map(|row| SystemTime::from(column(row)));
    Value::Timestamps(times.map(time::timestamp).collect())
}
