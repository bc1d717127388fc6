//! One direction of a relay: a buffer, and what may leave it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{Buffer, CHUNK};
use crate::q::frame::{HEADER_LEN, Header, HeaderError, Piece, Tracker};

/// Bytes on their way from one socket to the other.
///
/// What was read is looked at header by header before it may be written, and a header is written
/// whole or not at all: a client that reads its 8 bytes at once finds them, and a ping can still
/// be put in front of a header of which only a part has come.
#[derive(Debug)]
pub(super) struct Lane {
    buffer: Buffer,
    /// `buffer[start..cleared]` may be written; `buffer[cleared..end]` has not been looked at, or
    /// is held.
    start: usize,
    cleared: usize,
    end: usize,
    tracker: Tracker,
    /// Bytes of the message at `cleared` that must not be passed on.
    swallow: u64,
    /// The reading side has ended.
    pub(super) read_done: bool,
    /// The writing side has been shut down, or has failed.
    pub(super) write_done: bool,
    unflushed: bool,
    /// Nothing was read for want of room, so nobody will call when there is more to read.
    full: bool,
}

/// What to do with a message whose header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let it through.
    Pass,
    /// Not now; ask again.
    Hold,
    /// Drop it, header and body.
    Swallow,
}

impl Lane {
    /// A lane that already holds `bytes`.
    pub(super) fn new(limit: Option<u64>, bytes: &[u8]) -> Self {
        let mut buffer = Buffer::default();
        buffer.hold(bytes.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Self {
            buffer,
            start: 0,
            cleared: 0,
            end: bytes.len(),
            tracker: Tracker::new(limit),
            swallow: 0,
            read_done: false,
            write_done: false,
            unflushed: false,
            full: false,
        }
    }

    /// Whether reading, which stopped for want of room, has room now without a write.
    pub(super) fn has_room_again(&mut self) -> bool {
        let room = self.full && (self.start == self.end || self.start >= self.buffer.len() / 2);
        self.full &= !room;
        room
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_drained(&self) -> bool {
        self.start == self.cleared && !self.unflushed
    }

    /// Whether all that was read has been written, and ended a message.
    pub(super) fn between_messages(&self) -> bool {
        self.is_drained() && self.tracker.at_boundary() && self.swallow == 0
    }

    /// Whether nothing at all is under way: no message begun, not a byte of the next header.
    pub(super) fn is_quiet(&self) -> bool {
        self.between_messages() && self.cleared == self.end
    }

    /// Reads once, if there is room. `Ok(0)` is the end of the stream.
    ///
    /// Pending also when the buffer is full: writing wakes the task then.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        from: Pin<&mut impl AsyncRead>,
    ) -> Poll<io::Result<usize>> {
        if self.read_done {
            self.give_back();
            return Poll::Pending;
        }
        self.make_room();
        self.buffer.lend();
        self.full = self.end == self.buffer.len();
        if self.full {
            return Poll::Pending;
        }
        // No more than the writer takes at a time: the rest would be a small write of its own.
        let last = self.buffer.len().min(self.end + CHUNK);
        let mut space = ReadBuf::new(&mut self.buffer[self.end..last]);
        let polled = from.poll_read(context, &mut space);
        let count = space.filled().len();
        match polled {
            Poll::Pending => {
                self.give_back();
                return Poll::Pending;
            }
            Poll::Ready(result) => result?,
        }
        self.end += count;
        if count == 0 {
            self.read_done = true;
        }
        Poll::Ready(Ok(count))
    }

    /// Looks at what has been read and clears what may be written. `judge` is asked about each
    /// header.
    pub(super) fn clear(
        &mut self,
        mut judge: impl FnMut(Header) -> Verdict,
    ) -> Result<(), HeaderError> {
        loop {
            if self.swallow > 0 {
                // What stands before the message has to be gone first.
                if self.start != self.cleared {
                    return Ok(());
                }
                let here = (self.end - self.cleared)
                    .min(usize::try_from(self.swallow).unwrap_or(usize::MAX));
                self.cleared += here;
                self.start = self.cleared;
                self.swallow -= here as u64;
                if self.swallow > 0 {
                    return Ok(());
                }
            }
            let bytes = &self.buffer[self.cleared..self.end];
            // The tracker counts a header as passed, so what is held is asked of a copy.
            let mut ahead = self.tracker.clone();
            match ahead.next(bytes)? {
                Piece::Partial => return Ok(()),
                Piece::Body(count) => {
                    self.cleared += count;
                    self.tracker = ahead;
                }
                Piece::Header(header) => match judge(header) {
                    Verdict::Hold => return Ok(()),
                    Verdict::Swallow => self.swallow = header.length,
                    Verdict::Pass => {
                        self.cleared += HEADER_LEN;
                        self.tracker = ahead;
                    }
                },
            }
        }
    }

    /// Lets through what is left of a stream that ended inside a header. Says whether there was
    /// anything.
    pub(super) fn clear_rest(&mut self) -> bool {
        let rest = self.cleared < self.end;
        self.cleared = self.end;
        rest
    }

    /// Reads no more and forgets what has not been let through.
    pub(super) fn stop_reading(&mut self) {
        self.read_done = true;
        self.end = self.cleared;
        self.swallow = 0;
    }

    /// Whether a stream that ends here ends between messages.
    pub(super) fn ends_between_messages(&self) -> bool {
        self.tracker.at_boundary() && self.swallow == 0 && self.cleared == self.end
    }

    /// Whether what was let through so far ends a message.
    pub(super) fn passed_whole_messages(&self) -> bool {
        self.tracker.at_boundary()
    }

    /// Writes what may be written, then flushes. Ready with the count of bytes written in this
    /// call, once there is nothing left or the writer took all it could.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while self.start < self.cleared {
            let bytes = &self.buffer[self.start..self.cleared];
            match to.as_mut().poll_write(context, bytes) {
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.start += count;
                    written += count;
                    self.unflushed = true;
                }
            }
        }
        if self.unflushed {
            match to.poll_flush(context) {
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                polled => ready!(polled)?,
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(written))
    }

    /// Puts a message of hopend's own behind what was written. Only between messages.
    pub(super) fn inject(&mut self, message: &[u8]) {
        debug_assert!(self.between_messages(), "only between messages");
        // Bytes that wait behind `cleared` (part of a header, or a held message) stay behind.
        let waiting = self.buffer[self.cleared..self.end].to_vec();
        let needed = message.len() + waiting.len();
        self.buffer.hold(needed);
        self.buffer[..message.len()].copy_from_slice(message);
        self.buffer[message.len()..needed].copy_from_slice(&waiting);
        (self.start, self.cleared, self.end) = (0, message.len(), needed);
    }

    /// Drops everything, so that reading goes on when the writing side is gone.
    pub(super) fn discard(&mut self) {
        (self.start, self.cleared, self.end) = (0, 0, 0);
        self.unflushed = false;
    }

    /// Puts a message of hopend's own behind everything that was let through.
    pub(super) fn append(&mut self, message: &[u8]) {
        debug_assert!(self.cleared == self.end, "nothing may wait");
        let end = self.end + message.len();
        self.buffer.hold(end);
        self.buffer[self.end..end].copy_from_slice(message);
        (self.cleared, self.end) = (end, end);
    }

    /// Whether a message that has come is held back.
    pub(super) fn holds_message(&self) -> bool {
        self.tracker.at_boundary() && self.end - self.cleared >= HEADER_LEN
    }

    /// Whether the message that comes next (its header may be one that was refused) is one that
    /// its sender expects an answer to.
    pub(super) fn waiting_for_answer(&self) -> bool {
        self.tracker.at_boundary() && self.buffer[self.cleared..self.end].get(1) == Some(&1)
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.cleared, self.end) = (0, 0, 0);
        } else if self.end == self.buffer.len() && self.start >= self.buffer.len() / 2 {
            // Below half, moving would cost more than waiting for the writer.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.cleared -= self.start;
            self.start = 0;
        }
    }

    /// A lane that waits for something to read holds no buffer.
    fn give_back(&mut self) {
        if self.start == self.end {
            (self.start, self.cleared, self.end) = (0, 0, 0);
            self.buffer.give_back();
        }
    }
}
