//! The open sessions, each with its meters and the means to end it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::watch;

use super::lock;
use super::totals::Carried;
use crate::audit::Record;
use crate::auth::{Peer, process};
use crate::relay::Meters;
use crate::status::SessionRow;

/// What a client that came in over a Unix socket has for an address.
const UNIX: &str = "unix";

/// All open sessions by number.
#[derive(Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<Table>>);

/// Under one lock, so that a session that ends is always in one of the two and never in both.
#[derive(Debug, Default)]
struct Table {
    open: BTreeMap<u64, Entry>,
    /// What those that have ended carried, by endpoint.
    ended: HashMap<String, Carried>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    since: Timestamp,
    meters: Arc<Meters>,
    /// Told the uid of whoever wants the session to end; closed once it has.
    killer: watch::Sender<Option<u32>>,
}

/// The sessions of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// How many are open.
    pub(super) open: u64,
    /// Their requests without an answer.
    pub(super) outstanding: u64,
    /// What they and those before them carried.
    pub(super) carried: Carried,
}

/// An open session's own hold on its row.
#[derive(Debug)]
pub struct OpenSession {
    number: u64,
    meters: Arc<Meters>,
    killed: watch::Receiver<Option<u32>>,
    sessions: Arc<Mutex<Table>>,
}

/// No open session has the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no session {0} is open. Fix: take a number from `hopend status`.")]
pub struct NoSession(pub u64);

impl Sessions {
    pub(super) fn enter(&self, record: &Record) -> OpenSession {
        let meters = Arc::new(Meters::default());
        let (killer, killed) = watch::channel(None);
        let entry = Entry {
            record: record.clone(),
            since: Timestamp::now(),
            meters: Arc::clone(&meters),
            killer,
        };
        let number = record.session();
        lock(&self.0).open.insert(number, entry);
        OpenSession {
            number,
            meters,
            killed,
            sessions: Arc::clone(&self.0),
        }
    }

    pub(super) async fn kill(&self, session: u64, uid: u32) -> Result<(), NoSession> {
        let killer = {
            let sessions = lock(&self.0);
            let entry = sessions.open.get(&session).ok_or(NoSession(session))?;
            entry.killer.clone()
        };
        killer.send_replace(Some(uid));
        killer.closed().await;
        Ok(())
    }

    /// By endpoint.
    pub(super) fn sums(&self) -> HashMap<String, Sum> {
        let table = lock(&self.0);
        let mut sums: HashMap<_, Sum> = HashMap::new();
        for (endpoint, carried) in &table.ended {
            sums.entry(endpoint.clone()).or_default().carried = carried.clone();
        }
        for entry in table.open.values() {
            let endpoint = entry.record.endpoint();
            if !sums.contains_key(endpoint) {
                sums.insert(endpoint.to_owned(), Sum::default());
            }
            if let Some(sum) = sums.get_mut(endpoint) {
                sum.open += 1;
                sum.outstanding += entry.meters.outstanding();
                sum.carried.add(&entry.meters);
            }
        }
        sums
    }

    /// Oldest first.
    pub(super) fn rows(&self) -> Vec<SessionRow> {
        let mut rows = Vec::new();
        let mut ends = Vec::new();
        for entry in lock(&self.0).open.values() {
            rows.push(entry.row());
            ends.push(entry.ends());
        }
        // Reading /proc takes its time, and no session has to wait for it.
        let processes = process::of_sockets(ends.iter().flatten().copied());
        for (row, ends) in rows.iter_mut().zip(ends) {
            if let Some(ends) = ends {
                row.pid = processes.get(&ends).copied();
            }
            row.program = row.pid.and_then(process::program);
        }
        rows.sort_by_key(|row| (row.since, row.session));
        rows
    }
}

impl Entry {
    fn row(&self) -> SessionRow {
        let (record, meters) = (&self.record, &self.meters);
        let peer = record.met();
        let pid = match peer {
            Some(Peer::Local { pid, .. }) => pid.and_then(|pid| u32::try_from(pid).ok()),
            _ => None,
        };
        let address = peer.and_then(Peer::address);
        SessionRow {
            session: record.session(),
            endpoint: record.endpoint().to_owned(),
            user: record.user_name().unwrap_or_default().to_owned(),
            account: record.account(),
            pid,
            program: None,
            client: address.map_or_else(|| UNIX.to_owned(), |address| address.to_string()),
            server: record.server().map(|server| server.to_string()),
            target: record.target().to_owned(),
            node: record.node().map(str::to_owned),
            since: self.since,
            idle_s: meters.idle().as_secs_f64(),
            bytes_up: meters.to_cluster.bytes(),
            bytes_down: meters.to_client.bytes(),
            messages_up: meters.to_cluster.messages(),
            messages_down: meters.to_client.messages(),
            outstanding: meters.outstanding(),
            pings: meters.pings(),
        }
    }

    /// The connection's ends, client first, where a process of this host holds the other one.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self.record.met()? {
            Peer::Local {
                address: Some(client),
                ..
            } => Some((*client, self.record.server()?)),
            _ => None,
        }
    }
}

impl OpenSession {
    /// What it carries.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Returns when somebody has the session ended: the account that asked for it.
    pub async fn killed(&mut self) -> u32 {
        match self.killed.wait_for(Option::is_some).await.map(|uid| *uid) {
            Ok(Some(uid)) => uid,
            // The row holds the other end and goes only with this one.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let mut table = lock(&self.sessions);
        if let Some(entry) = table.open.remove(&self.number) {
            let endpoint = entry.record.endpoint();
            if let Some(carried) = table.ended.get_mut(endpoint) {
                carried.add(&self.meters);
            } else {
                let mut carried = Carried::default();
                carried.add(&self.meters);
                table.ended.insert(endpoint.to_owned(), carried);
            }
        }
    }
}
