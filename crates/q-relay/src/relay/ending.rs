//! The end of a session: the bytes that the client and kdb+ still have to receive, and how long hopend waits
//! for each of them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::lane::Outlet;
use super::{End, Farewell, Loss, Relay, SendQueue, Until};

/// How long a client may take to close after hopend has sent it the end of the stream.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long kdb+ may take to close after its kernel has acknowledged all bytes and the end of the stream.
/// The limit applies if kdb+ owes the client no answer. It is long because a kdb+ that is busy with the query
/// of another client has yet to read its input.
pub const UPSTREAM_CLOSE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the client or kdb+ may accept none of the bytes that hopend holds for it, after the other of the
/// two has ended. After this time hopend counts the messages as lost. While both are open, there is no limit.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The time between the first two checks of the send queues. It doubles with each check that finds no
/// progress.
const FIRST_CHECK: Duration = Duration::from_millis(5);
/// The longest time between two checks of the send queues.
pub(super) const LONGEST_CHECK: Duration = Duration::from_secs(1);

/// The repeated check whether the client's kernel and kdb+'s kernel have acknowledged all written bytes.
///
/// hopend asks its own kernel, because no event reports an acknowledgement.
#[derive(Debug)]
pub(super) struct DeliveryCheck {
    next: Instant,
    pause: Duration,
    /// Bytes without an acknowledgement at the last check, in both directions.
    unsent: u64,
}

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + SendQueue + Unpin,
    U: AsyncRead + AsyncWrite + SendQueue + Unpin,
{
    /// Whether the client's kernel and kdb+'s kernel have acknowledged everything that hopend wrote. If not,
    /// the relay schedules the next check. Calls before that check return false.
    pub fn has_delivered(&mut self, now: Instant) -> bool {
        if self
            .delivery_check
            .as_ref()
            .is_some_and(|check| now < check.next)
        {
            return false;
        }
        let unsent = self.unsent_to_kdb() + self.unsent_to_client();
        if unsent == 0 {
            if self.delivery_check.take().is_some() {
                self.last_progress = now;
            }
            return true;
        }
        let pause = match &self.delivery_check {
            Some(check) if check.unsent == unsent => (2 * check.pause).min(LONGEST_CHECK),
            _ => {
                self.last_progress = now;
                FIRST_CHECK
            }
        };
        self.delivery_check = Some(DeliveryCheck {
            next: now + pause,
            pause,
            unsent,
        });
        false
    }

    fn unsent_to_kdb(&self) -> u64 {
        let outlet = self.to_kdb.outlet();
        if self.to_client.sender_has_ended() || outlet == Outlet::Broken || self.kdb_is_gone() {
            return 0;
        }
        let end_of_stream = u64::from(outlet == Outlet::Shut);
        self.upstream.unsent().saturating_sub(end_of_stream)
    }

    fn unsent_to_client(&self) -> u64 {
        if self.client_is_gone() {
            return 0;
        }
        let end_of_stream = u64::from(self.to_client.outlet() == Outlet::Shut);
        self.client.unsent().saturating_sub(end_of_stream)
    }

    /// Whether hopend resets the client's connection, after the client has received the bytes before the
    /// reset.
    pub(super) fn resets_client(&self) -> bool {
        let farewell = self.reason.as_ref().map(End::farewell);
        farewell == Some(Farewell::Reset)
    }

    /// Whether the client or kdb+ has ended or is about to end, so that deadlines apply. Every step of the
    /// relay calls it, so it has to be cheap.
    pub(super) fn is_ending(&self) -> bool {
        self.reason.is_some()
            || self.delivery_check.is_some()
            || self.to_kdb.has_stopped_writing()
            || self.to_client.has_stopped_writing()
    }

    /// Whether the relay has nothing left to read or to write. The kernels may still hold written bytes:
    /// see [`has_delivered`](Self::has_delivered).
    pub(super) fn is_over(&self) -> bool {
        if self.resets_client() {
            let client_has_all =
                self.to_client.has_stopped_reading() && self.to_client.is_drained();
            return (self.to_kdb.has_stopped_writing() || self.kdb_is_gone())
                && (client_has_all || self.client_is_gone());
        }
        // A kdb+ that hangs may not even accept the end of the stream, so the relay does not wait for that.
        let hangs = self.to_kdb.has_stopped_reading()
            && matches!(self.reason, Some(End::PingUnanswered { .. }));
        let kdb_sends_nothing_more =
            self.to_client.sender_has_ended() || self.to_kdb.outlet() == Outlet::Broken;
        let finishes = matches!(self.until, Until::Delivered(_));
        (self.to_kdb.has_stopped_writing() || hangs)
            && self.to_client.has_stopped_writing()
            && (kdb_sends_nothing_more || hangs || finishes)
    }

    /// Ends the session if a deadline has passed, and checks the send queues if that is due.
    #[cold]
    pub(super) fn end_by_time(&mut self, now: Instant, context: &mut Context<'_>) -> Option<End> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(self.finish_deadline()) {
            return Some(self.give_up(context));
        }
        // While the kernel still holds written bytes, the relay waits for their acknowledgement first.
        if passed(self.close_deadline()) && (self.is_owed() || self.has_delivered(now)) {
            return Some(self.give_up(context));
        }
        if passed(self.delivery_check.as_ref().map(|check| check.next)) {
            self.has_delivered(now);
        }
        None
    }

    /// The next deadline of a session that is ending, or that waits for the answer to a sync ping. None if
    /// no deadline applies.
    #[cold]
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.close_deadline(),
            self.finish_deadline(),
            self.keepalive.answer_due().map(Instant::from_std),
            self.delivery_check.as_ref().map(|check| check.next),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn finish_deadline(&self) -> Option<Instant> {
        match self.until {
            Until::Delivered(deadline) => Some(deadline),
            Until::BothSidesEnd | Until::Idle => None,
        }
    }

    /// When hopend stops waiting for the client or for kdb+. None while kdb+ owes an answer to a client that
    /// has closed only its sending side: such an answer may take any time.
    fn close_deadline(&self) -> Option<Instant> {
        if self.is_owed() {
            let ending = self.reason.is_some();
            return ending.then(|| self.last_progress + HANG_TIMEOUT);
        }
        let waits_for_kdb = self.to_kdb.outlet() == Outlet::Shut
            && !self.to_client.sender_has_ended()
            && (self.outstanding == 0 || self.to_client.has_stopped_writing());
        if waits_for_kdb {
            return Some(self.last_progress + UPSTREAM_CLOSE_TIMEOUT);
        }
        let waits_for_client = match self.to_client.outlet() {
            Outlet::Open | Outlet::Unflushed => {
                self.to_kdb.outlet() == Outlet::Broken && !self.to_kdb.has_stopped_reading()
            }
            Outlet::Shut => true,
            Outlet::Broken => false,
        };
        waits_for_client.then(|| self.last_progress + CLIENT_CLOSE_TIMEOUT)
    }

    /// Whether hopend or its kernel holds bytes for a client or a kdb+ that may still accept them.
    fn is_owed(&self) -> bool {
        let to_kdb_is_quiet = !self.to_kdb.has_stopped_reading()
            && self.to_kdb.is_drained()
            && !self.to_kdb.holds_message();
        let owed_to_kdb =
            !self.to_kdb.has_stopped_writing() && !self.kdb_is_gone() && !to_kdb_is_quiet;
        let owed_to_client = !self.to_client.has_stopped_writing() && !self.to_client.is_drained();
        owed_to_kdb || owed_to_client || self.delivery_check.is_some()
    }

    /// Counts the complete messages in both lanes as lost, and discards them.
    pub(super) fn count_losses(&mut self) {
        let kdb_is_gone =
            self.to_client.sender_has_ended() || self.to_kdb.outlet() == Outlet::Broken;
        let client_is_gone = self.client_is_gone();
        for (lane, direction, receiver_is_gone) in [
            (&mut self.to_kdb, &self.meters.to_kdb, kdb_is_gone),
            (&mut self.to_client, &self.meters.to_client, client_is_gone),
        ] {
            let cause = if receiver_is_gone {
                Loss::ReceiverGone
            } else {
                Loss::Deadline
            };
            direction.add_lost(cause, lane.discard());
        }
    }

    /// Ends the session after a deadline. Counts as lost all messages that hopend has received, and those
    /// that it can still read from both connections without waiting. Also counts the bytes that the
    /// receivers' kernels have not acknowledged.
    fn give_up(&mut self, context: &mut Context<'_>) -> End {
        let (to_kdb, to_client) = (self.unsent_to_kdb(), self.unsent_to_client());
        self.meters.to_kdb.add_unacknowledged(to_kdb);
        self.meters.to_client.add_unacknowledged(to_client);
        self.count_losses();
        while let Poll::Ready(Ok(1..)) = self.to_kdb.poll_read(context, Pin::new(&mut *self.client))
        {
            self.count_losses();
        }
        while let Poll::Ready(Ok(1..)) = self
            .to_client
            .poll_read(context, Pin::new(&mut *self.upstream))
        {
            self.count_losses();
        }
        self.reason.take().unwrap_or(End::ClientClosed)
    }
}
