//! The two directions of a session, once it is open: byte for byte, in constant memory, with
//! keepalives towards the cluster only.

mod end;
pub mod keepalive;
mod lane;
mod meters;
mod send_queue;
mod stopwatch;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::budget::{LEAN_DIRECTION, MemoryAccount};
use crate::buffer::Buffer;
use q_ipc::frame::{Header, HeaderError, MessageType};
use q_ipc::message::error_response;

pub use end::End;
pub use keepalive::{Keepalive, KeepaliveMode, KeepaliveSettings, Stream};
use lane::{Lane, Outlet, Verdict};
pub use meters::{Direction, Loss, Meters};
pub use send_queue::SendQueue;
use stopwatch::Stopwatch;

/// How long a client may take to close after it was sent the end of the stream.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a cluster may take to close after its kernel has acknowledged everything and the end of the
/// stream, and it owes no answer. q may be busy with another query and has yet to read its input.
pub const UPSTREAM_CLOSE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long one side may take no byte of what hopend holds for it once the other side has ended. A side
/// that takes nothing for so long hangs; what hopend holds for it is lost and counted. While both sides
/// are open there is no limit.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How often the kernel is asked whether a peer has taken what was written to it: at first, and at last,
/// each time after twice as long.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Steps, of a read and a write each way, before it is another session's turn.
const STEPS_IN_A_ROW: usize = 8;
/// Bytes written in a row before it is another session's turn: about 0.1 ms.
const BYTES_IN_A_ROW: usize = 128 * 1024;

/// What the relay of one session needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Pings towards the cluster.
    pub keepalive: KeepaliveSettings,
    /// Bytes of the longest message, either way.
    pub max_message: Option<u64>,
}

/// A session's relay. Its state is all here, so [`Relay::run`] may be dropped and called again.
#[derive(Debug)]
pub struct Relay<'a, C, U> {
    client: &'a mut C,
    upstream: &'a mut U,
    up: Lane,
    down: Lane,
    keepalive: Keepalive,
    /// Sync requests of the client that the cluster has not answered.
    outstanding: u64,
    /// Sync requests of the cluster that the client has not answered.
    asked: u64,
    draining: bool,
    meters: &'a Meters,
    stopwatch: Stopwatch,
    timer: Pin<Box<Sleep>>,
    last_progress: Instant,
    /// Bytes written to either side in this turn.
    written: usize,
    /// What ended the session first; what follows it is only tidying up.
    reason: Option<End>,
    /// Whoever relays has been told that the client has ended.
    told: bool,
    /// The cluster's stream has ended: nothing more can be read from it.
    upstream_ended: bool,
    finish: Option<Finish>,
    looks: Option<Looks>,
    /// What its buffers are charged to, where anybody counts.
    memory: Option<Arc<MemoryAccount>>,
}

/// An end that hopend decided on, while it delivers what it has received.
#[derive(Debug)]
struct Finish {
    deadline: Instant,
}

/// The wait for a kernel to take what was written.
#[derive(Debug)]
struct Looks {
    next: Instant,
    pause: Duration,
    /// What it had not taken at the last look.
    unsent: u64,
}

/// Whether a step moved anything, or the session is over at once.
type Step = Result<bool, End>;

impl<'a, C, U> Relay<'a, C, U>
where
    C: AsyncRead + AsyncWrite + SendQueue + Unpin,
    U: AsyncRead + AsyncWrite + SendQueue + Unpin,
{
    /// A relay between a client and a cluster that have both logged in. `early` is what the client
    /// sent behind its handshake.
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
            up: Lane::new(plan.max_message, early),
            down: Lane::new(plan.max_message, &[]),
            keepalive: Keepalive::new(&plan.keepalive, now.into_std()),
            outstanding: 0,
            asked: 0,
            draining: false,
            meters,
            stopwatch: Stopwatch::default(),
            timer: Box::pin(sleep_until(now)),
            last_progress: now,
            written: 0,
            reason: None,
            told: false,
            upstream_ended: false,
            finish: None,
            looks: None,
            memory: None,
        }
    }

    /// Charges its buffers to `account`, and settles what the account's connections hold whenever the
    /// session waits.
    pub fn charge(&mut self, account: &Arc<MemoryAccount>) {
        self.up.charge(account);
        self.down.charge(account);
        self.memory = Some(Arc::clone(account));
    }

    /// From now on the session ends as soon as nothing is outstanding.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends the session for the reason `end` as soon as both sides have what was received for them, and
    /// at the `deadline` at the latest. Nothing that comes after this is relayed. Call
    /// [`run`](Self::run) again for the end.
    pub fn finish(&mut self, end: End, deadline: Instant) {
        self.reason = Some(end);
        self.finish = Some(Finish { deadline });
    }

    /// Relays until the session ends. Cancel-safe.
    pub async fn run(&mut self) -> End {
        poll_fn(|context| self.poll(context)).await
    }

    /// The same, but returns once without an end: when the client has ended its side of the stream
    /// and the session goes on. Cancel-safe.
    pub async fn run_until_client_ends(&mut self) -> Option<End> {
        poll_fn(|context| match self.poll(context) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if self.up.read_done && !self.told => {
                self.told = true;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The client's connection and the cluster's.
    pub fn connections(&self) -> (&C, &U) {
        (self.client, self.upstream)
    }

    /// Whether all that there was to say to either side has been handed to its socket, the end of
    /// what the client says included, and only the cluster may have something to add.
    pub fn is_up_to_the_cluster(&self) -> bool {
        let client_has_all = self.down.is_over() || self.down.is_drained() && !self.down.read_done;
        self.up.read_done
            && self.up.outlet == Outlet::Shut
            && client_has_all
            && !self.upstream_ended
    }

    /// The client has closed, and takes nothing in any more.
    pub fn lose_client(&mut self) -> End {
        self.count_losses();
        match (self.reason.take(), self.outstanding) {
            (None | Some(End::ClientClosed), 1..) => End::ClientGone(self.outstanding),
            (reason, _) => reason.unwrap_or(End::ClientClosed),
        }
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
            match self.step(context) {
                Ok(true) => {
                    // What is thrown away for want of a receiver is no progress.
                    let discards = self.down.read_done && self.written == 0;
                    if !(self.down.is_over() || discards) {
                        self.last_progress = Instant::now();
                    }
                }
                Ok(false) => match self.poll_timer(context) {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                },
                Err(end) => {
                    self.count_losses();
                    return Poll::Ready(self.reason.take().unwrap_or(end));
                }
            }
        }
        // A session that moves gigabytes lets others go on in between, those too whose sockets have
        // yet to be looked at: a plain wake-up would come before that.
        let _ = pin!(yield_now()).poll(context);
        Poll::Pending
    }

    fn step(&mut self, context: &mut Context<'_>) -> Step {
        let mut progress = self.read_client(context);
        progress |= self.write_upstream(context);
        progress |= self.read_upstream(context);
        progress |= self.write_client(context);
        progress |= self.ping();
        if self.is_ending() && self.is_over() && self.has_delivered() {
            return Err(End::ClientClosed);
        }
        if self.draining && !progress && self.is_idle() && self.has_delivered() {
            return Err(End::Drained);
        }
        Ok(progress)
    }

    /// Whether nothing is left to read, to write or to wait for, but for the kernels.
    fn is_over(&self) -> bool {
        if self.resets_client() {
            let client_has_all = self.down.read_done && self.down.is_drained();
            return (self.up.is_over() || self.cluster_is_gone())
                && (client_has_all || self.client_is_gone());
        }
        // A cluster that hangs may not even take the end of the stream.
        let hangs = self.up.read_done && matches!(self.reason, Some(End::PingUnanswered { .. }));
        let nothing_more = self.upstream_ended || self.up.outlet == Outlet::Broken;
        (self.up.is_over() || hangs)
            && self.down.is_over()
            && (nothing_more || hangs || self.finish.is_some())
    }

    fn read_client(&mut self, context: &mut Context<'_>) -> bool {
        if self.up.is_over() && !self.down.is_drained() {
            // The cluster hears nothing any more, and the client has yet to take what it said last: one
            // that only writes waits, rather than writes into nothing.
            return false;
        }
        let progress = match self.up.poll_read(context, Pin::new(&mut *self.client)) {
            Poll::Pending => {
                // What comes from now on is not received any more.
                self.up.read_done |= self.finish.is_some() && !self.up.is_full();
                false
            }
            Poll::Ready(Ok(0)) => {
                self.reason.get_or_insert(End::ClientClosed);
                true
            }
            Poll::Ready(Ok(_)) => {
                self.stopwatch.heard(self.meters.active());
                true
            }
            Poll::Ready(Err(error)) => {
                self.up.read_done = true;
                self.break_client(error);
                true
            }
        };
        if self.up.is_over() {
            // The cluster hears nothing any more; reading on lets the client finish.
            let lost = self.up.discard();
            self.meters.to_cluster.add_lost(Loss::ReceiverGone, lost);
            return progress | self.up.has_room_again();
        }
        let (keepalive, meters, stopwatch) =
            (&mut self.keepalive, self.meters, &mut self.stopwatch);
        let (outstanding, asked) = (&mut self.outstanding, &mut self.asked);
        let cleared = self.up.clear(|header: Header| {
            match header.message_type {
                MessageType::Response => *asked = asked.saturating_sub(1),
                _ if keepalive.awaiting_answer() => {
                    keepalive.blocked(Instant::now().into_std());
                    return Verdict::Hold;
                }
                MessageType::Sync => {
                    stopwatch.asked(*outstanding);
                    *outstanding += 1;
                    meters.set_outstanding(*outstanding);
                }
                MessageType::Async => {}
            }
            meters.to_cluster.add_message(header.message_type);
            Verdict::Pass
        });
        match cleared {
            Ok(()) => progress | self.up.has_room_again(),
            Err(error) => {
                self.refuse_message(error);
                true
            }
        }
    }

    /// The client sent what is no message, or one that is too long. The cluster gets what came before.
    fn refuse_message(&mut self, error: HeaderError) {
        let torn = !self.client_is_gone() && !self.down.passed_whole_messages();
        if torn {
            // Inside a message of the cluster's no error can be told, only a reset.
            self.down.stop_reading();
            self.reason = Some(End::ClientMessage { error, torn });
        } else {
            if self.up.waiting_for_answer() {
                self.outstanding += 1;
            }
            let text = format!("hopend: {error}");
            self.conclude(End::ClientMessage { error, torn }, &text);
        }
        self.up.stop_reading();
    }

    /// The client's connection broke: it takes nothing more. What it sent before is read to its end.
    fn break_client(&mut self, error: io::Error) {
        let lost = self.down.discard();
        self.meters.to_client.add_lost(Loss::ReceiverGone, lost);
        self.down.outlet = Outlet::Broken;
        self.reason.get_or_insert(End::ClientLost(error));
        self.last_progress = Instant::now();
    }

    fn write_upstream(&mut self, context: &mut Context<'_>) -> bool {
        if self.up.is_over() {
            return false;
        }
        match self.up.poll_write(context, Pin::new(&mut *self.upstream)) {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                self.meters.to_cluster.add_bytes(count);
                self.written += count;
                let now = Instant::now();
                self.keepalive.sent(now.into_std());
                if self.down.is_over() {
                    self.last_progress = now;
                }
                return true;
            }
            Poll::Ready(Err(_)) => {
                // What became of the cluster is told by reading, which may bring its last words.
                self.up.outlet = Outlet::Broken;
                return true;
            }
            Poll::Pending => return false,
        }
        if !self.up.read_done || self.up.holds_message() {
            return false;
        }
        if self.up.clear_rest() {
            return true;
        }
        match Pin::new(&mut *self.upstream).poll_shutdown(context) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) => self.up.outlet = Outlet::Shut,
            Poll::Ready(Err(_)) => self.up.outlet = Outlet::Broken,
        }
        self.last_progress = Instant::now();
        true
    }

    fn read_upstream(&mut self, context: &mut Context<'_>) -> bool {
        if self.down.read_done {
            return self.hear_out(context);
        }
        let progress = match self.down.poll_read(context, Pin::new(&mut *self.upstream)) {
            Poll::Pending => {
                // A held message of the client's needs the answer to the ping first.
                let finished = self.finish.is_some() && !self.up.holds_message();
                self.down.read_done |= finished && !self.down.is_full();
                false
            }
            Poll::Ready(Ok(0)) => {
                self.end_upstream(None);
                true
            }
            Poll::Ready(Ok(_)) => true,
            Poll::Ready(Err(error)) => {
                self.end_upstream(Some(error));
                true
            }
        };
        let client_is_gone = self.client_is_gone();
        let (keepalive, meters) = (&mut self.keepalive, self.meters);
        let stopwatch = &mut self.stopwatch;
        let (outstanding, asked) = (&mut self.outstanding, &mut self.asked);
        let cleared = self.down.clear(|header: Header| {
            match header.message_type {
                MessageType::Response if keepalive.awaiting_answer() => {
                    keepalive.answered();
                    return Verdict::Swallow;
                }
                MessageType::Response => {
                    *outstanding = outstanding.saturating_sub(1);
                    stopwatch.answered();
                    meters.set_outstanding(*outstanding);
                }
                MessageType::Sync => *asked += 1,
                MessageType::Async => {}
            }
            if !client_is_gone {
                meters.to_client.add_message(header.message_type);
            }
            Verdict::Pass
        });
        if client_is_gone {
            let lost = self.down.discard();
            self.meters.to_client.add_lost(Loss::ReceiverGone, lost);
        }
        match cleared {
            Ok(()) => progress | self.down.has_room_again(),
            Err(error) => {
                let text = format!("hopend: the cluster sent what is no q message: {error}");
                self.conclude(End::UpstreamMessage(error), &text);
                true
            }
        }
    }

    /// Reads what the cluster says behind its last message for the client and throws it away: a kdb+
    /// that nobody reads from stops reading, and unread input would turn the close into a reset.
    fn hear_out(&mut self, context: &mut Context<'_>) -> bool {
        self.down.give_back();
        if self.upstream_ended {
            return false;
        }
        let mut scratch = Buffer::default();
        let mut space = ReadBuf::new(scratch.lend(LEAN_DIRECTION));
        match Pin::new(&mut *self.upstream).poll_read(context, &mut space) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !space.filled().is_empty() => {}
            Poll::Ready(_) => self.upstream_ended = true,
        }
        true
    }

    fn write_client(&mut self, context: &mut Context<'_>) -> bool {
        if self.down.is_over() {
            return false;
        }
        match self.down.poll_write(context, Pin::new(&mut *self.client)) {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                self.meters.to_client.add_bytes(count);
                self.written += count;
                if let Some(waited) = self.stopwatch.written(self.meters.active()) {
                    self.meters.add_round_trip(waited);
                }
                return true;
            }
            Poll::Ready(Err(error)) => {
                self.break_client(error);
                return true;
            }
            Poll::Pending => return false,
        }
        if !self.down.read_done || self.resets_client() {
            return false;
        }
        match Pin::new(&mut *self.client).poll_shutdown(context) {
            Poll::Pending => false,
            Poll::Ready(Err(error)) => {
                self.break_client(error);
                true
            }
            Poll::Ready(Ok(())) => {
                self.down.outlet = Outlet::Shut;
                self.last_progress = Instant::now();
                true
            }
        }
    }

    /// The cluster's stream is over. A client that has had whole messages only can be told; one that
    /// is inside of one can't.
    fn end_upstream(&mut self, error: Option<io::Error>) {
        self.upstream_ended = true;
        if self.client_is_gone() || self.finish.is_some() {
            self.down.stop_reading();
            return;
        }
        let torn = !self.down.passed_whole_messages();
        let end = if self.down.ends_between_messages() {
            let outstanding = self.waiting_for_answer();
            End::UpstreamClosed { outstanding, error }
        } else {
            End::UpstreamCut { error, torn }
        };
        if torn {
            // Whole messages may stand before it, which a busy client has yet to take.
            self.down.stop_reading();
            self.reason = Some(end);
            return;
        }
        let text = format!("hopend: {end}");
        self.conclude(end, &text);
    }

    /// Nothing more comes from the cluster: a client that waits for an answer gets `text` as q's
    /// error, then the end of the stream.
    fn conclude(&mut self, end: End, text: &str) {
        self.tell(text);
        match (&self.reason, &end) {
            // A client that only closed its sending side still waited: that is the news.
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

    fn tell(&mut self, text: &str) {
        let waits = self.waiting_for_answer() > 0 && !self.down.is_over();
        self.down.stop_reading();
        if waits && self.down.passed_whole_messages() {
            self.down.append(&error_response(text));
        }
    }

    /// Whether the client is to see a reset once it has taken what stands before it.
    fn resets_client(&self) -> bool {
        self.reason.as_ref().is_some_and(End::resets_client)
    }

    fn client_is_gone(&self) -> bool {
        self.down.outlet == Outlet::Broken
    }

    /// Whether there is nobody to deliver the client's messages to.
    fn cluster_is_gone(&self) -> bool {
        matches!(
            self.reason,
            Some(End::UpstreamClosed { .. } | End::UpstreamCut { .. } | End::PingUnanswered { .. })
        )
    }

    fn waiting_for_answer(&self) -> u64 {
        self.outstanding + u64::from(self.up.holds_message() && self.up.waiting_for_answer())
    }

    /// Whether nobody waits for anything, and nothing is under way.
    pub fn is_idle(&self) -> bool {
        let down_is_quiet = self.client_is_gone() || self.down.is_quiet();
        self.outstanding == 0 && self.asked == 0 && self.up.is_quiet() && down_is_quiet
    }

    /// Whether the kernels of both sides have acknowledged all that was written. Asks hopend's own
    /// kernel, and where the answer is no, sets the timer for the next time.
    pub fn has_delivered(&mut self) -> bool {
        let now = Instant::now();
        if self.looks.as_ref().is_some_and(|looks| now < looks.next) {
            return false;
        }
        let unsent = self.unsent();
        if unsent == 0 {
            if self.looks.take().is_some() {
                self.last_progress = now;
            }
            return true;
        }
        let (first, last) = LOOKS;
        let pause = match &self.looks {
            Some(looks) if looks.unsent == unsent => (2 * looks.pause).min(last),
            _ => {
                self.last_progress = now;
                first
            }
        };
        self.looks = Some(Looks {
            next: now + pause,
            pause,
            unsent,
        });
        false
    }

    /// Bytes that wait in the kernel for a side that may still take them.
    fn unsent(&self) -> u64 {
        self.unsent_to_cluster() + self.unsent_to_client()
    }

    fn unsent_to_cluster(&self) -> u64 {
        if self.upstream_ended || self.up.outlet == Outlet::Broken || self.cluster_is_gone() {
            return 0;
        }
        let end = u64::from(self.up.outlet == Outlet::Shut);
        self.upstream.unsent().saturating_sub(end)
    }

    fn unsent_to_client(&self) -> u64 {
        if self.client_is_gone() {
            return 0;
        }
        let end = u64::from(self.down.outlet == Outlet::Shut);
        self.client.unsent().saturating_sub(end)
    }

    /// Counts the messages that a session leaves behind in its lanes.
    fn count_losses(&mut self) {
        let cluster_is_gone = self.upstream_ended || self.up.outlet == Outlet::Broken;
        let client_is_gone = self.client_is_gone();
        for (lane, direction, receiver_is_gone) in [
            (&mut self.up, &self.meters.to_cluster, cluster_is_gone),
            (&mut self.down, &self.meters.to_client, client_is_gone),
        ] {
            let cause = if receiver_is_gone {
                Loss::ReceiverGone
            } else {
                Loss::Deadline
            };
            direction.add_lost(cause, lane.discard());
        }
    }

    /// A deadline ends the session. What was received is counted as lost, up to what the senders'
    /// connections hold by now; what the receivers' kernels have not taken is counted in bytes.
    fn give_up(&mut self, context: &mut Context<'_>) -> End {
        let (up, down) = (self.unsent_to_cluster(), self.unsent_to_client());
        self.meters.to_cluster.add_unacknowledged(up);
        self.meters.to_client.add_unacknowledged(down);
        self.count_losses();
        while let Poll::Ready(Ok(1..)) = self.up.poll_read(context, Pin::new(&mut *self.client)) {
            self.count_losses();
        }
        while let Poll::Ready(Ok(1..)) = self.down.poll_read(context, Pin::new(&mut *self.upstream))
        {
            self.count_losses();
        }
        self.reason.take().unwrap_or(End::ClientClosed)
    }

    /// Ends the session of a cluster that leaves a sync ping without an answer while messages of the
    /// client wait behind it.
    fn give_up_answer(&mut self) {
        let limit = self.keepalive.answer_timeout().unwrap_or_default();
        let torn = !self.client_is_gone() && !self.down.passed_whole_messages();
        let end = End::PingUnanswered { limit, torn };
        if torn {
            self.down.stop_reading();
        } else {
            self.tell(&format!("hopend: {end}"));
        }
        if self.finish.is_none() {
            self.reason = Some(end);
        }
        let lost = self.up.discard();
        self.meters.to_cluster.add_lost(Loss::Deadline, lost);
        self.up.stop_reading();
        self.keepalive.answered();
    }

    /// Puts a ping in when one is due and the stream is fit for it.
    fn ping(&mut self) -> bool {
        if let Some(due) = self.keepalive.answer_due()
            && due <= Instant::now().into_std()
        {
            self.give_up_answer();
            return true;
        }
        if self.up.read_done || self.up.is_over() || self.down.read_done {
            return false;
        }
        let stream = Stream {
            between_messages: self.up.between_messages(),
            outstanding: self.outstanding,
        };
        let Some(ping) = self.keepalive.poll(Instant::now().into_std(), stream) else {
            return false;
        };
        self.up.inject(&ping);
        self.meters.add_ping();
        true
    }

    /// Ready with an end when a side that has to finish took too long; ready with nothing when there is
    /// something to do: a ping, or a question to the kernel.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Option<End>> {
        loop {
            let now = Instant::now();
            if self.is_ending()
                && let Some(end) = self.end_by_time(now, context)
            {
                return Poll::Ready(Some(end));
            }
            // A ping that is due already waits for the stream to move, not for the clock.
            let mut wanted = self
                .keepalive
                .due()
                .map(Instant::from_std)
                .filter(|&due| due > now);
            if self.is_ending() || self.keepalive.awaiting_answer() {
                wanted = self.next_deadline().into_iter().chain(wanted).min();
            }
            let Some(wanted) = wanted else {
                return Poll::Pending;
            };
            // A timer that fires early is set anew then: cheaper than moving it with each message.
            if self.timer.is_elapsed() || self.timer.deadline() > wanted {
                self.timer.as_mut().reset(wanted);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= wanted {
                return Poll::Ready(None);
            }
        }
    }

    /// Whether a side has ended or is about to, so that deadlines run. Asked at each step.
    fn is_ending(&self) -> bool {
        self.reason.is_some()
            || self.finish.is_some()
            || self.looks.is_some()
            || self.up.is_over()
            || self.down.is_over()
    }

    /// The end, where a deadline has passed.
    #[cold]
    fn end_by_time(&mut self, now: Instant, context: &mut Context<'_>) -> Option<End> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(self.finish.as_ref().map(|finish| finish.deadline)) {
            return Some(self.give_up(context));
        }
        // The kernel may still hold what was written: then the wait is for that.
        if passed(self.close_deadline()) && (self.is_owed() || self.has_delivered()) {
            return Some(self.give_up(context));
        }
        if self.looks.as_ref().is_some_and(|looks| looks.next <= now) {
            self.has_delivered();
        }
        None
    }

    /// The next deadline of a session that ends, or that waits for the answer to a sync ping.
    #[cold]
    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.close_deadline(),
            self.finish.as_ref().map(|finish| finish.deadline),
            self.keepalive.answer_due().map(Instant::from_std),
            self.looks.as_ref().map(|looks| looks.next),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// When the side that has not finished yet is given up. Never while the cluster owes an answer to a
    /// client that has only closed its sending side.
    fn close_deadline(&self) -> Option<Instant> {
        if self.is_owed() {
            let ending = self.reason.is_some();
            return ending.then(|| self.last_progress + HANG_TIMEOUT);
        }
        let waits_for_cluster = self.up.outlet == Outlet::Shut
            && !self.upstream_ended
            && (self.outstanding == 0 || self.down.is_over());
        if waits_for_cluster {
            return Some(self.last_progress + UPSTREAM_CLOSE_TIMEOUT);
        }
        let waits_for_client = match self.down.outlet {
            Outlet::Open => self.up.outlet == Outlet::Broken && !self.up.read_done,
            Outlet::Shut => true,
            Outlet::Broken => false,
        };
        waits_for_client.then(|| self.last_progress + CLIENT_CLOSE_TIMEOUT)
    }

    /// Whether hopend holds something for a side that may still take it.
    fn is_owed(&self) -> bool {
        let up_is_quiet = !self.up.read_done && self.up.is_drained() && !self.up.holds_message();
        let owed_up = !self.up.is_over() && !self.cluster_is_gone() && !up_is_quiet;
        let owed_down = !self.down.is_over() && !self.down.is_drained();
        owed_up || owed_down || self.looks.is_some()
    }
}
