//! What a connection's peer has yet to take of the bytes that were written to it.

use tokio::io::DuplexStream;

/// A connection that may hold bytes between a write and the peer.
///
/// A write succeeds once the kernel has a copy. A reset, or a close with unread input, then throws
/// away what the peer's kernel has not acknowledged, so the relay asks before it ends a session.
pub trait SendQueue {
    /// Bytes that were written and that the peer's kernel has not acknowledged. The end of the stream
    /// counts as one. 0 where nobody can tell.
    fn unsent(&self) -> u64 {
        0
    }
}

/// A pipe in memory: what is written is there.
impl SendQueue for DuplexStream {}
