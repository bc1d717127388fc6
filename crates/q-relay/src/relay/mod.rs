//! The two directions of a session between a client and kdb+: byte for byte, in constant memory, with
//! keepalives towards kdb+ only.
//!
//! [`Relay::run`] owns the clock and the timer. Everything below it gets the time as an argument.

mod end;
mod ending;
pub mod keepalive;
mod lane;
mod meters;
mod send_queue;
mod stopwatch;
#[cfg(test)]
mod tests;
mod to_client;
mod to_kdb;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::budget::MemoryAccount;
use ending::DeliveryCheck;
pub use ending::{CLIENT_CLOSE_TIMEOUT, HANG_TIMEOUT, UPSTREAM_CLOSE_TIMEOUT};

pub use end::{ClientPosition, End, Farewell};
pub use keepalive::{Keepalive, KeepaliveMode, KeepaliveSettings, Stream};
use lane::{Lane, Outlet};
pub use meters::{Direction, Loss, Meters};
pub use send_queue::SendQueue;
use stopwatch::Stopwatch;

/// How many steps, each of them a read and a write in both directions, a session takes before other
/// sessions get their turn.
const STEPS_IN_A_ROW: usize = 8;
/// How many bytes a session writes before other sessions get their turn: about 0.1 ms.
const BYTES_IN_A_ROW: usize = 128 * 1024;

/// The settings of one session's relay.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The keepalive towards kdb+.
    pub keepalive: KeepaliveSettings,
    /// The longest message in either direction, in bytes. None if there is no limit.
    pub max_message: Option<u64>,
}

/// The relay of one session.
///
/// The struct holds its whole state, so a caller may drop the future of [`Relay::run`] and call it again.
#[derive(Debug)]
pub struct Relay<'a, C, U> {
    client: &'a mut C,
    upstream: &'a mut U,
    /// From the client to kdb+.
    to_kdb: Lane,
    /// From kdb+ to the client.
    to_client: Lane,
    keepalive: Keepalive,
    /// Sync requests of the client that kdb+ has not answered.
    outstanding: u64,
    /// Sync requests of kdb+ that the client has not answered.
    callbacks: u64,
    until: Until,
    meters: &'a Meters,
    stopwatch: Stopwatch,
    timer: Pin<Box<Sleep>>,
    last_progress: Instant,
    /// Bytes written in this turn, in both directions.
    written: usize,
    /// The first event that ended the session. Later events only follow from it.
    reason: Option<End>,
    delivery_check: Option<DeliveryCheck>,
    /// The account that its buffers are charged to. None without a memory budget.
    memory: Option<Arc<MemoryAccount>>,
}

/// How long a relay goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until both sides have ended.
    BothSidesEnd,
    /// Until no request is outstanding.
    Idle,
    /// Until both sides have received everything that hopend holds for them, or until this moment.
    Delivered(Instant),
}

/// The result of one step.
enum Step {
    /// The step moved something.
    Progress,
    /// Nothing can move now.
    Still,
    /// The session is over.
    Over(End),
}

impl Step {
    fn of(progress: bool) -> Self {
        if progress {
            Self::Progress
        } else {
            Self::Still
        }
    }
}

impl<'a, C, U> Relay<'a, C, U>
where
    C: AsyncRead + AsyncWrite + SendQueue + Unpin,
    U: AsyncRead + AsyncWrite + SendQueue + Unpin,
{
    /// A relay between a client and a kdb+ after both logins. `early` holds the bytes that the client
    /// sent after its handshake.
    pub fn new(
        client: &'a mut C,
        upstream: &'a mut U,
        early: &[u8],
        plan: &Plan,
        meters: &'a Meters,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            upstream,
            to_kdb: Lane::new(plan.max_message, early),
            to_client: Lane::new(plan.max_message, &[]),
            keepalive: Keepalive::new(&plan.keepalive, now.into_std()),
            outstanding: 0,
            callbacks: 0,
            until: Until::BothSidesEnd,
            meters,
            stopwatch: Stopwatch::default(),
            timer: Box::pin(sleep_until(now)),
            last_progress: now,
            written: 0,
            reason: None,
            delivery_check: None,
            memory: None,
        }
    }

    /// Charges its buffers to `account`, and settles the account whenever the session waits.
    pub fn charge(&mut self, account: &Arc<MemoryAccount>) {
        self.to_kdb.charge(account);
        self.to_client.charge(account);
        self.memory = Some(Arc::clone(account));
    }

    /// Ends the session as soon as no request is outstanding, with [`End::Drained`].
    pub fn drain(&mut self) {
        if self.until == Until::BothSidesEnd {
            self.until = Until::Idle;
        }
    }

    /// Ends the session with [`End::Finished`] as soon as both sides have received what the relay holds
    /// for them, and at the `deadline` at the latest. The relay reads nothing that arrives later. Call
    /// [`run`](Self::run) again to wait for the end.
    pub fn finish(&mut self, farewell: Farewell, deadline: Instant) {
        self.reason = Some(End::Finished(farewell));
        self.until = Until::Delivered(deadline);
    }

    /// Relays until the session ends. Cancel-safe.
    pub async fn run(&mut self) -> End {
        poll_fn(|context| self.poll(context)).await
    }

    /// Relays until the session ends, or until the client has ended its side of the stream and the
    /// session goes on: then the result is None. Cancel-safe. After a None, call [`run`](Self::run).
    pub async fn run_until_client_ends(&mut self) -> Option<End> {
        poll_fn(|context| match self.poll(context) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if self.to_kdb.is_read_out() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The client's connection and the connection to kdb+.
    pub fn connections(&self) -> (&C, &U) {
        (self.client, self.upstream)
    }

    /// Whether only kdb+ can still add something: hopend has written everything to both sockets, the end
    /// of the client's stream included.
    pub fn waits_for_kdb_only(&self) -> bool {
        let client_has_all = self.to_client.is_over()
            || self.to_client.is_drained() && !self.to_client.is_read_out();
        self.to_kdb.is_read_out()
            && self.to_kdb.outlet() == Outlet::Shut
            && client_has_all
            && !self.to_client.sender_has_ended()
    }

    /// Ends the session of a client that has closed its connection and receives nothing any more.
    pub fn lose_client(&mut self) -> End {
        self.count_losses();
        match (self.reason.take(), self.outstanding) {
            (None | Some(End::ClientClosed), 1..) => End::ClientGone(self.outstanding),
            (reason, _) => reason.unwrap_or(End::ClientClosed),
        }
    }

    /// Whether no side waits for anything and no message is under way.
    pub fn is_idle(&self) -> bool {
        let to_client_is_quiet = self.client_is_gone() || self.to_client.is_quiet();
        self.outstanding == 0 && self.callbacks == 0 && self.to_kdb.is_quiet() && to_client_is_quiet
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let polled = self.take_turn(context);
        if let Some(memory) = &self.memory {
            memory.settle();
        }
        polled
    }

    fn take_turn(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.written = 0;
        for _ in 0..STEPS_IN_A_ROW {
            if self.written >= BYTES_IN_A_ROW {
                break;
            }
            let now = Instant::now();
            match self.step(context, now) {
                Step::Progress => self.note_progress(now),
                Step::Still => match self.poll_timer(context, now) {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                },
                Step::Over(end) => {
                    self.count_losses();
                    return Poll::Ready(self.reason.take().unwrap_or(end));
                }
            }
        }
        // A session that moves gigabytes lets others go on in between, also those whose sockets the
        // runtime has not looked at. A plain wake-up would come before that look.
        let _ = pin!(yield_now()).poll(context);
        Poll::Pending
    }

    fn step(&mut self, context: &mut Context<'_>, now: Instant) -> Step {
        let mut progress = self.read_client(context, now);
        progress |= self.write_upstream(context, now);
        progress |= self.read_upstream(context);
        progress |= self.write_client(context, now);
        progress |= self.ping(now);
        if self.is_ending() && self.is_over() && self.has_delivered(now) {
            return Step::Over(End::ClientClosed);
        }
        let drained = self.until == Until::Idle && !progress && self.is_idle();
        if drained && self.has_delivered(now) {
            return Step::Over(End::Drained);
        }
        Step::of(progress)
    }

    fn note_progress(&mut self, now: Instant) {
        // Bytes that the relay discards because the receiver is gone are no progress.
        let discards = self.to_client.is_read_out() && self.written == 0;
        if !(self.to_client.is_over() || discards) {
            self.last_progress = now;
        }
    }

    /// Ready with an end when a side took too long to finish; ready without one when there is something
    /// to do: a ping, or a question to the kernel.
    fn poll_timer(&mut self, context: &mut Context<'_>, mut now: Instant) -> Poll<Option<End>> {
        loop {
            if self.is_ending()
                && let Some(end) = self.end_by_time(now, context)
            {
                return Poll::Ready(Some(end));
            }
            let Some(wanted) = self.next_wake(now) else {
                return Poll::Pending;
            };
            // To reset a timer that fires early is cheaper than to move it with each message.
            if self.timer.is_elapsed() || self.timer.deadline() > wanted {
                self.timer.as_mut().reset(wanted);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            now = Instant::now();
            if now >= wanted {
                return Poll::Ready(None);
            }
        }
    }

    /// When the relay has to look at its session again, if nothing arrives before.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        // A ping that is due already waits for the stream to move, not for the clock.
        let ping = self.keepalive.due().map(Instant::from_std);
        let ping = ping.filter(|&due| due > now);
        if self.is_ending() || self.keepalive.awaiting_answer() {
            return self.next_deadline().into_iter().chain(ping).min();
        }
        ping
    }

    fn client_is_gone(&self) -> bool {
        self.to_client.outlet() == Outlet::Broken
    }

    /// Whether nobody is left who could receive the client's messages.
    fn kdb_is_gone(&self) -> bool {
        matches!(
            self.reason,
            Some(End::UpstreamClosed { .. } | End::UpstreamCut { .. } | End::PingUnanswered { .. })
        )
    }

    /// Sync requests of the client without an answer, a held one included.
    fn unanswered(&self) -> u64 {
        let holds_request = self.to_kdb.holds_message() && self.to_kdb.holds_request();
        self.outstanding + u64::from(holds_request)
    }

    /// How much of kdb+'s current message the client has received. A client that is gone waits for nothing.
    fn client_position(&self) -> ClientPosition {
        if self.client_is_gone() || self.to_client.passed_whole_messages() {
            ClientPosition::BetweenMessages
        } else {
            ClientPosition::InsideMessage
        }
    }
}
