//! The two directions of a session, once it is open: byte for byte, in constant memory, with
//! keepalives towards the cluster only.

mod end;
pub mod keepalive;
mod lane;
mod meters;
mod stopwatch;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config;
use crate::q::frame::{Header, MessageType};
use crate::q::message::error_response;

pub use end::End;
use keepalive::{Keepalive, Stream};
use lane::{Lane, Verdict};
pub use meters::{Direction, Meters};
use stopwatch::Stopwatch;

/// How long a client may take to close after it was sent the end of the stream.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a cluster may take to close after it was sent the end of the stream and owes no answer:
/// q may be busy with somebody else's query and has yet to read the client's last messages.
pub const UPSTREAM_CLOSE_TIMEOUT: Duration = Duration::from_secs(300);

/// Steps, of a read and a write each way, before it is another session's turn.
const STEPS_IN_A_ROW: usize = 8;
/// Bytes written in a row before it is another session's turn: about 0.1 ms.
const BYTES_IN_A_ROW: usize = 128 * 1024;

/// What the relay of one session needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Pings towards the cluster.
    pub keepalive: config::Keepalive,
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
}

/// Whether a step moved anything, or the session is over at once.
type Step = Result<bool, End>;

impl<'a, C, U> Relay<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
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
        }
    }

    /// From now on the session ends as soon as nothing is outstanding.
    pub fn drain(&mut self) {
        self.draining = true;
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
        self.up.read_done
            && self.up.write_done
            && self.down.is_drained()
            && !self.down.read_done
            && !self.down.write_done
    }

    /// The client has closed, and takes nothing in any more.
    pub fn lose_client(&mut self) -> End {
        match (self.reason.take(), self.outstanding) {
            (None | Some(End::ClientClosed), 1..) => End::ClientGone(self.outstanding),
            (reason, _) => reason.unwrap_or(End::ClientClosed),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.written = 0;
        for _ in 0..STEPS_IN_A_ROW {
            if self.written >= BYTES_IN_A_ROW {
                break;
            }
            match self.step(context) {
                Ok(true) => self.last_progress = Instant::now(),
                Ok(false) => match self.poll_timer(context) {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                },
                // A message that was torn for the client is told to it, whatever came before.
                Err(end) if end.resets_client() => return Poll::Ready(end),
                Err(end) => return Poll::Ready(self.reason.take().unwrap_or(end)),
            }
        }
        // A session that moves gigabytes lets others go on in between, those too whose sockets have
        // yet to be looked at: a plain wake-up would come before that.
        let _ = pin!(yield_now()).poll(context);
        Poll::Pending
    }

    fn step(&mut self, context: &mut Context<'_>) -> Step {
        let mut progress = self.read_client(context)?;
        progress |= self.write_upstream(context);
        progress |= self.read_upstream(context)?;
        progress |= self.write_client(context)?;
        progress |= self.ping();
        if self.is_torn() && self.down.is_drained() {
            return Err(self.reason.take().unwrap_or(End::Cut));
        }
        if self.up.write_done && self.down.write_done {
            return Err(End::ClientClosed);
        }
        if self.draining && !progress && self.is_idle() {
            return Err(End::Drained);
        }
        Ok(progress)
    }

    fn read_client(&mut self, context: &mut Context<'_>) -> Step {
        if self.up.write_done && !self.down.is_drained() {
            // The cluster hears nothing any more, and the client has yet to take what it said last: one
            // that only writes waits, rather than writes into nothing.
            return Ok(false);
        }
        let progress = match self.up.poll_read(context, Pin::new(&mut *self.client)) {
            Poll::Pending => false,
            Poll::Ready(Ok(count)) => {
                if count == 0 {
                    self.reason.get_or_insert(End::ClientClosed);
                } else {
                    self.stopwatch.heard(self.meters.active());
                }
                true
            }
            Poll::Ready(Err(error)) => return Err(End::ClientLost(error)),
        };
        if self.up.write_done {
            // The cluster hears nothing any more; reading on lets the client finish.
            self.up.discard();
            return Ok(progress | self.up.has_room_again());
        }
        let (keepalive, meters, stopwatch) = (&self.keepalive, self.meters, &mut self.stopwatch);
        let (outstanding, asked) = (&mut self.outstanding, &mut self.asked);
        let cleared = self.up.clear(|header: Header| {
            match header.message_type {
                MessageType::Response => *asked = asked.saturating_sub(1),
                _ if keepalive.awaiting_answer() => return Verdict::Hold,
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
            Ok(()) => Ok(progress | self.up.has_room_again()),
            Err(error) => {
                let torn = !self.down.passed_whole_messages();
                if torn {
                    return Err(End::ClientMessage { error, torn });
                }
                if self.up.waiting_for_answer() {
                    self.outstanding += 1;
                }
                let text = format!("hopend: {error}");
                self.conclude(End::ClientMessage { error, torn }, &text);
                self.up.stop_reading();
                Ok(true)
            }
        }
    }

    fn write_upstream(&mut self, context: &mut Context<'_>) -> bool {
        if self.up.write_done {
            return false;
        }
        match self.up.poll_write(context, Pin::new(&mut *self.upstream)) {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                self.meters.to_cluster.add_bytes(count);
                self.written += count;
                self.keepalive.sent(Instant::now().into_std());
                return true;
            }
            Poll::Ready(Err(_)) => {
                // What became of the cluster is told by reading, which may bring its last words.
                self.up.write_done = true;
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
        let shut = Pin::new(&mut *self.upstream).poll_shutdown(context);
        self.up.write_done = shut.is_ready();
        self.up.write_done
    }

    fn read_upstream(&mut self, context: &mut Context<'_>) -> Step {
        let progress = match self.down.poll_read(context, Pin::new(&mut *self.upstream)) {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) => {
                self.upstream_ended(None)?;
                true
            }
            Poll::Ready(Ok(_)) => true,
            Poll::Ready(Err(error)) => {
                self.upstream_ended(Some(error))?;
                true
            }
        };
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
            meters.to_client.add_message(header.message_type);
            Verdict::Pass
        });
        match cleared {
            Ok(()) => Ok(progress | self.down.has_room_again()),
            Err(error) => {
                let text = format!("hopend: the cluster sent what is no q message: {error}");
                self.conclude(End::UpstreamMessage(error), &text);
                Ok(true)
            }
        }
    }

    fn write_client(&mut self, context: &mut Context<'_>) -> Step {
        if self.down.write_done {
            return Ok(false);
        }
        match self.down.poll_write(context, Pin::new(&mut *self.client)) {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                self.meters.to_client.add_bytes(count);
                self.written += count;
                if let Some(waited) = self.stopwatch.written(self.meters.active()) {
                    self.meters.add_round_trip(waited);
                }
                return Ok(true);
            }
            Poll::Ready(Err(error)) => return Err(End::ClientLost(error)),
            Poll::Pending => return Ok(false),
        }
        if !self.down.read_done || self.is_torn() {
            return Ok(false);
        }
        match Pin::new(&mut *self.client).poll_shutdown(context) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::ClientLost(error)),
            Poll::Ready(Ok(())) => {
                self.down.write_done = true;
                Ok(true)
            }
        }
    }

    /// The cluster's stream is over. A client that has had whole messages only can be told; one that
    /// is inside of one can't.
    fn upstream_ended(&mut self, error: Option<io::Error>) -> Result<(), End> {
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
            return Ok(());
        }
        let text = format!("hopend: {end}");
        self.conclude(end, &text);
        Ok(())
    }

    /// Nothing more comes from the cluster: a client that waits for an answer gets `text` as q's
    /// error, then the end of the stream.
    fn conclude(&mut self, end: End, text: &str) {
        let tell = self.waiting_for_answer() > 0 && self.down.passed_whole_messages();
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
        self.down.stop_reading();
        if tell {
            self.down.append(&error_response(text));
        }
    }

    /// Whether the cluster has ended inside a message of which the client gets a part.
    fn is_torn(&self) -> bool {
        matches!(self.reason, Some(End::UpstreamCut { torn: true, .. }))
    }

    fn cluster_is_gone(&self) -> bool {
        matches!(
            self.reason,
            Some(End::UpstreamClosed { .. } | End::UpstreamCut { .. })
        )
    }

    fn waiting_for_answer(&self) -> u64 {
        self.outstanding + u64::from(self.up.holds_message() && self.up.waiting_for_answer())
    }

    /// Whether nobody waits for anything, and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.outstanding == 0 && self.asked == 0 && self.up.is_quiet() && self.down.is_quiet()
    }

    /// Puts a ping in when one is due and the stream is fit for it.
    fn ping(&mut self) -> bool {
        if self.up.read_done || self.up.write_done || self.down.read_done {
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

    /// Ready with an end when a side that has to finish took too long; ready with nothing when a
    /// ping has become due.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<Option<End>> {
        loop {
            let now = Instant::now();
            if self
                .close_deadline()
                .is_some_and(|deadline| deadline <= now)
            {
                return Poll::Ready(Some(self.reason.take().unwrap_or(End::ClientClosed)));
            }
            // A ping that is due already waits for the stream to move, not for the clock.
            let ping = self
                .keepalive
                .due()
                .map(Instant::from_std)
                .filter(|&due| due > now);
            let Some(wanted) = self.close_deadline().into_iter().chain(ping).min() else {
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

    /// When the side that has not finished yet is given up. Never while there is something left to
    /// write to either side, nor while the cluster owes an answer to a client that has only closed
    /// its sending side.
    fn close_deadline(&self) -> Option<Instant> {
        let write_failed = self.up.write_done && !self.up.read_done;
        if self.down.write_done || (write_failed && self.down.is_drained()) {
            // What the client sent before is for a cluster that lives, and may be busy.
            let busy = !self.up.is_drained() && !self.up.write_done && !self.cluster_is_gone();
            let limit = if busy {
                UPSTREAM_CLOSE_TIMEOUT
            } else {
                CLIENT_CLOSE_TIMEOUT
            };
            return Some(self.last_progress + limit);
        }
        let sent_all = self.up.read_done && self.up.write_done && self.down.is_drained();
        (sent_all && self.outstanding == 0).then(|| self.last_progress + UPSTREAM_CLOSE_TIMEOUT)
    }
}
