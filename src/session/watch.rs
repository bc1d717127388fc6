//! Looks after a client that has ended its side of the stream.
//!
//! One that has closed while it waits for an answer says no more than one that closes its sending side
//! only, and may wait: over TCP both are a FIN. Of a process of this host the kernel knows more.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::Peer;
use crate::primitives::kernel_sockets;
use crate::session::client::ClientStream;
use crate::upstream::UpstreamStream;

/// From the end of the client's side of the stream to the first look after it; the next ones take
/// twice as long each. Mostly kdb+ has closed by then.
const SOON: Duration = Duration::from_secs(1);
/// From one look to the next, at the most: the kernel shows a socket for a minute after it was closed.
const EVERY: Duration = Duration::from_secs(30);

/// When to look, and what was seen last.
#[derive(Debug)]
pub(super) struct Watch {
    next: Instant,
    every: Duration,
    /// The client was seen to take nothing in any more; that is for good.
    gone: bool,
}

impl Watch {
    /// Of a client that ended its side of the stream then.
    pub(super) fn since(ended: Instant) -> Self {
        Self {
            next: ended + SOON,
            every: SOON * 2,
            gone: false,
        }
    }

    /// When to look.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether the client can't read the answer that it seems to wait for, and the cluster's host has
    /// everything that was for it. Asks the kernel: some microseconds.
    pub(super) fn look(
        &mut self,
        (client, peer): (&ClientStream, Option<&Peer>),
        upstream: &UpstreamStream,
    ) -> bool {
        self.next = Instant::now() + self.every;
        self.every = (self.every * 2).min(EVERY);
        self.gone = self.gone || is_gone(client, peer);
        self.gone && kernel_sockets::has_delivered_everything(upstream.tcp())
    }
}

fn is_gone(client: &ClientStream, peer: Option<&Peer>) -> bool {
    let let_go = |server: SocketAddr| peer.is_some_and(|peer| peer.has_let_go(server));
    client.is_closed() || client.server().is_some_and(let_go)
}
