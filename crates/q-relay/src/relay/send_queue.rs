//! The bytes that hopend has written to a connection, and that the peer's kernel has not acknowledged.

use tokio::io::DuplexStream;

/// A connection whose kernel may hold written bytes that have not reached the peer.
///
/// A write succeeds once hopend's kernel has a copy of the bytes. A later reset, or a close with unread
/// input, discards the bytes that the peer's kernel has not acknowledged. So the relay checks for such
/// bytes before it ends a session.
pub trait SendQueue {
    /// The number of written bytes that the peer's kernel has not acknowledged. The end of the stream
    /// counts as one byte. 0 if the kernel does not provide the number.
    fn unsent(&self) -> u64 {
        0
    }
}

/// A pipe in memory delivers every write at once.
impl SendQueue for DuplexStream {}
