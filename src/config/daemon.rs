//! `[daemon]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::Claims;
use super::reader::{Table, Value};
use super::{Daemon, ListenAddress, LogFormat};

pub(super) const KEYS: &[&str] = &["admin", "log", "drain", "control", "zone"];

/// Where the daemon is asked how it does.
const CONTROL: &str = "/run/hopend/control";

/// Longest drain: a day.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Daemon {
    fn default() -> Self {
        Self {
            admin: None,
            log: LogFormat::Text,
            drain: Duration::from_secs(30),
            control: Some(PathBuf::from(CONTROL)),
            zone: None,
        }
    }
}

/// Reads `[daemon]`; all of it is optional.
pub(super) fn read(root: &Table<'_>, claims: &mut Claims) -> Daemon {
    let mut daemon = Daemon::default();
    let table = root
        .get("daemon")
        .and_then(|value| value.table("write a table [daemon]"));
    let Some(table) = table else {
        return daemon;
    };
    table.only(KEYS);
    if let Some(value) = table.get("admin") {
        daemon.admin = admin(&value, claims);
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
    if let Some(value) = table.get("control") {
        daemon.control = control(&value);
    }
    daemon.zone = table.get("zone").and_then(|zone| {
        zone.made_of(
            1..=32,
            |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            "write the availability zone's id, such as \"use1-az1\" (not its name, \"us-east-1a\", \
             which differs from account to account)",
        )
    });
    daemon
}

/// A path, or `"off"`.
fn control(value: &Value<'_>) -> Option<PathBuf> {
    (value.text()? != "off").then(|| value.path())?
}

fn admin(value: &Value<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let text = value.text()?;
    let remedy = "write an address of this host's loopback, such as \"127.0.0.1:9100\"";
    let Ok(address) = text.parse::<SocketAddr>() else {
        value.problem("is not an IP address and a port", remedy);
        return None;
    };
    let listen = ListenAddress::Tcp(address);
    if !listen.is_local() {
        // The page tells who uses which cluster, and asks nobody who they are.
        value.problem("is reachable from other hosts", remedy);
    }
    claims.claim(value, &listen);
    Some(address)
}
