//! The facts about one session that its audit lines report. The session fills the record in step by step.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::file::AuditFile;
use super::line::{AuditEvent, AuditLine};
use super::repeats::{LineDecision, Repeats, WithheldEnd};
use super::totals::SessionTotals;
use crate::config::{CertificateName, Endpoint, ListenAddress, Target, User};
use crate::identity::{AccountName, Peer, process};
use base::error::ErrorKind;
use finspace::role_session::session_name;
use q_ipc::handshake::Hello;
use q_relay::relay::Meters;

/// The most characters of the user name in `hopen` that a line shows.
const MAX_HELLO_USER_CHARS: usize = 64;
/// The most characters of a certificate's names that a line shows.
const MAX_CERTIFICATE_CHARS: usize = 256;

/// The facts about one session that are known so far. Each of its audit lines repeats all of them, so that a
/// line can be understood alone.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    session: u64,
    endpoint: String,
    listen: String,
    peer: Option<Peer>,
    server: Option<SocketAddr>,
    account: Option<AccountName>,
    program: Option<String>,
    hello_user: Option<String>,
    certificate: Option<String>,
    user: Option<String>,
    role_session: Option<String>,
    target: Option<String>,
    node: Option<String>,
    warm: bool,
    accepted: Instant,
}

/// Why a session was refused.
#[derive(Debug, Clone, Copy)]
pub struct AuditRefusal<'r> {
    /// The party that caused it.
    pub kind: ErrorKind,
    /// The reason and its remedy.
    pub reason: &'r str,
    /// Whether the client probably never meant to open a session: a port scan or a health check. Such a
    /// refusal has no audit line, only a line in the debug log.
    pub noise: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy)]
pub struct SessionEnd<'e> {
    /// The party that caused it. `None` for an end that somebody intended.
    pub kind: Option<ErrorKind>,
    /// The reason and its remedy.
    pub reason: &'e str,
    /// The session's traffic.
    pub meters: &'e Meters,
}

impl AuditRecord {
    /// The record of a connection that has just been accepted.
    pub fn new(session: u64, endpoint: &str, listen: &ListenAddress) -> Self {
        Self {
            session,
            endpoint: endpoint.to_owned(),
            listen: listen.to_string(),
            peer: None,
            server: None,
            account: None,
            program: None,
            hello_user: None,
            certificate: None,
            user: None,
            role_session: None,
            target: None,
            node: None,
            warm: false,
            accepted: Instant::now(),
        }
    }

    /// Records the client's peer credentials and account. `server` is the address that the client dialled, if
    /// it connected over TCP.
    ///
    /// hopend looks the program up only if the kernel has named the client's process. A search of
    /// `/proc` for a TCP client's process would delay the open too much.
    pub fn set_peer(
        &mut self,
        peer: &Peer,
        server: Option<SocketAddr>,
        account: Option<AccountName>,
    ) {
        self.peer = Some(peer.clone());
        self.server = server;
        self.account = account;
        self.program = self.pid().and_then(process::program);
    }

    /// Records the client's q handshake, and the names of the certificate that it showed over TLS. Long names
    /// are cut.
    pub fn set_hello(&mut self, hello: &Hello, certificate: Option<&[CertificateName]>) {
        let user: String = hello.user.chars().take(MAX_HELLO_USER_CHARS).collect();
        self.hello_user = Some(user).filter(|user| !user.is_empty());
        self.certificate = certificate.filter(|names| !names.is_empty()).map(|names| {
            let names = names.iter().map(ToString::to_string);
            let names = names.collect::<Vec<_>>().join(", ");
            names.chars().take(MAX_CERTIFICATE_CHARS).collect()
        });
    }

    /// Records the user that the client was identified as. For FinSpace, that includes the role session name
    /// that CloudTrail shows.
    pub fn set_user(&mut self, user: &User, endpoint: &Endpoint) {
        self.user = Some(user.name.clone());
        self.role_session =
            matches!(endpoint.target, Target::FinSpace { .. }).then(|| session_name(&user.name));
    }

    /// Records the kdb+ process that accepted the session: its address, and the node's id if hopend chose one.
    pub fn set_target(&mut self, target: impl fmt::Display, node: Option<&str>) {
        self.target = Some(target.to_string());
        self.node = node.map(str::to_owned);
    }

    /// Records whether the session got a warm connection.
    pub fn set_warm(&mut self, warm: bool) {
        self.warm = warm;
    }

    /// The session's number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The endpoint's name.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The client's peer credentials, once they are known.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// The address that the client dialled. `None` for a Unix socket.
    pub fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// The name of the client's local account, or its uid if it has no name.
    pub fn account(&self) -> Option<String> {
        let uid = || self.peer.as_ref()?.uid().map(|uid| uid.to_string());
        self.account_name().map(ToString::to_string).or_else(uid)
    }

    /// The name of the `[[user]]`, once the client has been identified.
    pub fn user_name(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The address of kdb+, or `nowhere` before the session has reached one.
    pub fn target(&self) -> &str {
        self.target.as_deref().unwrap_or("nowhere")
    }

    /// The node's id, if hopend chose a node.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Reports that the session has opened. If the user opens many sessions, `repeats` withholds the line until
    /// the session has lasted for a while. Returns the delay after which to call [`Repeats::write_lasting`], if
    /// no call is scheduled yet.
    pub fn opened(&self, repeats: &Repeats, file: &AuditFile) -> Option<Duration> {
        let open_ms = self.age_ms();
        match repeats.opened(self, open_ms) {
            LineDecision::Write => {
                self.write_open(open_ms, Timestamp::now(), file);
                None
            }
            LineDecision::Withhold { delay } => delay,
        }
    }

    pub(super) fn write_open(&self, open_ms: u64, timestamp: Timestamp, file: &AuditFile) {
        let line = AuditLine {
            open_ms: Some(open_ms),
            timestamp,
            ..self.line(AuditEvent::Open)
        };
        line.write(file);
    }

    /// Reports that the session was refused. If many are refused alike, `repeats` merges their lines. Returns
    /// the delay after which to call [`Repeats::write_due`], if no call is scheduled yet.
    pub fn refused(
        &self,
        refusal: AuditRefusal<'_>,
        repeats: &Repeats,
        file: &AuditFile,
    ) -> Option<Duration> {
        let AuditRefusal {
            kind,
            reason,
            noise,
        } = refusal;
        if noise && self.user.is_none() {
            tracing::debug!(session = self.session, endpoint = self.endpoint, "{reason}");
            return None;
        }
        match repeats.refused(self, kind, reason) {
            LineDecision::Write => {
                let line = AuditLine {
                    reason: Some(reason),
                    kind: Some(kind.name()),
                    after_ms: Some(self.age_ms()),
                    ..self.line(AuditEvent::Refused)
                };
                line.write(file);
                None
            }
            LineDecision::Withhold { delay } => delay,
        }
    }

    /// Reports that the session has ended. If the line of its opening is still withheld, `repeats` merges the
    /// session with other short ones. Returns the delay after which to call [`Repeats::write_due`], if no call
    /// is scheduled yet.
    pub fn ended(
        &self,
        end: &SessionEnd<'_>,
        repeats: &Repeats,
        file: &AuditFile,
    ) -> Option<Duration> {
        let totals = SessionTotals::new(self.accepted.elapsed(), end.meters);
        match repeats.take_withheld(self.session) {
            WithheldEnd::Short(open) => return repeats.ended_short(&open, end, totals),
            WithheldEnd::Lasted(open) => open.write(file),
            WithheldEnd::Written => {}
        }
        let line = AuditLine {
            reason: Some(end.reason),
            kind: Some(end.kind.map_or("none", ErrorKind::name)),
            ..totals.fill(self.line(AuditEvent::Ended))
        };
        line.write(file);
        None
    }

    /// A line with all facts about the session, and nothing about the event.
    pub(super) fn line(&self, event: AuditEvent) -> AuditLine<'_> {
        AuditLine {
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
            hopen_user: self.hello_user.as_deref(),
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

    /// The client's address: `unix` for a Unix socket, `unknown` before the peer is known.
    fn client(&self) -> String {
        match &self.peer {
            Some(peer) => peer
                .address()
                .map_or_else(|| "unix".into(), |address| address.to_string()),
            None => "unknown".into(),
        }
    }

    /// Milliseconds since the connection was accepted.
    fn age_ms(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
impl AuditRecord {
    pub(crate) fn set_user_name(&mut self, user: &str) {
        self.user = Some(user.to_owned());
    }
}
