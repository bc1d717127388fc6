//! The open sessions. Each entry holds the session's meters and the channel that orders its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::grants::{Grants, LostAccess};
use super::totals::CarriedTotals;
use crate::config::User;
use crate::identity::{Peer, process};
use crate::primitives::kernel_sockets::FourTuple;
use crate::telemetry::audit::AuditRecord;
use crate::telemetry::status::SessionRow;
use base::mutex::locked;
use q_relay::relay::Meters;

/// The value of [`SessionRow::client`] for a client that connected over a Unix socket.
const UNIX_CLIENT: &str = "unix";

/// The open sessions of the daemon.
#[derive(Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<SessionTable>>);

/// One lock guards the whole table, so that a session that ends counts either as open or as ended, never
/// as both.
#[derive(Debug, Default)]
struct SessionTable {
    /// By session number.
    open: BTreeMap<u64, SessionEntry>,
    /// The traffic of sessions that have ended, by endpoint name.
    ended: HashMap<String, CarriedTotals>,
    /// The grants of the last reload. `None` before the first one.
    grants: Option<Grants>,
}

#[derive(Debug)]
struct SessionEntry {
    record: AuditRecord,
    since: Timestamp,
    meters: Arc<Meters>,
    /// The user's configuration when the session opened.
    user: Arc<User>,
    /// Sends the reason to end. The session drops the receiver when it has ended.
    end_sender: watch::Sender<Option<EndOrder>>,
}

/// Selects open sessions. If both fields are set, a session must match both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSelection {
    /// The name of a `[[user]]`.
    pub user: Option<String>,
    /// The name of an endpoint.
    pub endpoint: Option<String>,
}

/// Why hopend orders a session to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndOrder {
    /// Somebody ran `hopend kill`.
    Kill {
        /// The account that ran it.
        uid: u32,
    },
    /// A reload took the user's access away.
    LostAccess(LostAccess),
}

/// Sessions that have been ordered to end.
#[derive(Debug)]
pub struct EndingSessions(Vec<watch::Sender<Option<EndOrder>>>);

impl EndingSessions {
    /// The number of sessions that have been ordered to end.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns once all these sessions have ended.
    pub async fn ended(self) {
        for end_sender in self.0 {
            end_sender.closed().await;
        }
    }
}

/// The effect that a reload would have on the open sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsPreview {
    /// The number of open sessions.
    pub open: u64,
    /// The sessions that would end, by reason.
    pub lost: Vec<LostSessions>,
}

/// Sessions that a reload would end for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostSessions {
    /// The reason: the text of a [`LostAccess`].
    pub reason: String,
    /// The number of sessions.
    pub count: u64,
}

/// The sessions of one endpoint, added up.
#[derive(Debug, Default)]
pub(super) struct OpenSums {
    /// The number of open sessions.
    pub(super) open: u64,
    /// The sync requests of open sessions that kdb+ has not answered yet.
    pub(super) outstanding: u64,
    /// The traffic of all sessions since the daemon started, open or ended.
    pub(super) carried: CarriedTotals,
}

/// Keeps a session registered. The session holds it while it is open.
#[derive(Debug)]
pub struct OpenSession {
    number: u64,
    meters: Arc<Meters>,
    end_receiver: watch::Receiver<Option<EndOrder>>,
    sessions: Arc<Mutex<SessionTable>>,
}

/// No open session has this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no session {0} is open. Fix: take a number from `hopend status`.")]
pub struct NoSuchSession(pub u64);

impl Sessions {
    pub(super) fn enter(&self, record: &AuditRecord, user: &Arc<User>) -> OpenSession {
        let meters = Arc::new(Meters::default());
        let mut table = locked(&self.0);
        // A reload may have taken the user's access away while the session was opening.
        let grants = table.grants.as_ref();
        let lost = grants.and_then(|grants| grants.lost(record.endpoint(), user));
        let (end_sender, end_receiver) = watch::channel(lost.map(EndOrder::LostAccess));
        let entry = SessionEntry {
            record: record.clone(),
            since: Timestamp::now(),
            meters: Arc::clone(&meters),
            user: Arc::clone(user),
            end_sender,
        };
        let number = record.session();
        table.open.insert(number, entry);
        drop(table);
        OpenSession {
            number,
            meters,
            end_receiver,
            sessions: Arc::clone(&self.0),
        }
    }

    pub(super) async fn kill(&self, session: u64, uid: u32) -> Result<(), NoSuchSession> {
        let end_sender = {
            let table = locked(&self.0);
            let entry = table.open.get(&session).ok_or(NoSuchSession(session))?;
            entry.end_sender.clone()
        };
        end_sender.send_replace(Some(EndOrder::Kill { uid }));
        end_sender.closed().await;
        Ok(())
    }

    pub(super) fn kill_all(&self, selection: &SessionSelection, uid: u32) -> EndingSessions {
        let table = locked(&self.0);
        let chosen = table.open.values().filter(|entry| selection.has(entry));
        let ending = EndingSessions(chosen.map(|entry| entry.end_sender.clone()).collect());
        for end_sender in &ending.0 {
            end_sender.send_replace(Some(EndOrder::Kill { uid }));
        }
        ending
    }

    /// Checks the open sessions and stores the grants under one lock. So a session that enters meanwhile is
    /// checked exactly once.
    pub(super) fn apply_grants(&self, grants: Grants) -> usize {
        let mut table = locked(&self.0);
        let mut count = 0;
        for entry in table.open.values() {
            if let Some(lost) = entry.lost_access(&grants) {
                entry
                    .end_sender
                    .send_replace(Some(EndOrder::LostAccess(lost)));
                count += 1;
            }
        }
        table.grants = Some(grants);
        count
    }

    pub(super) fn preview_grants(&self, grants: &Grants) -> GrantsPreview {
        let table = locked(&self.0);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for entry in table.open.values() {
            if let Some(lost) = entry.lost_access(grants) {
                *counts.entry(lost.to_string()).or_default() += 1;
            }
        }
        let lost = counts.into_iter();
        GrantsPreview {
            open: table.open.len() as u64,
            lost: lost
                .map(|(reason, count)| LostSessions { reason, count })
                .collect(),
        }
    }

    /// The sums of each endpoint that has or had a session, by endpoint name.
    pub(super) fn sums(&self) -> HashMap<String, OpenSums> {
        let table = locked(&self.0);
        let mut sums: HashMap<_, OpenSums> = HashMap::new();
        for (endpoint, carried) in &table.ended {
            sums.entry(endpoint.clone()).or_default().carried = carried.clone();
        }
        for entry in table.open.values() {
            let endpoint = entry.record.endpoint();
            if !sums.contains_key(endpoint) {
                sums.insert(endpoint.to_owned(), OpenSums::default());
            }
            if let Some(sum) = sums.get_mut(endpoint) {
                sum.open += 1;
                sum.outstanding += entry.meters.outstanding();
                sum.carried.add(&entry.meters);
            }
        }
        sums
    }

    /// The open sessions, oldest first. Blocks while it reads `/proc`, but holds no lock meanwhile.
    pub(super) fn rows(&self) -> Vec<SessionRow> {
        let mut rows = Vec::new();
        let mut sockets = Vec::new();
        for entry in locked(&self.0).open.values() {
            rows.push(entry.row());
            sockets.push(entry.local_sockets());
        }
        let processes = process::of_clients(sockets.iter().flatten().copied());
        for (row, sockets) in rows.iter_mut().zip(sockets) {
            if let Some(sockets) = sockets {
                row.pid = processes.get(&sockets).copied();
            }
            row.program = row.pid.and_then(process::program);
        }
        rows.sort_by_key(|row| (row.since, row.session));
        rows
    }
}

impl SessionSelection {
    fn has(&self, entry: &SessionEntry) -> bool {
        let matches = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == name)
        };
        matches(&self.user, &entry.user.name) && matches(&self.endpoint, entry.record.endpoint())
    }
}

impl SessionEntry {
    fn lost_access(&self, grants: &Grants) -> Option<LostAccess> {
        grants.lost(self.record.endpoint(), &self.user)
    }

    fn row(&self) -> SessionRow {
        let (record, meters) = (&self.record, &self.meters);
        let peer = record.peer();
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
            client: address.map_or_else(|| UNIX_CLIENT.to_owned(), |address| address.to_string()),
            server: record.server().map(|server| server.to_string()),
            target: record.target().to_owned(),
            node: record.node().map(str::to_owned),
            since: self.since,
            idle_s: meters.idle().as_secs_f64(),
            bytes_up: meters.to_kdb.bytes(),
            bytes_down: meters.to_client.bytes(),
            messages_up: meters.to_kdb.messages(),
            messages_down: meters.to_client.messages(),
            outstanding: meters.outstanding(),
            pings: meters.pings(),
        }
    }

    /// The client's and hopend's socket address of a TCP connection, client first. `None` for a Unix
    /// socket, and for a client on another host, whose process `/proc` does not show.
    fn local_sockets(&self) -> Option<FourTuple> {
        match self.record.peer()? {
            Peer::Local {
                address: Some(client),
                ..
            } => Some(FourTuple::new(*client, self.record.server()?)),
            _ => None,
        }
    }
}

impl OpenSession {
    /// The meters that the relay counts the session's traffic with.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Waits until hopend orders the session to end, and returns the reason. Never returns if hopend
    /// gives no such order.
    pub async fn end_ordered(&mut self) -> EndOrder {
        let order = self.end_receiver.wait_for(Option::is_some).await;
        match order.map(|order| order.clone()) {
            Ok(Some(order)) => order,
            // The registry keeps the sender until this session is dropped.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let mut table = locked(&self.sessions);
        if let Some(entry) = table.open.remove(&self.number) {
            let endpoint = entry.record.endpoint();
            if let Some(carried) = table.ended.get_mut(endpoint) {
                carried.add(&self.meters);
            } else {
                let mut carried = CarriedTotals::default();
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
    use crate::config::{self, ListenAddress, OsUser, PartialConfig};

    fn loaded(users: &[&str]) -> PartialConfig {
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
        config::parse_valid_parts(&text, Path::new("hopend.toml"), &accounts).unwrap()
    }

    fn record(number: u64) -> AuditRecord {
        AuditRecord::new(number, "hdb", &ListenAddress::Abstract(5010))
    }

    #[tokio::test]
    async fn who_lost_access_while_the_session_opened_is_told_to_end_at_once() {
        let before = loaded(&["alice", "bob"]);
        let [alice, bob] = &before.config.users[..] else {
            panic!("{:?}", before.config.users)
        };
        let sessions = Sessions::default();
        let mut earlier = sessions.enter(&record(1), alice);
        assert!(earlier.end_ordered().now_or_never().is_none());
        // Another session of alice and one of bob are being opened during the reload.
        assert_eq!(sessions.apply_grants(Grants::of(&loaded(&["bob"]))), 1);
        let mut late = sessions.enter(&record(2), alice);
        let mut other = sessions.enter(&record(3), bob);
        let lost = EndOrder::LostAccess(LostAccess::User {
            user: "alice".into(),
        });
        assert_eq!(earlier.end_ordered().now_or_never(), Some(lost.clone()));
        assert_eq!(late.end_ordered().now_or_never(), Some(lost));
        assert!(other.end_ordered().now_or_never().is_none());
    }
}
