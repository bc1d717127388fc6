//! The end of a session: what both sides still have to receive, and how long hopend waits for them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::lane::Outlet;
use super::{End, Farewell, Loss, Relay, SendQueue, Until};

/// How long a client may take to close after hopend has sent it the end of the stream.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long kdb+ may take to close after its kernel has acknowledged everything and the end of the stream,
/// if it owes no answer. A q that is busy with another query has yet to read its input.
pub const UPSTREAM_CLOSE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long one side may take none of the bytes that hopend holds for it, once the other side has ended.
/// After this time hopend counts the bytes as lost. While both sides are open there is no limit.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The time between two questions to the kernel, at first. It doubles.
const FIRST_CHECK: Duration = Duration::from_millis(5);
/// The longest time between two questions to the kernel.
pub(super) const LONGEST_CHECK: Duration = Duration::from_secs(1);

/// The repeated question to the kernel: has the peer acknowledged what hopend wrote?
#[derive(Debug)]
pub(super) struct DeliveryCheck {
    next: Instant,
    pause: Duration,
    /// Bytes without an acknowledgement at the last question.
    unsent: u64,
}

impl<C, U> Relay<'_, C, U>
where
    C: AsyncRead + AsyncWrite + SendQueue + Unpin,
    U: AsyncRead + AsyncWrite + SendQueue + Unpin,
{
    /// Whether the kernels of both sides have acknowledged everything that hopend wrote. If not, the relay
    /// asks hopend's own kernel again later.
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

    /// Whether the client gets a reset once it has received everything before it.
    pub(super) fn resets_client(&self) -> bool {
        let farewell = self.reason.as_ref().map(End::farewell);
        farewell == Some(Farewell::Reset)
    }

    /// Whether a side has ended or is about to, so that deadlines run. Each step asks this.
    pub(super) fn is_ending(&self) -> bool {
        self.reason.is_some()
            || self.delivery_check.is_some()
            || self.to_kdb.is_over()
            || self.to_client.is_over()
    }

    /// Whether the relay has nothing left to read, to write or to wait for, except for the kernels.
    pub(super) fn is_over(&self) -> bool {
        if self.resets_client() {
            let client_has_all = self.to_client.is_read_out() && self.to_client.is_drained();
            return (self.to_kdb.is_over() || self.kdb_is_gone())
                && (client_has_all || self.client_is_gone());
        }
        // A kdb+ that hangs may not even take the end of the stream.
        let hangs =
            self.to_kdb.is_read_out() && matches!(self.reason, Some(End::PingUnanswered { .. }));
        let kdb_sends_nothing_more =
            self.to_client.sender_has_ended() || self.to_kdb.outlet() == Outlet::Broken;
        let finishes = matches!(self.until, Until::Delivered(_));
        (self.to_kdb.is_over() || hangs)
            && self.to_client.is_over()
            && (kdb_sends_nothing_more || hangs || finishes)
    }

    /// The end, if a deadline has passed.
    #[cold]
    pub(super) fn end_by_time(&mut self, now: Instant, context: &mut Context<'_>) -> Option<End> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(self.finish_deadline()) {
            return Some(self.give_up(context));
        }
        // The kernel may still hold written bytes: then the relay waits for them first.
        if passed(self.close_deadline()) && (self.is_owed() || self.has_delivered(now)) {
            return Some(self.give_up(context));
        }
        if passed(self.delivery_check.as_ref().map(|check| check.next)) {
            self.has_delivered(now);
        }
        None
    }

    /// The next deadline of a session that ends, or that waits for the answer to a sync ping.
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

    /// When hopend gives up the side that has not finished. Never while kdb+ owes an answer to a client
    /// that has only closed its sending side.
    fn close_deadline(&self) -> Option<Instant> {
        if self.is_owed() {
            let ending = self.reason.is_some();
            return ending.then(|| self.last_progress + HANG_TIMEOUT);
        }
        let waits_for_kdb = self.to_kdb.outlet() == Outlet::Shut
            && !self.to_client.sender_has_ended()
            && (self.outstanding == 0 || self.to_client.is_over());
        if waits_for_kdb {
            return Some(self.last_progress + UPSTREAM_CLOSE_TIMEOUT);
        }
        let waits_for_client = match self.to_client.outlet() {
            Outlet::Open | Outlet::Unflushed => {
                self.to_kdb.outlet() == Outlet::Broken && !self.to_kdb.is_read_out()
            }
            Outlet::Shut => true,
            Outlet::Broken => false,
        };
        waits_for_client.then(|| self.last_progress + CLIENT_CLOSE_TIMEOUT)
    }

    /// Whether hopend holds bytes for a side that may still take them.
    fn is_owed(&self) -> bool {
        let to_kdb_is_quiet =
            !self.to_kdb.is_read_out() && self.to_kdb.is_drained() && !self.to_kdb.holds_message();
        let owed_to_kdb = !self.to_kdb.is_over() && !self.kdb_is_gone() && !to_kdb_is_quiet;
        let owed_to_client = !self.to_client.is_over() && !self.to_client.is_drained();
        owed_to_kdb || owed_to_client || self.delivery_check.is_some()
    }

    /// Counts the messages that the session leaves in its lanes.
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

    /// A deadline ends the session. The relay counts the received messages as lost, also those that the
    /// senders' connections hold now, and the bytes that the receivers' kernels have not acknowledged.
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
