//! `[daemon]`.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{LONGEST_SOCKET_PATH, fits_a_socket};
use super::admin;
use super::endpoint::Claims;
use super::left_out::{Part, PartKind};
use super::limit;
use super::notice::Severity;
use super::reader::Table;
use super::user;
use super::{Accounts, Confine, Daemon, LogFormat, OnRemoval, Viewers};
use crate::config::MaxMemory;

pub(super) const KEYS: &[&str] = &[
    "admin",
    "viewers",
    "log",
    "audit",
    "drain",
    "control",
    "zone",
    "max_sessions",
    "max_opens_per_second",
    "max_memory",
    "confine",
    "on_removal",
];

/// Where the daemon is asked how it does.
const CONTROL: &str = "/run/hopend/control";

/// For a `daemon` that is no table.
const REMEDY: &str = "write a table [daemon]";

/// Longest drain: a day.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Daemon {
    fn default() -> Self {
        Self {
            admin: None,
            viewers: Viewers::default(),
            log: LogFormat::Text,
            audit: None,
            drain: Duration::from_secs(30),
            control: Some(PathBuf::from(CONTROL)),
            zone: None,
            max_sessions: None,
            max_opens_per_second: None,
            max_memory: MaxMemory::default(),
            confine: Confine::Auto,
            on_removal: OnRemoval::End,
        }
    }
}

/// Reads `[daemon]`; all of it is optional.
pub(super) fn read(root: &Table<'_>, claims: &mut Claims, accounts: &Accounts<'_>) -> Daemon {
    let mut daemon = Daemon::default();
    let table = root.get("daemon").and_then(|value| value.table(REMEDY));
    let Some(table) = table else {
        return daemon;
    };
    table.only(KEYS);
    if let Some(value) = table.get("admin") {
        daemon.admin = admin::read(&value, claims);
    }
    if let Some(value) = table.get("viewers") {
        let names = value.array().unwrap_or_default();
        let viewers = names.iter().filter_map(|value| {
            let line = value.source.line(value.at);
            let (kind, name) = (PartKind::Viewer, String::new());
            user::account(value, Part { kind, name, line }, accounts)
        });
        daemon.viewers = viewers.collect();
        if daemon.admin.is_none() {
            value.problem(
                "has no page to see",
                "set admin as well, or leave viewers out",
            );
        }
    }
    if let Some(log) = table
        .get("log")
        .and_then(|value| value.word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]))
    {
        daemon.log = log;
    }
    if let Some(drain) = table
        .get("drain")
        .and_then(|value| value.duration(Duration::ZERO, LONGEST_DRAIN))
    {
        daemon.drain = drain;
    }
    daemon.audit = table.get("audit").and_then(|value| {
        let path = value.path()?;
        let folder = path.parent().unwrap_or(&path);
        if !folder.is_dir() {
            value.notice(
                Severity::Error,
                format!("the directory {} does not exist", folder.display()),
                "make the directory, writable for the account that runs hopend",
            );
        }
        Some(path)
    });
    daemon.control = control(&table);
    daemon.max_sessions = limit::sessions(&table, "max_sessions").flatten();
    daemon.max_opens_per_second = limit::rate(&table).flatten();
    if let Some(max_memory) = limit::memory(&table) {
        daemon.max_memory = max_memory;
    }
    daemon.zone = table.get("zone").and_then(|zone| {
        zone.made_of(
            1..=32,
            |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            "write the availability zone's id, such as \"use1-az1\" (not its name, \"us-east-1a\", \
             which differs from account to account)",
        )
    });
    let confinements = [
        ("auto", Confine::Auto),
        ("strict", Confine::Strict),
        ("off", Confine::Off),
    ];
    if let Some(confine) = table
        .get("confine")
        .and_then(|value| value.word(&confinements))
    {
        daemon.confine = confine;
    }
    let ways = [("end", OnRemoval::End), ("keep", OnRemoval::Keep)];
    if let Some(on_removal) = table.get("on_removal").and_then(|value| value.word(&ways)) {
        daemon.on_removal = on_removal;
    }
    daemon
}

/// Reads `control` of `[daemon]`, whatever else stands there.
pub(super) fn control_of(root: &Table<'_>) -> Option<PathBuf> {
    match root.get("daemon").filter(|value| value.raw().is_table()) {
        Some(value) => control(&value.table(REMEDY)?),
        None => Daemon::default().control,
    }
}

/// A path, or `"off"`.
fn control(table: &Table<'_>) -> Option<PathBuf> {
    let Some(value) = table.get("control") else {
        return Daemon::default().control;
    };
    if value.text()? == "off" {
        return None;
    }
    let path = value.path()?;
    if !fits_a_socket(&path) {
        value.problem(
            "the path is too long for a socket",
            format!("write a path of at most {LONGEST_SOCKET_PATH} bytes, or \"off\""),
        );
        return None;
    }
    Some(path)
}
