//! One line when a session has opened, one when it has ended or was refused: who, from where, to
//! what, how much, why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::Peer;
use crate::config::{ListenAddress, User};
use crate::error::ErrorKind;
use crate::q::handshake::Hello;
use crate::relay::Meters;

/// What is known of a session so far.
#[derive(Debug)]
pub struct Record {
    session: u64,
    endpoint: String,
    listen: String,
    peer: Option<Peer>,
    account: Option<Arc<str>>,
    said_user: Option<String>,
    user: Option<String>,
    target: Option<SocketAddr>,
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
            account: None,
            said_user: None,
            user: None,
            target: None,
            began: Instant::now(),
        }
    }

    /// The kernel has said whose it is.
    pub fn peer(&mut self, peer: &Peer, account: Option<Arc<str>>) {
        self.peer = Some(peer.clone());
        self.account = account;
    }

    /// It has said its name.
    pub fn said(&mut self, hello: &Hello) {
        // Shown escaped, and no more of it than a name has.
        self.said_user = Some(hello.user.chars().take(64).collect());
    }

    /// It was found to be this user.
    pub fn user(&mut self, user: &User) {
        self.user = Some(user.name.clone());
    }

    /// kdb+ has taken the connection.
    pub fn reached(&mut self, target: SocketAddr) {
        self.target = Some(target);
    }

    /// The session is open.
    pub fn opened(&self) {
        tracing::info!(
            target: "hopend::audit",
            session = self.session,
            endpoint = self.endpoint,
            listen = self.listen,
            client = %self.client(),
            account = self.account.as_deref().unwrap_or_default(),
            user = self.user.as_deref().unwrap_or_default(),
            to = %self.target(),
            open_ms = self.milliseconds(),
            "session open"
        );
    }

    /// The session did not come about. `noise`: nobody meant to open one.
    pub fn refused(&self, kind: ErrorKind, reason: &str, noise: bool) {
        if noise && self.user.is_none() {
            tracing::debug!(session = self.session, endpoint = self.endpoint, "{reason}");
            return;
        }
        tracing::warn!(
            target: "hopend::audit",
            session = self.session,
            endpoint = self.endpoint,
            listen = self.listen,
            client = %self.client(),
            account = self.account.as_deref().unwrap_or_default(),
            hopen_user = ?self.said_user.as_deref().unwrap_or_default(),
            user = self.user.as_deref().unwrap_or_default(),
            kind = kind.name(),
            after_ms = self.milliseconds(),
            "session refused: {reason}"
        );
    }

    /// The session is over.
    pub fn ended(&self, kind: Option<ErrorKind>, reason: &str, meters: &Meters) {
        tracing::info!(
            target: "hopend::audit",
            session = self.session,
            endpoint = self.endpoint,
            client = %self.client(),
            account = self.account.as_deref().unwrap_or_default(),
            user = self.user.as_deref().unwrap_or_default(),
            to = %self.target(),
            seconds = self.began.elapsed().as_secs(),
            bytes_up = meters.to_cluster.bytes(),
            bytes_down = meters.to_client.bytes(),
            messages_up = meters.to_cluster.messages(),
            messages_down = meters.to_client.messages(),
            pings = meters.pings(),
            kind = kind.map_or("none", ErrorKind::name),
            "session ended: {reason}"
        );
    }

    fn client(&self) -> String {
        self.peer
            .as_ref()
            .map_or_else(|| "unknown".into(), ToString::to_string)
    }

    fn target(&self) -> String {
        self.target
            .map_or_else(|| "nowhere".into(), |target| target.to_string())
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
