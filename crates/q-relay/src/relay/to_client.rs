//! The direction from kdb+ to the client. The relay passes on kdb+'s messages, except the answers to pings,
//! and may add an error response of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use q_ipc::frame::{Header, HeaderError, MessageType};
use q_ipc::message::error_response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::lane::Verdict;
use super::{ClientPosition, End, Loss, Relay, SendQueue, Until};
use crate::budget::LEAN_DIRECTION;
use crate::buffer::Buffer;

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + SendQueue + Unpin,
    U: AsyncRead + AsyncWrite + SendQueue + Unpin,
{
    pub(super) fn read_kdb(&mut self, context: &mut Context<'_>) -> bool {
        if self.to_client.has_stopped_reading() {
            return self.read_and_discard(context);
        }
        let progress = match self
            .to_client
            .poll_read(context, Pin::new(&mut *self.upstream))
        {
            Poll::Pending => {
                // While the relay holds back a message, it has to read on: kdb+ must answer the ping first.
                let finishes = matches!(self.until, Until::Delivered(_));
                if finishes && !self.to_kdb.holds_message() {
                    self.to_client.stop_reading_unless_full();
                }
                false
            }
            Poll::Ready(Ok(0)) => {
                self.end_kdb_stream(None);
                true
            }
            Poll::Ready(Ok(_)) => true,
            Poll::Ready(Err(error)) => {
                self.end_kdb_stream(Some(error));
                true
            }
        };
        let cleared = self.clear_responses();
        if self.client_is_gone() {
            let lost = self.to_client.discard();
            self.meters.to_client.add_lost(Loss::ReceiverGone, lost);
        }
        match cleared {
            Ok(()) => progress | self.to_client.reopen(),
            Err(error) => {
                let text = format!("hopend: the cluster sent what is no q message: {error}");
                self.conclude(End::UpstreamMessage(error), &text);
                true
            }
        }
    }

    /// Passes on kdb+'s messages, except the answer to a sync ping.
    fn clear_responses(&mut self) -> Result<(), HeaderError> {
        let client_is_gone = self.client_is_gone();
        let (keepalive, meters) = (&mut self.keepalive, self.meters);
        let stopwatch = &mut self.stopwatch;
        let (outstanding, callbacks) = (&mut self.outstanding, &mut self.callbacks);
        self.to_client.clear(|header: Header| {
            match header.message_type {
                MessageType::Response if keepalive.awaiting_answer() => {
                    keepalive.answered();
                    return Verdict::Swallow;
                }
                MessageType::Response => {
                    *outstanding = outstanding.saturating_sub(1);
                    stopwatch.answer_passed();
                    meters.set_outstanding(*outstanding);
                }
                MessageType::Sync => *callbacks += 1,
                MessageType::Async => {}
            }
            if !client_is_gone {
                meters.to_client.add_message(header.message_type);
            }
            Verdict::Pass
        })
    }

    /// Reads and discards the bytes that kdb+ sends after its last message for the client. There are two
    /// reasons. A kdb+ that cannot write does not read either. And a close with unread input would be a
    /// reset.
    fn read_and_discard(&mut self, context: &mut Context<'_>) -> bool {
        self.to_client.give_back();
        if self.to_client.sender_has_ended() {
            return false;
        }
        let mut scratch = Buffer::default();
        let mut space = ReadBuf::new(scratch.lend(LEAN_DIRECTION));
        match Pin::new(&mut *self.upstream).poll_read(context, &mut space) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !space.filled().is_empty() => {}
            Poll::Ready(_) => self.to_client.end_reading(),
        }
        true
    }

    pub(super) fn write_client(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.to_client.has_stopped_writing() {
            return false;
        }
        match self
            .to_client
            .poll_write(context, Pin::new(&mut *self.client))
        {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                self.meters.to_client.add_bytes(count);
                self.written += count;
                if let Some(waited) = self.stopwatch.client_written(self.meters.active(now)) {
                    self.meters.add_round_trip(waited);
                }
                return true;
            }
            Poll::Ready(Err(error)) => {
                self.break_client(error, now);
                return true;
            }
            Poll::Pending => return false,
        }
        if !self.to_client.has_stopped_reading() || self.resets_client() {
            return false;
        }
        match Pin::new(&mut *self.client).poll_shutdown(context) {
            Poll::Pending => false,
            Poll::Ready(Err(error)) => {
                self.break_client(error, now);
                true
            }
            Poll::Ready(Ok(())) => {
                self.to_client.shut();
                self.last_progress = now;
                true
            }
        }
    }

    /// Handles the end of kdb+'s stream. A client that has received only complete messages can receive an
    /// error response. A client inside a message cannot.
    fn end_kdb_stream(&mut self, error: Option<io::Error>) {
        self.to_client.end_reading();
        if self.client_is_gone() || matches!(self.until, Until::Delivered(_)) {
            self.to_client.stop_reading();
            return;
        }
        let client = self.client_position();
        let end = if self.to_client.ends_between_messages() {
            let outstanding = self.unanswered();
            End::UpstreamClosed { outstanding, error }
        } else {
            End::UpstreamCut { error, client }
        };
        match client {
            ClientPosition::InsideMessage => {
                // A busy client may still have to read the complete messages before this one, so they stay.
                self.to_client.stop_reading();
                self.reason = Some(end);
            }
            ClientPosition::BetweenMessages => {
                let text = format!("hopend: {end}");
                self.conclude(end, &text);
            }
        }
    }

    /// Ends the session: the relay reads no more messages from kdb+. A client that waits for an answer
    /// receives `text` as a q error, then the end of the stream.
    pub(super) fn conclude(&mut self, end: End, text: &str) {
        self.report_to_client(text);
        match (&self.reason, &end) {
            // A client that had closed only its sending side still waited for answers. So the reason is the
            // end of kdb+'s stream.
            (
                Some(End::ClientClosed),
                End::UpstreamClosed {
                    outstanding: 1.., ..
                }
                | End::UpstreamCut { .. },
            ) => self.reason = Some(end),
            (Some(_), _) => {}
            (None, _) => self.reason = Some(end),
        }
    }

    /// Stops reading kdb+'s messages for the client. If the client waits for an answer, sends `text` as a q
    /// error.
    pub(super) fn report_to_client(&mut self, text: &str) {
        let waits = self.unanswered() > 0 && !self.to_client.has_stopped_writing();
        self.to_client.stop_reading();
        if waits && self.to_client.passed_whole_messages() {
            self.to_client.append(&error_response(text));
        }
    }
}
