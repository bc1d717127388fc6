//! The relay between a client and kdb+. It passes on the bytes of both directions unchanged, in constant
//! memory. It adds keepalives to the stream to kdb+, and an error response of its own when a session fails.
//!
//! [`Relay::run`] owns the clock and the timer. The keepalive, the deadlines and the stopwatch get the time
//! as an argument.

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

/// How many steps a session takes before it lets other sessions run. A step is a read and a write in each
/// direction.
const STEPS_IN_A_ROW: usize = 8;
/// How many bytes a session writes before it lets other sessions run. Writing them takes about 0.1 ms.
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
    /// Bytes written in the current call of `take_turn`, in both directions.
    written: usize,
    /// The first event that ended the session. Later events are usually consequences of it.
    reason: Option<End>,
    delivery_check: Option<DeliveryCheck>,
    /// The account to which the relay charges its buffers. None without a memory budget.
    memory: Option<Arc<MemoryAccount>>,
}

/// The condition under which the relay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The client and kdb+ have both ended.
    BothSidesEnd,
    /// No request is outstanding, and no message is partly relayed.
    Idle,
    /// The client and kdb+ have received everything that hopend holds for them, or this time has come.
    Delivered(Instant),
}

/// The result of one step.
enum Step {
    /// The step read or wrote bytes, or changed the state of the relay.
    Progress,
    /// The relay has to wait for a socket or for the timer.
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
    /// A relay between a client and kdb+, after the handshakes with both. `early` holds the bytes that hopend
    /// has already read after the client's handshake.
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

    /// Charges the buffers to `account`, and settles the account whenever the session waits.
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

    /// Ends the session with [`End::Finished`] as soon as the client and kdb+ have received the bytes that
    /// the relay holds for them, or at the `deadline`. The relay does not read bytes that arrive later.
    /// Call [`run`](Self::run) again to wait for the end.
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
            Poll::Pending if self.to_kdb.has_stopped_reading() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The client's connection and the connection to kdb+.
    pub fn connections(&self) -> (&C, &U) {
        (self.client, self.upstream)
    }

    /// Whether the relay only waits for bytes from kdb+. hopend has then written everything that it has
    /// received to both sockets, and has sent the end of the client's stream to kdb+.
    pub fn waits_for_kdb_only(&self) -> bool {
        let client_has_all = self.to_client.has_stopped_writing()
            || self.to_client.is_drained() && !self.to_client.has_stopped_reading();
        self.to_kdb.has_stopped_reading()
            && self.to_kdb.outlet() == Outlet::Shut
            && client_has_all
            && !self.to_client.sender_has_ended()
    }

    /// Ends the session of a client that has closed its connection. The messages in the buffers count as
    /// lost.
    pub fn lose_client(&mut self) -> End {
        self.count_losses();
        match (self.reason.take(), self.outstanding) {
            (None | Some(End::ClientClosed), 1..) => End::ClientGone(self.outstanding),
            (reason, _) => reason.unwrap_or(End::ClientClosed),
        }
    }

    /// Whether no request of the client or of kdb+ is outstanding, and no message is partly relayed.
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
        // A session that relays gigabytes has to let other sessions run. `yield_now` runs this task again only
        // after the runtime has polled its sockets. After a plain wake-up it would run before that poll, and
        // sessions whose sockets became ready in the meantime would wait.
        let _ = pin!(yield_now()).poll(context);
        Poll::Pending
    }

    fn step(&mut self, context: &mut Context<'_>, now: Instant) -> Step {
        let mut progress = self.read_client(context, now);
        progress |= self.write_kdb(context, now);
        progress |= self.read_kdb(context);
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
        // Bytes that the relay reads only to discard them do not postpone a deadline.
        let discards = self.to_client.has_stopped_reading() && self.written == 0;
        if !(self.to_client.has_stopped_writing() || discards) {
            self.last_progress = now;
        }
    }

    /// Returns `Some` if a deadline has ended the session. Returns `None` if a ping or a check of the send
    /// queues is due.
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
            // A timer that sometimes fires early costs less than one that is moved with each message.
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

    /// When the timer has to wake the relay, if no socket wakes it before.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        // A ping that is already due waits for the state of the stream to change, not for the timer.
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

    /// Whether kdb+ can no longer receive the client's messages.
    fn kdb_is_gone(&self) -> bool {
        matches!(
            self.reason,
            Some(End::UpstreamClosed { .. } | End::UpstreamCut { .. } | End::PingUnanswered { .. })
        )
    }

    /// The number of the client's sync requests without an answer. It includes one that the relay holds back.
    fn unanswered(&self) -> u64 {
        let holds_request = self.to_kdb.holds_message() && self.to_kdb.holds_request();
        self.outstanding + u64::from(holds_request)
    }

    /// How much of kdb+'s current message the client has received. A client whose connection is broken
    /// counts as between messages.
    fn client_position(&self) -> ClientPosition {
        if self.client_is_gone() || self.to_client.passed_whole_messages() {
            ClientPosition::BetweenMessages
        } else {
            ClientPosition::InsideMessage
        }
    }
}
