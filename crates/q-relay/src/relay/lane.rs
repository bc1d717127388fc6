//! One direction of a relay: a buffer, and the rules for the bytes that may leave it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{LEAN_DIRECTION, MemoryAccount};
use crate::buffer::{Buffer, CHUNK};
use q_ipc::frame::{FrameTracker, HEADER_LEN, Header, HeaderError, StreamPart};

/// The bytes on their way from the sender's socket to the receiver's socket.
///
/// The lane examines each message header before the message may be written. It writes a header only once
/// all 8 bytes of it have arrived, for two reasons. A client that reads the 8 bytes in one call gets all of
/// them. And hopend can still insert a ping before a header that has arrived in part.
#[derive(Debug)]
pub(super) struct Lane {
    buffer: Buffer,
    /// `buffer[start..cleared]` may be written. `buffer[cleared..end]` has not been examined yet, or begins
    /// with a message that the lane holds back.
    start: usize,
    cleared: usize,
    end: usize,
    tracker: FrameTracker,
    /// How many bytes from `cleared` on the lane drops: the rest of a message with [`Verdict::Swallow`].
    swallow: u64,
    /// Where [`Lane::walk`] begins to count the messages that are not completely written.
    mark: Mark,
    /// The end of the last message that hopend itself put into the buffer. Such a message is never counted as
    /// lost. 0 if there is none.
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

/// A position in the buffer, at `start` or before it, and how many bytes of a message follow there. The lane
/// updates it only when it discards bytes from the buffer, because an update for each message costs time.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at: usize,
    /// Bytes from `at` to the end of the message, 0 between messages.
    body_left: u64,
}

/// The result of a walk over the buffer, from the mark to the end.
struct Walk {
    /// The number of the sender's complete messages that the lane has not completely written.
    unwritten: u64,
    /// Where the walk stopped: at the end, or at the start of a header that has arrived in part.
    stopped: Mark,
}

/// The treatment of a message whose header has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Pass it on to the receiver.
    Pass,
    /// Hold it back. The next [`Lane::clear`] decides again.
    Hold,
    /// Drop it, header and body.
    Swallow,
}

impl Lane {
    /// A lane whose buffer already holds `bytes`. `limit` is the length of the longest message, in bytes.
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

    /// Charges the buffer to `account` from now on.
    pub(super) fn charge(&mut self, account: &Arc<MemoryAccount>) {
        self.buffer.charge(account);
    }

    /// Reopens the inlet if it was full and the buffer has room now. Returns whether it did.
    #[inline]
    pub(super) fn reopen(&mut self) -> bool {
        let has_room = self.start == self.end || self.start >= self.buffer.len() / 2;
        let reopens = self.inlet == Inlet::Full && has_room;
        if reopens {
            self.inlet = Inlet::Open;
        }
        reopens
    }

    /// Whether the relay reads no more bytes from the sender for this lane.
    #[inline]
    pub(super) fn has_stopped_reading(&self) -> bool {
        matches!(self.inlet, Inlet::Stopped | Inlet::Ended)
    }

    /// Whether the sender's stream has ended or is broken.
    #[inline]
    pub(super) fn sender_has_ended(&self) -> bool {
        self.inlet == Inlet::Ended
    }

    /// Records that the sender's stream has ended or is broken.
    pub(super) fn end_reading(&mut self) {
        self.inlet = Inlet::Ended;
    }

    /// Stops reading after a read that found no bytes. If the buffer is full, reading goes on, because the
    /// sender's socket may hold bytes that arrived before the session was told to finish.
    pub(super) fn stop_reading_unless_full(&mut self) {
        if self.inlet == Inlet::Open {
            self.inlet = Inlet::Stopped;
        }
    }

    /// The state of the writing side.
    #[inline]
    pub(super) fn outlet(&self) -> Outlet {
        self.outlet
    }

    /// Records that the relay has sent the end of the stream.
    pub(super) fn shut(&mut self) {
        self.outlet = Outlet::Shut;
    }

    /// Records that a write failed.
    pub(super) fn break_outlet(&mut self) {
        self.outlet = Outlet::Broken;
    }

    /// Whether all bytes that may be written have been written and flushed.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.start == self.cleared && self.outlet != Outlet::Unflushed
    }

    /// Whether the bytes that may be written have been written and flushed, and the last one ended a message.
    #[inline]
    pub(super) fn between_messages(&self) -> bool {
        self.is_drained() && self.tracker.at_boundary() && self.swallow == 0
    }

    /// Whether the lane holds no byte, and the last byte that it wrote ended a message.
    pub(super) fn is_quiet(&self) -> bool {
        self.between_messages() && self.cleared == self.end
    }

    /// Reads once if the buffer has room. `Ok(0)` is the end of the stream.
    ///
    /// Returns `Pending` if the buffer is full: the writer then wakes the task. Also returns `Pending` if the
    /// relay has stopped reading.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        from: Pin<&mut impl AsyncRead>,
    ) -> Poll<io::Result<usize>> {
        if self.has_stopped_reading() {
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
        // Read no more than the writer accepts in one call: the rest would need a small write of its own.
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

    /// Examines the bytes that have been read, and releases those that may be written. Calls `judge` for each
    /// header, again for a message that it held back before.
    ///
    /// # Errors
    /// The bytes at `cleared` are no header of a q message, or the message is over the limit.
    pub(super) fn clear(
        &mut self,
        mut judge: impl FnMut(Header) -> Verdict,
    ) -> Result<(), HeaderError> {
        loop {
            if self.swallow > 0 {
                // `start` can only move over the dropped bytes once the bytes before them have been written.
                if self.start != self.cleared {
                    return Ok(());
                }
                let dropped = (self.end - self.cleared)
                    .min(usize::try_from(self.swallow).unwrap_or(usize::MAX));
                self.cleared += dropped;
                self.start = self.cleared;
                self.mark = Mark {
                    at: self.start,
                    body_left: 0,
                };
                self.swallow -= dropped as u64;
                if self.swallow > 0 {
                    return Ok(());
                }
            }
            let bytes = &self.buffer[self.cleared..self.end];
            // The tracker advances over each header that it returns. A header that is held back must not
            // advance it, so a copy of the tracker examines the header.
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

    /// Releases the last bytes of a stream that ended inside a header. Returns whether there were any.
    pub(super) fn clear_rest(&mut self) -> bool {
        let rest = self.cleared < self.end;
        self.cleared = self.end;
        rest
    }

    /// Stops reading, and drops the bytes that have not been released for writing.
    pub(super) fn stop_reading(&mut self) {
        if self.inlet != Inlet::Ended {
            self.inlet = Inlet::Stopped;
        }
        self.end = self.cleared;
        self.swallow = 0;
    }

    /// Whether the stream would end between two messages if it ended now.
    pub(super) fn ends_between_messages(&self) -> bool {
        self.tracker.at_boundary() && self.swallow == 0 && self.cleared == self.end
    }

    /// Whether the last released byte ended a message.
    #[inline]
    pub(super) fn passed_whole_messages(&self) -> bool {
        self.tracker.at_boundary()
    }

    /// Writes the bytes that may be written, then flushes. Returns how many bytes this call wrote, once no
    /// byte is left or the writer accepts no more. `Pending` if it wrote none and the writer accepts none.
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

    /// Inserts a message of hopend itself after the written bytes and before those that wait. Call it only
    /// while [`Lane::between_messages`] is true.
    pub(super) fn inject(&mut self, message: &[u8]) {
        debug_assert!(self.between_messages(), "only between messages");
        // Bytes after `cleared` (a part of a header, or a message that is held back) follow the inserted one.
        let waiting = self.buffer[self.cleared..self.end].to_vec();
        let needed = message.len() + waiting.len();
        self.buffer.hold(needed.max(LEAN_DIRECTION));
        self.buffer[..message.len()].copy_from_slice(message);
        self.buffer[message.len()..needed].copy_from_slice(&waiting);
        (self.start, self.cleared, self.end) = (0, message.len(), needed);
        (self.mark, self.own_end) = (Mark::default(), message.len());
    }

    /// Empties the buffer, except for a header that has arrived in part. So the relay can read on although
    /// the receiver accepts nothing more. Returns how many complete messages it dropped that were not
    /// completely written, including those that were held back. It walks over the buffer, so call it only
    /// at the end of a session.
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
        // A message that the lane drops is not meant for the receiver, so it does not count.
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

    /// Appends a message of hopend itself to the released bytes. The buffer must hold no others.
    pub(super) fn append(&mut self, message: &[u8]) {
        debug_assert!(self.cleared == self.end, "nothing may wait");
        let end = self.end + message.len();
        self.buffer.hold(end.max(LEAN_DIRECTION));
        self.buffer[self.end..end].copy_from_slice(message);
        (self.cleared, self.end, self.own_end) = (end, end, end);
    }

    /// Whether the relay has sent the end of the stream to the receiver, or a write has failed.
    #[inline]
    pub(super) fn has_stopped_writing(&self) -> bool {
        matches!(self.outlet, Outlet::Shut | Outlet::Broken)
    }

    /// Whether the lane holds back a message whose header has arrived.
    #[inline]
    pub(super) fn holds_message(&self) -> bool {
        self.tracker.at_boundary() && self.end - self.cleared >= HEADER_LEN
    }

    /// Whether the message at `cleared` is a sync request. Its header may be one that [`Lane::clear`]
    /// refused.
    pub(super) fn holds_request(&self) -> bool {
        self.tracker.at_boundary() && self.buffer[self.cleared..self.end].get(1) == Some(&1)
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            self.rewind();
        } else if self.end == self.buffer.len() && self.start >= self.buffer.len() / 2 {
            // With less than half of the buffer free, moving the bytes costs more than waiting for the
            // writer.
            let kept = self.advance_mark();
            self.buffer.copy_within(kept..self.end, 0);
            self.end -= kept;
            self.cleared -= kept;
            self.start -= kept;
            self.mark.at = 0;
            self.own_end = self.own_end.saturating_sub(kept);
        }
    }

    /// Moves the mark to `start`, or to the beginning of a header if `start` is inside that header. Returns
    /// its new position.
    fn advance_mark(&mut self) -> usize {
        let mut tracker = FrameTracker::inside(self.mark.body_left);
        let at = &mut self.mark.at;
        while *at < self.start {
            match tracker.next(&self.buffer[*at..self.start]) {
                Ok(StreamPart::Header(_)) => *at += HEADER_LEN,
                Ok(StreamPart::Body(count)) => *at += count,
                Ok(StreamPart::Incomplete) => break,
                // Bytes after a refused header do not count as messages.
                Err(_) => *at = self.start,
            }
        }
        self.mark.body_left = tracker.body_left();
        self.mark.at
    }

    /// Sets all positions to the beginning of an empty buffer.
    fn rewind(&mut self) {
        (self.start, self.cleared, self.end) = (0, 0, 0);
        self.own_end = 0;
        self.mark = Mark {
            at: 0,
            body_left: self.tracker.body_left(),
        };
    }

    /// Releases the memory of an empty buffer, so that an idle session holds none.
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

    /// A user over the memory budget gets small buffers. A message of hopend itself must not make them
    /// smaller.
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
