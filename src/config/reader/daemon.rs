//! Reads the `[daemon]` table.

use std::path::PathBuf;
use std::time::Duration;

use super::account;
use super::admin;
use super::document::{Choice, TomlTable, TomlValue};
use super::limit;
use super::listen::AddressClaims;
use super::reported::Reported;
use crate::config::account_database::AccountResolver;
use crate::config::config_part::{ConfigPart, ConfigPartKind};
use crate::config::daemon::{Confine, DaemonSettings, LogFormat, OnRemoval};
use crate::config::listen_address::{LONGEST_SOCKET_PATH, fits_a_socket};
use crate::config::viewers::Viewers;

pub(in crate::config) const KEYS: &[&str] = &[
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

const FORM: &str = "write a table [daemon]";
/// The longest `drain`: a day.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `[daemon]`, all of whose keys are optional. An error here concerns the daemon as a whole, so the
/// value of an invalid key does not matter; it is the default.
pub(super) fn read(
    root: &TomlTable<'_>,
    claims: &mut AddressClaims,
    accounts: &AccountResolver<'_>,
) -> DaemonSettings {
    let default = DaemonSettings::default();
    let Ok(Some(table)) = root.optional("daemon", |value| value.table(FORM)) else {
        return default;
    };
    table.reject_keys_except(KEYS);
    let admin = table.optional("admin", |value| admin::read(value, claims));
    let viewers = table.optional("viewers", |value| {
        let viewers = viewers(value, accounts);
        if !matches!(admin, Ok(Some(_))) {
            value.problem(
                "has no effect: no address serves the status page",
                "set admin as well, or leave viewers out",
            );
        }
        viewers
    });
    let log = table.with_default("log", default.log, |value| {
        value.one_of(&[
            Choice::new("text", LogFormat::Text),
            Choice::new("json", LogFormat::Json),
        ])
    });
    let drain = table.with_default("drain", default.drain, |value| {
        value.duration(Duration::ZERO..=LONGEST_DRAIN)
    });
    let audit = table.optional("audit", |value| {
        let path = value.path()?;
        value.notice_if_directory_is_missing(&path);
        Ok(path)
    });
    let control = control(&table);
    let max_sessions = limit::sessions(&table, "max_sessions");
    let max_opens_per_second = limit::opens_per_second(&table);
    let max_memory = table.with_default("max_memory", default.max_memory, limit::memory);
    let zone = table.optional("zone", zone);
    let confine = table.with_default("confine", default.confine, |value| {
        value.one_of(&[
            Choice::new("auto", Confine::Auto),
            Choice::new("strict", Confine::Strict),
            Choice::new("off", Confine::Off),
        ])
    });
    let on_removal = table.with_default("on_removal", default.on_removal, |value| {
        value.one_of(&[
            Choice::new("end", OnRemoval::End),
            Choice::new("keep", OnRemoval::Keep),
        ])
    });
    DaemonSettings {
        admin: admin.unwrap_or_default(),
        viewers: viewers.unwrap_or_default().unwrap_or_default(),
        log: log.unwrap_or(default.log),
        audit: audit.unwrap_or_default(),
        drain: drain.unwrap_or(default.drain),
        control: control.unwrap_or_default(),
        zone: zone.unwrap_or_default(),
        max_sessions: max_sessions.unwrap_or_default(),
        max_opens_per_second: max_opens_per_second.unwrap_or_default(),
        max_memory: max_memory.unwrap_or_default(),
        confine: confine.unwrap_or(default.confine),
        on_removal: on_removal.unwrap_or(default.on_removal),
    }
}

/// Reads only `control` of `[daemon]`, even if other keys have errors. `None` means that the daemon has no
/// control socket.
pub(super) fn read_control(root: &TomlTable<'_>) -> Result<Option<PathBuf>, Reported> {
    // A `daemon` that is no table has no control key, so the default applies.
    match root.get("daemon").filter(|value| value.raw().is_table()) {
        Some(value) => control(&value.table(FORM)?),
        None => Ok(DaemonSettings::default().control),
    }
}

/// Reads `control`: a path, or `"off"`.
fn control(table: &TomlTable<'_>) -> Result<Option<PathBuf>, Reported> {
    let Some(value) = table.get("control") else {
        return Ok(DaemonSettings::default().control);
    };
    if value.text()? == "off" {
        return Ok(None);
    }
    let path = value.path()?;
    if !fits_a_socket(&path) {
        return Err(value.problem(
            "the path is too long for a socket",
            format!("write a path of at most {LONGEST_SOCKET_PATH} bytes, or \"off\""),
        ));
    }
    Ok(Some(path))
}

/// Reads `viewers`. Each viewer is a part of its own; one that is no text is an error of the daemon.
fn viewers(value: &TomlValue<'_>, accounts: &AccountResolver<'_>) -> Result<Viewers, Reported> {
    let names = value.array()?;
    let viewers = names.into_iter().filter_map(|value| {
        value.text().ok()?;
        let part = ConfigPart::unnamed(ConfigPartKind::Viewer, value.line());
        account::read(&value.of_part(part), accounts).ok()
    });
    Ok(viewers.collect())
}

fn zone(value: &TomlValue<'_>) -> Result<String, Reported> {
    value.restricted_text(
        1..=32,
        |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
        "write the availability zone's id, such as \"use1-az1\" (not its name, \"us-east-1a\", \
         which differs from account to account)",
    )
}
