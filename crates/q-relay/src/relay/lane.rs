//! One direction of a relay: a buffer, and what may leave it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{LEAN_DIRECTION, MemoryAccount};
use crate::buffer::{Buffer, CHUNK};
use q_ipc::frame::{FrameTracker, HEADER_LEN, Header, HeaderError, StreamPart};

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
    tracker: FrameTracker,
    /// Bytes of the message at `cleared` that must not be passed on.
    swallow: u64,
    /// Where the count of unwritten messages begins.
    mark: Mark,
    /// The end of a message of hopend's own; it is written once `start` is behind it.
    own_end: usize,
    inlet: Inlet,
    outlet: Outlet,
}

/// The reading side of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inlet {
    /// The relay reads from the sender.
    Open,
    /// The buffer is full. The relay reads again when the receiver has taken bytes.
    Full,
    /// The relay takes no more bytes for the receiver. The sender may still send some.
    Stopped,
    /// The sender's stream has ended or is broken.
    Ended,
}

/// The writing side of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlet {
    /// The receiver takes bytes.
    Open,
    /// The receiver takes bytes, and its stream has bytes that it has not flushed.
    Unflushed,
    /// The relay has sent the end of the stream to the receiver.
    Shut,
    /// A write failed: the receiver takes no more bytes.
    Broken,
}

/// A position in the buffer, at `start` or before it, and where in a message it stands. It moves
/// only when the bytes before it leave the buffer, so that a message costs nothing here.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at: usize,
    /// Bytes from `at` to the end of the message, 0 between messages.
    body_left: u64,
}

/// What a walk from the mark to the end of the buffer found.
struct Walk {
    /// Whole messages of the sender that have not been written whole.
    unwritten: u64,
    /// Where the walk stopped: at the end, or at the start of a header of which a part has come.
    stopped: Mark,
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
        let buffer = Buffer::holding(bytes, LEAN_DIRECTION);
        Self {
            buffer,
            start: 0,
            cleared: 0,
            end: bytes.len(),
            tracker: FrameTracker::new(limit),
            swallow: 0,
            mark: Mark::default(),
            own_end: 0,
            inlet: Inlet::Open,
            outlet: Outlet::Open,
        }
    }

    /// Charges what it holds to `account` from now on.
    pub(super) fn charge(&mut self, account: &Arc<MemoryAccount>) {
        self.buffer.charge(account);
    }

    /// Opens a full inlet if the buffer has room now. Returns whether it did.
    #[inline]
    pub(super) fn reopen(&mut self) -> bool {
        let has_room = self.start == self.end || self.start >= self.buffer.len() / 2;
        let reopens = self.inlet == Inlet::Full && has_room;
        if reopens {
            self.inlet = Inlet::Open;
        }
        reopens
    }

    /// Whether the relay reads no more bytes for the receiver.
    #[inline]
    pub(super) fn is_read_out(&self) -> bool {
        matches!(self.inlet, Inlet::Stopped | Inlet::Ended)
    }

    /// Whether the sender's stream has ended or is broken.
    #[inline]
    pub(super) fn sender_has_ended(&self) -> bool {
        self.inlet == Inlet::Ended
    }

    /// The sender's stream has ended or is broken.
    pub(super) fn end_reading(&mut self) {
        self.inlet = Inlet::Ended;
    }

    /// The relay reads no more, unless a full buffer hides bytes that arrived before.
    pub(super) fn stop_reading_at_end(&mut self) {
        if self.inlet == Inlet::Open {
            self.inlet = Inlet::Stopped;
        }
    }

    /// The state of the writing side.
    #[inline]
    pub(super) fn outlet(&self) -> Outlet {
        self.outlet
    }

    /// The relay has sent the end of the stream.
    pub(super) fn shut(&mut self) {
        self.outlet = Outlet::Shut;
    }

    /// A write failed.
    pub(super) fn break_outlet(&mut self) {
        self.outlet = Outlet::Broken;
    }

    /// Whether nothing waits to be written.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.start == self.cleared && self.outlet != Outlet::Unflushed
    }

    /// Whether all that was read has been written, and ended a message.
    #[inline]
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
        if self.is_read_out() {
            self.give_back();
            return Poll::Pending;
        }
        self.make_room();
        self.buffer.lend(LEAN_DIRECTION);
        if self.end == self.buffer.len() {
            self.inlet = Inlet::Full;
            return Poll::Pending;
        }
        self.inlet = Inlet::Open;
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
            self.inlet = Inlet::Ended;
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
                self.mark = Mark {
                    at: self.start,
                    body_left: 0,
                };
                self.swallow -= here as u64;
                if self.swallow > 0 {
                    return Ok(());
                }
            }
            let bytes = &self.buffer[self.cleared..self.end];
            // The tracker counts a header as passed, so what is held is asked of a copy.
            let mut ahead = self.tracker.clone();
            match ahead.next(bytes)? {
                StreamPart::Incomplete => return Ok(()),
                StreamPart::Body(count) => {
                    self.cleared += count;
                    self.tracker = ahead;
                }
                StreamPart::Header(header) => match judge(header) {
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
        if self.inlet != Inlet::Ended {
            self.inlet = Inlet::Stopped;
        }
        self.end = self.cleared;
        self.swallow = 0;
    }

    /// Whether a stream that ends here ends between messages.
    pub(super) fn ends_between_messages(&self) -> bool {
        self.tracker.at_boundary() && self.swallow == 0 && self.cleared == self.end
    }

    /// Whether what was let through so far ends a message.
    #[inline]
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
                    self.outlet = Outlet::Unflushed;
                }
            }
        }
        if self.outlet == Outlet::Unflushed {
            match to.poll_flush(context) {
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                polled => ready!(polled)?,
            }
            self.outlet = Outlet::Open;
        }
        Poll::Ready(Ok(written))
    }

    /// Puts a message of hopend's own behind what was written. Only between messages.
    pub(super) fn inject(&mut self, message: &[u8]) {
        debug_assert!(self.between_messages(), "only between messages");
        // Bytes that wait behind `cleared` (part of a header, or a held message) stay behind.
        let waiting = self.buffer[self.cleared..self.end].to_vec();
        let needed = message.len() + waiting.len();
        self.buffer.hold(needed.max(LEAN_DIRECTION));
        self.buffer[..message.len()].copy_from_slice(message);
        self.buffer[message.len()..needed].copy_from_slice(&waiting);
        (self.start, self.cleared, self.end) = (0, message.len(), needed);
        (self.mark, self.own_end) = (Mark::default(), message.len());
    }

    /// Drops everything but the first part of a header, so that reading goes on when the writing side
    /// takes nothing more. Returns how many whole messages it dropped, held ones among them, that had
    /// not been written whole. Walks over the buffer, so it is for the end of a session.
    pub(super) fn discard(&mut self) -> u64 {
        let Walk { unwritten, stopped } = self.walk();
        self.buffer.copy_within(stopped.at..self.end, 0);
        (self.start, self.cleared, self.end) = (0, 0, self.end - stopped.at);
        self.mark = Mark { at: 0, ..stopped };
        self.tracker.resume(stopped.body_left);
        self.own_end = 0;
        if self.outlet == Outlet::Unflushed {
            self.outlet = Outlet::Open;
        }
        unwritten
    }

    fn walk(&self) -> Walk {
        // What is to be swallowed is no message of the sender to the receiver.
        let end = if self.swallow > 0 {
            self.cleared
        } else {
            self.end
        };
        let mut tracker = FrameTracker::inside(self.mark.body_left);
        let (mut at, mut unwritten) = (self.mark.at, 0);
        loop {
            match tracker.next(&self.buffer[at..end]) {
                Ok(StreamPart::Header(_)) => at += HEADER_LEN,
                Ok(StreamPart::Body(count)) => at += count,
                Ok(StreamPart::Incomplete) => break,
                Err(_) => {
                    at = self.end;
                    break;
                }
            }
            let is_whole = tracker.at_boundary() && at > self.start;
            unwritten += u64::from(is_whole && at != self.own_end);
        }
        let stopped = Mark {
            at,
            body_left: tracker.body_left(),
        };
        Walk { unwritten, stopped }
    }

    /// Puts a message of hopend's own behind everything that was let through.
    pub(super) fn append(&mut self, message: &[u8]) {
        debug_assert!(self.cleared == self.end, "nothing may wait");
        let end = self.end + message.len();
        self.buffer.hold(end.max(LEAN_DIRECTION));
        self.buffer[self.end..end].copy_from_slice(message);
        (self.cleared, self.end, self.own_end) = (end, end, end);
    }

    /// Whether the writing side is shut or broken.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        matches!(self.outlet, Outlet::Shut | Outlet::Broken)
    }

    /// Whether a message that has come is held back.
    #[inline]
    pub(super) fn holds_message(&self) -> bool {
        self.tracker.at_boundary() && self.end - self.cleared >= HEADER_LEN
    }

    /// Whether the message that comes next (its header may be one that was refused) is one that
    /// its sender expects an answer to.
    pub(super) fn holds_request(&self) -> bool {
        self.tracker.at_boundary() && self.buffer[self.cleared..self.end].get(1) == Some(&1)
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            self.rewind();
        } else if self.end == self.buffer.len() && self.start >= self.buffer.len() / 2 {
            // Below half, moving would cost more than waiting for the writer.
            let kept = self.advance_mark();
            self.buffer.copy_within(kept..self.end, 0);
            self.end -= kept;
            self.cleared -= kept;
            self.start -= kept;
            self.mark.at = 0;
            self.own_end = self.own_end.saturating_sub(kept);
        }
    }

    /// Moves the mark to `start`, or to the start of the header that `start` is inside of. Returns
    /// its position.
    fn advance_mark(&mut self) -> usize {
        let mut tracker = FrameTracker::inside(self.mark.body_left);
        let at = &mut self.mark.at;
        while *at < self.start {
            match tracker.next(&self.buffer[*at..self.start]) {
                Ok(StreamPart::Header(_)) => *at += HEADER_LEN,
                Ok(StreamPart::Body(count)) => *at += count,
                Ok(StreamPart::Incomplete) => break,
                // Bytes behind a refused header, which count as no message.
                Err(_) => *at = self.start,
            }
        }
        self.mark.body_left = tracker.body_left();
        self.mark.at
    }

    /// Begins at the front of the buffer again, which holds nothing.
    fn rewind(&mut self) {
        (self.start, self.cleared, self.end) = (0, 0, 0);
        self.own_end = 0;
        self.mark = Mark {
            at: 0,
            body_left: self.tracker.body_left(),
        };
    }

    /// A lane that waits for something to read holds no buffer.
    pub(super) fn give_back(&mut self) {
        if self.start == self.end {
            self.rewind();
            self.buffer.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::MemoryBudget;

    /// A user who is over the budget gets small buffers, and never smaller ones for a keepalive.
    #[test]
    fn a_message_of_hopends_own_leaves_room_for_what_is_read_next() {
        let budget = MemoryBudget::of(1);
        let account = Arc::new(budget.session("a", 0).unwrap());
        let ping = [1, 0, 0, 0, 8, 0, 0, 0];
        for put in [Lane::inject, Lane::append] {
            let mut lane = Lane::new(None, &[]);
            lane.charge(&account);
            put(&mut lane, &ping);
            assert!(lane.buffer.len() >= LEAN_DIRECTION, "{}", lane.buffer.len());
        }
    }
}
