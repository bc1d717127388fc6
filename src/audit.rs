//! One line when a session has opened, one when it has ended or was refused: who, from where, to
//! what, how much, why.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::Peer;
use crate::config::{ListenAddress, User};
use crate::error::ErrorKind;
use crate::q::handshake::Hello;
use crate::relay::Meters;

/// What is known of a session so far.
#[derive(Debug, Clone)]
pub struct Record {
    session: u64,
    endpoint: String,
    listen: String,
    peer: Option<Peer>,
    server: Option<SocketAddr>,
    account: Option<Arc<str>>,
    said_user: Option<String>,
    user: Option<String>,
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
            said_user: None,
            user: None,
            target: None,
            node: None,
            warm: false,
            began: Instant::now(),
        }
    }

    /// The kernel has said whose it is. `server` is the address that was dialled, over TCP.
    pub fn peer(&mut self, peer: &Peer, server: Option<SocketAddr>, account: Option<Arc<str>>) {
        self.peer = Some(peer.clone());
        self.server = server;
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
        self.account.as_deref().map(str::to_owned).or_else(uid)
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
            warm = self.warm.then_some(true),
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

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
