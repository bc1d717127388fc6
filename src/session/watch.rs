//! Watches a client that has ended its sending side, to find out whether it has closed its connection.
//!
//! Over TCP hopend receives the same FIN from a client that has closed its connection and from one that has
//! closed only its sending side. The second one may still wait for an answer. If the client is a process of
//! the same host, the kernel knows which one it is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::Peer;
use crate::primitives::kernel_sockets;
use crate::session::client::ClientStream;
use crate::upstream::UpstreamStream;

/// The time from the end of the client's sending side to the first check. The time to each further check
/// doubles. In most cases kdb+ has closed before the first one.
const FIRST_CHECK: Duration = Duration::from_secs(1);
/// The longest time between two checks. It has to be under a minute, because the kernel lists a closed
/// socket for a minute.
const LONGEST_CHECK: Duration = Duration::from_secs(30);

/// The schedule of the checks, and the result of the last one.
#[derive(Debug)]
pub(super) struct Watch {
    next: Instant,
    /// The time from the next check to the one after it.
    pause: Duration,
    /// Whether a check has found that the client reads nothing any more. It never becomes false again.
    gone: bool,
}

impl Watch {
    /// Watches a client that ended its sending side at `ended`.
    pub(super) fn since(ended: Instant) -> Self {
        Self {
            next: ended + FIRST_CHECK,
            pause: FIRST_CHECK * 2,
            gone: false,
        }
    }

    /// When the next check is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether the client can no longer read an answer, and kdb+'s kernel has acknowledged all bytes for
    /// kdb+. Asks hopend's kernel, which takes some microseconds.
    pub(super) fn check(&mut self, client: WatchedClient<'_>, upstream: &UpstreamStream) -> bool {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_CHECK);
        self.gone = self.gone || client.is_gone();
        self.gone && kernel_sockets::has_delivered_everything(upstream.tcp())
    }
}

/// A client that has ended its sending side.
#[derive(Clone, Copy)]
pub(super) struct WatchedClient<'a> {
    pub(super) stream: &'a ClientStream,
    /// The process behind the connection, if it runs on this host.
    pub(super) peer: Option<&'a Peer>,
}

impl WatchedClient<'_> {
    fn is_gone(&self) -> bool {
        let has_let_go = |server: SocketAddr| self.peer.is_some_and(|peer| peer.has_let_go(server));
        self.stream.is_closed() || self.stream.server().is_some_and(has_let_go)
    }
}
