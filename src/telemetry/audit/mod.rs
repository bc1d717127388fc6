//! One line when a session has opened, one when it has ended or was refused: who, from where, to
//! what, how much, why. They go to the log, and to a file of their own where one is configured.

mod file;
mod line;
mod repeats;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::config::{CertificateName, Endpoint, ListenAddress, Target, User};
use crate::identity::{AccountName, Peer, process};
use base::error::ErrorKind;
use finspace::role_session::session_name;
use q_ipc::handshake::Hello;
use q_relay::relay::Meters;

pub use file::{AuditChange, AuditFile, AuditFileError, look};
use line::{Event, Line};
pub use repeats::Repeats;
use repeats::{Said, Together, WithheldEnd, WithheldOpen};

/// Longest name of hopen's that is written down.
const NAME_LIMIT: usize = 64;
/// Most of a certificate's names that is written down.
const CERTIFICATE_LIMIT: usize = 256;

/// How a session ended.
#[derive(Debug, Clone, Copy)]
pub struct SessionEnd<'e> {
    /// The side at fault; none for an ordinary end.
    pub kind: Option<ErrorKind>,
    /// Why, with what to do.
    pub reason: &'e str,
    /// What it carried.
    pub meters: &'e Meters,
}

/// What one session carried, or several of them together.
#[derive(Debug, Clone, Copy, Default)]
struct SessionTotals {
    lasted: Duration,
    bytes_up: u64,
    bytes_down: u64,
    messages_up: u64,
    messages_down: u64,
    pings: u64,
    lost_up: u64,
    lost_down: u64,
    unacknowledged_up: u64,
    unacknowledged_down: u64,
}

impl std::ops::Add for SessionTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lasted: self.lasted + other.lasted,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
            messages_up: self.messages_up + other.messages_up,
            messages_down: self.messages_down + other.messages_down,
            pings: self.pings + other.pings,
            lost_up: self.lost_up + other.lost_up,
            lost_down: self.lost_down + other.lost_down,
            unacknowledged_up: self.unacknowledged_up + other.unacknowledged_up,
            unacknowledged_down: self.unacknowledged_down + other.unacknowledged_down,
        }
    }
}

impl SessionTotals {
    fn line(self, line: Line<'_>) -> Line<'_> {
        // Most sessions lose nothing.
        let unless_none = |count: u64| Some(count).filter(|&count| count > 0);
        Line {
            seconds: Some(self.lasted.as_secs()),
            bytes_up: Some(self.bytes_up),
            bytes_down: Some(self.bytes_down),
            messages_up: Some(self.messages_up),
            messages_down: Some(self.messages_down),
            pings: Some(self.pings),
            lost_up: unless_none(self.lost_up),
            lost_down: unless_none(self.lost_down),
            unacknowledged_up: unless_none(self.unacknowledged_up),
            unacknowledged_down: unless_none(self.unacknowledged_down),
            ..line
        }
    }
}

impl WithheldOpen {
    fn write(&self, file: &AuditFile) {
        self.record.write_open(self.open_ms, self.timestamp, file);
    }
}

impl Together {
    /// The line of so many refusals.
    fn write_refusals(&self, kind: ErrorKind, file: &AuditFile) {
        self.write(kind.name(), self.last.line(Event::Refused), file);
    }

    /// The line of so many short sessions.
    fn write_short_sessions(&self, kind: Option<ErrorKind>, file: &AuditFile) {
        let line = self.last.line(Event::Ended);
        let line = self.totals.unwrap_or_default().line(line);
        self.write(kind.map_or("none", ErrorKind::name), line, file);
    }

    fn write(&self, kind: &str, line: Line<'_>, file: &AuditFile) {
        let line = Line {
            reason: Some(&self.reason),
            kind: Some(kind),
            times: Some(self.times),
            first_session: Some(self.first_session),
            since: Some(self.since),
            ..line
        };
        line.log();
        file.write(&line);
    }
}

/// What is known of a session so far.
#[derive(Debug, Clone)]
pub struct Record {
    session: u64,
    endpoint: String,
    listen: String,
    peer: Option<Peer>,
    server: Option<SocketAddr>,
    account: Option<AccountName>,
    program: Option<String>,
    said_user: Option<String>,
    certificate: Option<String>,
    user: Option<String>,
    role_session: Option<String>,
    target: Option<String>,
    node: Option<String>,
    warm: bool,
    began: Instant,
}

impl Record {
    /// A connection has come in.
    pub fn new(session: u64, endpoint: &str, listen: &ListenAddress) -> Self {
        Self {
            session,
            endpoint: endpoint.to_owned(),
            listen: listen.to_string(),
            peer: None,
            server: None,
            account: None,
            program: None,
            said_user: None,
            certificate: None,
            user: None,
            role_session: None,
            target: None,
            node: None,
            warm: false,
            began: Instant::now(),
        }
    }

    /// The kernel has said whose it is. `server` is the address that was dialled, over TCP.
    pub fn peer(&mut self, peer: &Peer, server: Option<SocketAddr>, account: Option<AccountName>) {
        self.peer = Some(peer.clone());
        self.server = server;
        self.account = account;
        // To look for those behind TCP takes longer than an open may.
        self.program = self.pid().and_then(process::program);
    }

    /// It has said its name, and shown these names of its certificate over TLS.
    pub fn said(&mut self, hello: &Hello, certificate: Option<&[CertificateName]>) {
        // Shown escaped, and no more of it than a name has.
        let user: String = hello.user.chars().take(NAME_LIMIT).collect();
        self.said_user = Some(user).filter(|user| !user.is_empty());
        self.certificate = certificate.filter(|names| !names.is_empty()).map(|names| {
            let names = names.iter().map(ToString::to_string);
            let names = names.collect::<Vec<_>>().join(", ");
            names.chars().take(CERTIFICATE_LIMIT).collect()
        });
    }

    /// It was found to be this user, whom AWS knows by the name of the role's session.
    pub fn user(&mut self, user: &User, endpoint: &Endpoint) {
        self.user = Some(user.name.clone());
        self.role_session =
            matches!(endpoint.target, Target::FinSpace { .. }).then(|| session_name(&user.name));
    }

    /// kdb+ has taken the connection: its address, and its node where one was chosen.
    pub fn reached(&mut self, target: impl fmt::Display, node: Option<&str>) {
        self.target = Some(target.to_string());
        self.node = node.map(str::to_owned);
    }

    /// It got a connection that was kept logged in.
    pub fn warm(&mut self, warm: bool) {
        self.warm = warm;
    }

    /// The session's number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The name of the endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Who is on the other end, once the kernel has said so.
    pub fn met(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// The address that the client dialled, over TCP.
    pub fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// The name of the local account, or its number where it has none.
    pub fn account(&self) -> Option<String> {
        let uid = || self.peer.as_ref()?.uid().map(|uid| uid.to_string());
        self.account_name().map(ToString::to_string).or_else(uid)
    }

    /// The `[[user]]` it was found to be.
    pub fn user_name(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Where it leads.
    pub fn target(&self) -> &str {
        self.target.as_deref().unwrap_or("nowhere")
    }

    /// The node, where one was chosen.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The session is open. Where the user opens many, its line may come later, or not at all: then
    /// comes back the time after which [`Repeats::tell_lasting`] has a line to write.
    pub fn opened(&self, repeats: &Repeats, file: &AuditFile) -> Option<Duration> {
        let open_ms = self.milliseconds();
        match repeats.opened(self, open_ms) {
            Said::Now => {
                self.write_open(open_ms, Timestamp::now(), file);
                None
            }
            Said::Together(after) => after,
        }
    }

    fn write_open(&self, open_ms: u64, timestamp: Timestamp, file: &AuditFile) {
        let line = Line {
            open_ms: Some(open_ms),
            timestamp,
            ..self.line(Event::Open)
        };
        line.log();
        file.write(&line);
    }

    /// The session did not come about. `noise`: nobody meant to open one.
    ///
    /// Where many are refused alike, comes back with the time after which [`Repeats::tell`] has a line
    /// to write.
    pub fn refused(
        &self,
        (kind, reason, noise): (ErrorKind, &str, bool),
        repeats: &Repeats,
        file: &AuditFile,
    ) -> Option<Duration> {
        if noise && self.user.is_none() {
            tracing::debug!(session = self.session, endpoint = self.endpoint, "{reason}");
            return None;
        }
        match repeats.count(self, kind, reason) {
            Said::Now => {
                let line = Line {
                    reason: Some(reason),
                    kind: Some(kind.name()),
                    after_ms: Some(self.milliseconds()),
                    ..self.line(Event::Refused)
                };
                line.log();
                file.write(&line);
                None
            }
            Said::Together(after) => after,
        }
    }

    /// The session is over. Where short ones repeat, it has no line of its own: then comes back the
    /// time after which [`Repeats::tell`] has one to write, if it is the first of them.
    pub fn ended(
        &self,
        end: &SessionEnd<'_>,
        repeats: &Repeats,
        file: &AuditFile,
    ) -> Option<Duration> {
        let totals = SessionTotals {
            lasted: self.began.elapsed(),
            bytes_up: end.meters.to_cluster.bytes(),
            bytes_down: end.meters.to_client.bytes(),
            messages_up: end.meters.to_cluster.messages(),
            messages_down: end.meters.to_client.messages(),
            pings: end.meters.pings(),
            lost_up: end.meters.to_cluster.lost(),
            lost_down: end.meters.to_client.lost(),
            unacknowledged_up: end.meters.to_cluster.unacknowledged(),
            unacknowledged_down: end.meters.to_client.unacknowledged(),
        };
        match repeats.take_withheld(self.session) {
            WithheldEnd::Short(open) => return repeats.short(&open, end.kind, end.reason, totals),
            WithheldEnd::Lasted(open) => open.write(file),
            WithheldEnd::Written => {}
        }
        let line = Line {
            reason: Some(end.reason),
            kind: Some(end.kind.map_or("none", ErrorKind::name)),
            ..totals.line(self.line(Event::Ended))
        };
        line.log();
        file.write(&line);
        None
    }

    /// Who, from where and to what, so that each line stands alone.
    fn line(&self, event: Event) -> Line<'_> {
        Line {
            timestamp: Timestamp::now(),
            event,
            session: self.session,
            endpoint: &self.endpoint,
            listen: &self.listen,
            client: self.client(),
            uid: self.peer.as_ref().and_then(Peer::uid),
            pid: self.pid(),
            program: self.program.as_deref(),
            first_session: None,
            since: None,
            account: self.account_name().map(|name| &**name),
            account_unknown: self.account.as_ref().and_then(AccountName::unknown),
            hopen_user: self.said_user.as_deref(),
            certificate: self.certificate.as_deref(),
            user: self.user.as_deref(),
            role_session: self.role_session.as_deref(),
            to: self.target.as_deref(),
            node: self.node.as_deref(),
            warm: self.warm.then_some(true),
            reason: None,
            kind: None,
            open_ms: None,
            after_ms: None,
            times: None,
            seconds: None,
            bytes_up: None,
            bytes_down: None,
            messages_up: None,
            messages_down: None,
            pings: None,
            lost_up: None,
            lost_down: None,
            unacknowledged_up: None,
            unacknowledged_down: None,
        }
    }

    fn account_name(&self) -> Option<&Arc<str>> {
        self.account.as_ref().and_then(AccountName::known)
    }

    fn pid(&self) -> Option<u32> {
        match self.peer.as_ref()? {
            Peer::Local { pid, .. } => u32::try_from((*pid)?).ok(),
            Peer::Remote { .. } | Peer::Unidentified { .. } => None,
        }
    }

    fn client(&self) -> String {
        match &self.peer {
            Some(peer) => peer
                .address()
                .map_or_else(|| "unix".into(), |address| address.to_string()),
            None => "unknown".into(),
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
