//! The open sessions, each with its meters and the means to end it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::grants::{Grants, LostAccess};
use super::lock;
use super::totals::Carried;
use crate::config::User;
use crate::identity::{Peer, process};
use crate::primitives::kernel_sockets::FourTuple;
use crate::surface::status::SessionRow;
use crate::telemetry::audit::Record;
use q_relay::relay::Meters;

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
    /// Who may hold a session, since the first reload.
    grants: Option<Grants>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    since: Timestamp,
    meters: Arc<Meters>,
    /// Whose session it is, as the configuration had it then.
    user: Arc<User>,
    /// Told why the session is to end; closed once it has.
    killer: watch::Sender<Option<EndOrder>>,
}

/// Some of the open sessions: those that are of both, where both are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The name of a `[[user]]`.
    pub user: Option<String>,
    /// The name of an endpoint.
    pub endpoint: Option<String>,
}

/// Why a session is told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndOrder {
    /// By `hopend kill`.
    Kill {
        /// The account that ran it.
        uid: u32,
    },
    /// By a reload.
    LostAccess(LostAccess),
}

/// Sessions that have been told to end.
#[derive(Debug)]
pub struct Killing(Vec<watch::Sender<Option<EndOrder>>>);

impl Killing {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns when all have ended.
    pub async fn ended(self) {
        for killer in self.0 {
            killer.closed().await;
        }
    }
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
    ordered: watch::Receiver<Option<EndOrder>>,
    sessions: Arc<Mutex<Table>>,
}

/// No open session has the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no session {0} is open. Fix: take a number from `hopend status`.")]
pub struct NoSession(pub u64);

impl Sessions {
    pub(super) fn enter(&self, record: &Record, user: &Arc<User>) -> OpenSession {
        let meters = Arc::new(Meters::default());
        let mut table = lock(&self.0);
        // It may have begun to open before the reload that takes the user away.
        let grants = table.grants.as_ref();
        let lost = grants.and_then(|grants| grants.lost(record.endpoint(), user));
        let (killer, ordered) = watch::channel(lost.map(EndOrder::LostAccess));
        let entry = Entry {
            record: record.clone(),
            since: Timestamp::now(),
            meters: Arc::clone(&meters),
            user: Arc::clone(user),
            killer,
        };
        let number = record.session();
        table.open.insert(number, entry);
        drop(table);
        OpenSession {
            number,
            meters,
            ordered,
            sessions: Arc::clone(&self.0),
        }
    }

    pub(super) async fn kill(&self, session: u64, uid: u32) -> Result<(), NoSession> {
        let killer = {
            let sessions = lock(&self.0);
            let entry = sessions.open.get(&session).ok_or(NoSession(session))?;
            entry.killer.clone()
        };
        killer.send_replace(Some(EndOrder::Kill { uid }));
        killer.closed().await;
        Ok(())
    }

    pub(super) fn kill_all(&self, selection: &Selection, uid: u32) -> Killing {
        let table = lock(&self.0);
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == name)
        };
        let chosen = table.open.values().filter(|entry| {
            is(&selection.user, &entry.user.name)
                && is(&selection.endpoint, entry.record.endpoint())
        });
        let killers = chosen.map(|entry| entry.killer.clone());
        let killing = Killing(killers.collect());
        for killer in &killing.0 {
            killer.send_replace(Some(EndOrder::Kill { uid }));
        }
        killing
    }

    /// Under one lock with those who enter: nobody slips in between.
    pub(super) fn grants(&self, grants: Grants) -> usize {
        let mut table = lock(&self.0);
        let mut count = 0;
        for entry in table.open.values() {
            if let Some(lost) = grants.lost(entry.record.endpoint(), &entry.user) {
                entry.killer.send_replace(Some(EndOrder::LostAccess(lost)));
                count += 1;
            }
        }
        table.grants = Some(grants);
        count
    }

    pub(super) fn would_end(&self, grants: &Grants) -> (u64, Vec<(String, u64)>) {
        let table = lock(&self.0);
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for entry in table.open.values() {
            if let Some(lost) = grants.lost(entry.record.endpoint(), &entry.user) {
                *ends.entry(lost.to_string()).or_default() += 1;
            }
        }
        (table.open.len() as u64, ends.into_iter().collect())
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
        let processes = process::of_clients(ends.iter().flatten().copied());
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

    /// The addresses of a TCP connection whose client is a process of this host.
    fn ends(&self) -> Option<FourTuple> {
        match self.record.met()? {
            Peer::Local {
                address: Some(client),
                ..
            } => Some(FourTuple::new(*client, self.record.server()?)),
            _ => None,
        }
    }
}

impl OpenSession {
    /// What it carries.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Returns when the session is told to end, with the reason.
    pub async fn ordered(&mut self) -> EndOrder {
        let order = self.ordered.wait_for(Option::is_some).await;
        match order.map(|order| order.clone()) {
            Ok(Some(order)) => order,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::FutureExt;

    use super::*;
    use crate::config::{self, ListenAddress, Loaded, OsUser};

    fn loaded(users: &[&str]) -> Loaded {
        let accounts = |name: &str| {
            let name = name.to_owned();
            Ok(Some(OsUser { name, uid: 1 }))
        };
        let mut text = String::new();
        for user in users {
            text += &format!("[[user]]\nname = {user:?}\nos_user = {user:?}\n");
        }
        text += "[[endpoint]]\nname = \"hdb\"\nlisten = \"unix:5010\"\nconnect = \":a:1\"\n\
                 login = \"client\"\n";
        config::parse_in_part(&text, Path::new("hopend.toml"), &accounts).unwrap()
    }

    fn record(number: u64) -> Record {
        Record::new(number, "hdb", &ListenAddress::Abstract(5010))
    }

    #[tokio::test]
    async fn who_lost_access_while_the_session_opened_is_told_to_end_at_once() {
        let before = loaded(&["alice", "bob"]);
        let [alice, bob] = &before.config.users[..] else {
            panic!("{:?}", before.config.users)
        };
        let sessions = Sessions::default();
        let mut earlier = sessions.enter(&record(1), alice);
        assert!(earlier.ordered().now_or_never().is_none());
        // Both have been identified, and have yet to enter.
        assert_eq!(sessions.grants(Grants::of(&loaded(&["bob"]))), 1);
        let mut late = sessions.enter(&record(2), alice);
        let mut other = sessions.enter(&record(3), bob);
        let lost = EndOrder::LostAccess(LostAccess::User {
            user: "alice".into(),
        });
        assert_eq!(earlier.ordered().now_or_never(), Some(lost.clone()));
        assert_eq!(late.ordered().now_or_never(), Some(lost));
        assert!(other.ordered().now_or_never().is_none());
    }
}
