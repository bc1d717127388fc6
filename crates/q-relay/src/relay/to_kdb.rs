//! The direction from the client to kdb+. The relay passes on the client's messages, and sends pings between
//! them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use q_ipc::frame::{Header, HeaderError, MessageType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::lane::Verdict;
use super::{ClientPosition, End, Loss, Relay, SendQueue, Stream, Until};

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + SendQueue + Unpin,
    U: AsyncRead + AsyncWrite + SendQueue + Unpin,
{
    pub(super) fn read_client(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.to_kdb.has_stopped_writing() && !self.to_client.is_drained() {
            // kdb+ accepts no more bytes, and the client has not read kdb+'s last bytes yet. A client that
            // only writes has to wait: hopend would read its messages only to discard them.
            return false;
        }
        let progress = match self.to_kdb.poll_read(context, Pin::new(&mut *self.client)) {
            Poll::Pending => {
                if let Until::Delivered(_) = self.until {
                    self.to_kdb.stop_reading_unless_full();
                }
                false
            }
            Poll::Ready(Ok(0)) => {
                self.reason.get_or_insert(End::ClientClosed);
                true
            }
            Poll::Ready(Ok(_)) => {
                self.stopwatch.client_read(self.meters.active(now));
                true
            }
            Poll::Ready(Err(error)) => {
                self.to_kdb.end_reading();
                self.break_client(error, now);
                true
            }
        };
        if self.to_kdb.has_stopped_writing() {
            // kdb+ accepts no more bytes. The relay still reads, so that the client can finish its writes.
            let lost = self.to_kdb.discard();
            self.meters.to_kdb.add_lost(Loss::ReceiverGone, lost);
            return progress | self.to_kdb.reopen();
        }
        match self.clear_requests(now) {
            Ok(()) => progress | self.to_kdb.reopen(),
            Err(error) => {
                self.refuse_message(error);
                true
            }
        }
    }

    /// Passes on the client's messages, unless they have to wait for the answer to a sync ping.
    fn clear_requests(&mut self, now: Instant) -> Result<(), HeaderError> {
        let (keepalive, meters) = (&mut self.keepalive, self.meters);
        let stopwatch = &mut self.stopwatch;
        let (outstanding, callbacks) = (&mut self.outstanding, &mut self.callbacks);
        self.to_kdb.clear(|header: Header| {
            match header.message_type {
                MessageType::Response => *callbacks = callbacks.saturating_sub(1),
                _ if keepalive.awaiting_answer() => {
                    keepalive.blocked(now.into_std());
                    return Verdict::Hold;
                }
                MessageType::Sync => {
                    stopwatch.request_passed(*outstanding);
                    *outstanding += 1;
                    meters.set_outstanding(*outstanding);
                }
                MessageType::Async => {}
            }
            meters.to_kdb.add_message(header.message_type);
            Verdict::Pass
        })
    }

    /// Ends the session of a client that sent an invalid header or a message over the limit. kdb+ still
    /// receives the messages before it.
    fn refuse_message(&mut self, error: HeaderError) {
        let client = self.client_position();
        match client {
            ClientPosition::InsideMessage => {
                // A client that has received a part of a message cannot receive an error, only a reset.
                self.to_client.stop_reading();
                self.reason = Some(End::ClientMessage { error, client });
            }
            ClientPosition::BetweenMessages => {
                if self.to_kdb.holds_request() {
                    self.outstanding += 1;
                }
                let text = format!("hopend: {error}");
                self.conclude(End::ClientMessage { error, client }, &text);
            }
        }
        self.to_kdb.stop_reading();
    }

    /// Handles a broken connection to the client. The client receives nothing more. The relay still reads the
    /// bytes that the client sent before.
    pub(super) fn break_client(&mut self, error: io::Error, now: Instant) {
        let lost = self.to_client.discard();
        self.meters.to_client.add_lost(Loss::ReceiverGone, lost);
        self.to_client.break_outlet();
        self.reason.get_or_insert(End::ClientLost(error));
        self.last_progress = now;
    }

    pub(super) fn write_kdb(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.to_kdb.has_stopped_writing() {
            return false;
        }
        match self
            .to_kdb
            .poll_write(context, Pin::new(&mut *self.upstream))
        {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                self.meters.to_kdb.add_bytes(count);
                self.written += count;
                self.keepalive.sent(now.into_std());
                if self.to_client.has_stopped_writing() {
                    self.last_progress = now;
                }
                return true;
            }
            Poll::Ready(Err(_)) => {
                // The next read returns the cause, and may return kdb+'s last bytes before it.
                self.to_kdb.break_outlet();
                return true;
            }
            Poll::Pending => return false,
        }
        if !self.to_kdb.has_stopped_reading() || self.to_kdb.holds_message() {
            return false;
        }
        if self.to_kdb.clear_rest() {
            return true;
        }
        match Pin::new(&mut *self.upstream).poll_shutdown(context) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) => self.to_kdb.shut(),
            Poll::Ready(Err(_)) => self.to_kdb.break_outlet(),
        }
        self.last_progress = now;
        true
    }

    /// Sends a ping if one is due and the stream allows it. Ends the session if the answer to a sync ping is
    /// overdue.
    pub(super) fn ping(&mut self, now: Instant) -> bool {
        let overdue = |due: std::time::Instant| due <= now.into_std();
        if self.keepalive.answer_due().is_some_and(overdue) {
            self.give_up_answer();
            return true;
        }
        if self.to_kdb.has_stopped_reading()
            || self.to_kdb.has_stopped_writing()
            || self.to_client.has_stopped_reading()
        {
            return false;
        }
        let stream = Stream {
            between_messages: self.to_kdb.between_messages(),
            outstanding: self.outstanding,
        };
        let Some(ping) = self.keepalive.poll(now.into_std(), stream) else {
            return false;
        };
        self.to_kdb.inject(&ping);
        self.meters.add_ping();
        true
    }

    /// Ends the session because kdb+ has not answered a sync ping for `answer_timeout`, while a message of
    /// the client waited.
    fn give_up_answer(&mut self) {
        let limit = self.keepalive.answer_timeout().unwrap_or_default();
        let client = self.client_position();
        let end = End::PingUnanswered { limit, client };
        match client {
            ClientPosition::InsideMessage => self.to_client.stop_reading(),
            ClientPosition::BetweenMessages => self.report_to_client(&format!("hopend: {end}")),
        }
        if !matches!(self.until, Until::Delivered(_)) {
            self.reason = Some(end);
        }
        let lost = self.to_kdb.discard();
        self.meters.to_kdb.add_lost(Loss::Deadline, lost);
        self.to_kdb.stop_reading();
        self.keepalive.answered();
    }
}
