//! The schedule of keepalive messages (pings) to kdb+. It has no clock and does no I/O: the caller passes the
//! time and the state of the stream as arguments.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use q_ipc::frame::MessageType;
use q_ipc::message;

/// The largest share of an interval that a random draw takes off. Without it, connections that opened
/// together would ping together.
const JITTER: f64 = 0.2;
/// How many moments for pings an interval has. All connections of the process share these moments, so that
/// the pings of many idle connections cost one wake-up. The number is high enough to spread thousands of
/// connections, so that their pings are no burst.
const MOMENTS_PER_INTERVAL: u32 = 256;
/// The longest time from one shared moment to the next.
const MAX_SPACING: Duration = Duration::from_millis(250);

/// The keepalive of an endpoint: the message that hopend sends to kdb+, and the silence after which it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepaliveSettings {
    /// No keepalive.
    Off,
    /// hopend sends a message to kdb+ whenever the client has sent nothing for a while.
    On {
        /// The longest time without a byte to kdb+. A random part of up to 20% is taken off each time.
        every: Duration,
        /// The q text that kdb+ evaluates. The empty string has no effect in kdb+.
        message: String,
        /// Whether kdb+ has to answer.
        mode: KeepaliveMode,
    },
}

/// The message type of a keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepaliveMode {
    /// An async message, which kdb+ does not answer. hopend also sends it while a request is outstanding.
    Async,
    /// A sync message. hopend sends it only while no request is outstanding, and keeps the answer from the
    /// client.
    Sync {
        /// How long a message of the client may wait for the answer to the ping. Then the session ends.
        answer_timeout: Duration,
    },
}

/// The schedule of pings of one connection.
#[derive(Debug)]
pub struct Keepalive {
    plan: Option<Plan>,
    /// The current interval: `every` less its random part.
    interval: Duration,
    /// When the next ping is due. It is computed on each send, because reads are more frequent than sends.
    next: Instant,
    pong: Pong,
}

/// The state of the answer to a sync ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pong {
    /// No sync ping is without an answer.
    NotExpected,
    /// kdb+ has not answered yet.
    Expected,
    /// kdb+ has not answered yet, and a message of the client has waited since this time.
    Blocks(Instant),
}

#[derive(Debug)]
struct Plan {
    every: Duration,
    /// The time from one shared moment to the next, in nanoseconds.
    spacing_ns: u64,
    mode: KeepaliveMode,
    ping: Vec<u8>,
}

/// The state of the stream to kdb+, as far as it decides whether a ping may go out.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Whether hopend has written all bytes that it let through to kdb+'s socket, and the last one ended a
    /// message.
    pub between_messages: bool,
    /// The number of the client's sync requests without an answer.
    pub outstanding: u64,
}

impl Keepalive {
    /// The schedule for a connection that opened at `now`.
    pub fn new(plan: &KeepaliveSettings, now: Instant) -> Self {
        let plan = match plan {
            KeepaliveSettings::Off => None,
            KeepaliveSettings::On {
                every,
                message,
                mode,
            } => Some(Plan {
                every: *every,
                spacing_ns: nanoseconds((*every / MOMENTS_PER_INTERVAL).min(MAX_SPACING)).max(1),
                mode: *mode,
                ping: match mode {
                    KeepaliveMode::Async => message::text(MessageType::Async, message),
                    KeepaliveMode::Sync { .. } => message::text(MessageType::Sync, message),
                },
            }),
        };
        let mut keepalive = Self {
            plan,
            interval: Duration::ZERO,
            next: now,
            pong: Pong::NotExpected,
        };
        keepalive.draw_interval();
        keepalive.sent(now);
        keepalive
    }

    /// Restarts the interval: hopend wrote bytes to kdb+ at `now`.
    pub fn sent(&mut self, now: Instant) {
        if let Some(plan) = &self.plan {
            self.next = last_moment_until(now + self.interval, plan.spacing_ns);
        }
    }

    /// When the next ping is due if hopend sends nothing before. `None` if the keepalive is off, or if a sync
    /// ping has no answer yet.
    pub fn due(&self) -> Option<Instant> {
        (self.plan.is_some() && !self.awaiting_answer()).then_some(self.next)
    }

    /// The message to send now, if a ping is due and the stream allows it. If the stream does not allow it,
    /// call again after the stream's state has changed.
    pub fn poll(&mut self, now: Instant, stream: Stream) -> Option<Vec<u8>> {
        if now < self.due()? || !stream.between_messages {
            return None;
        }
        let plan = self.plan.as_ref()?;
        if let KeepaliveMode::Sync { .. } = plan.mode {
            if stream.outstanding > 0 {
                return None;
            }
            self.pong = Pong::Expected;
        }
        let ping = plan.ping.clone();
        self.draw_interval();
        self.sent(now);
        Some(ping)
    }

    /// Whether a sync ping has no answer yet. Until kdb+ answers, no message of the client may pass: hopend
    /// could not distinguish the answers.
    pub fn awaiting_answer(&self) -> bool {
        self.pong != Pong::NotExpected
    }

    /// Records that kdb+ has answered the sync ping, or that hopend no longer waits for the answer.
    pub fn answered(&mut self) {
        self.pong = Pong::NotExpected;
    }

    /// Records that a message of the client waits for the answer to the sync ping. Only the first call after
    /// a ping starts the time limit.
    pub fn blocked(&mut self, now: Instant) {
        if self.pong == Pong::Expected {
            self.pong = Pong::Blocks(now);
        }
    }

    /// When hopend stops waiting for the answer to the sync ping. `None` unless a message of the client waits
    /// for that answer: a busy kdb+ that delays no message is no reason to end a session.
    pub fn answer_due(&self) -> Option<Instant> {
        match self.pong {
            Pong::Blocks(since) => Some(since + self.answer_timeout()?),
            Pong::NotExpected | Pong::Expected => None,
        }
    }

    /// How long a message of the client waits for the answer to a sync ping. `None` in async mode, and if the
    /// keepalive is off.
    pub fn answer_timeout(&self) -> Option<Duration> {
        match self.plan.as_ref()?.mode {
            KeepaliveMode::Sync { answer_timeout } => Some(answer_timeout),
            KeepaliveMode::Async => None,
        }
    }

    fn draw_interval(&mut self) {
        if let Some(plan) = &self.plan {
            self.interval = plan.every.mul_f64(1.0 - JITTER * fastrand::f64());
        }
    }
}

/// The last shared moment that is not later than `time`.
fn last_moment_until(time: Instant, spacing_ns: u64) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since_first = time.saturating_duration_since(*FIRST);
    time - Duration::from_nanos(nanoseconds(since_first) % spacing_ns)
}

fn nanoseconds(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(time.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);
    const SYNC: KeepaliveMode = KeepaliveMode::Sync {
        answer_timeout: Duration::from_secs(7_200),
    };
    const READY: Stream = Stream {
        between_messages: true,
        outstanding: 0,
    };

    fn keepalive(mode: KeepaliveMode, now: Instant) -> Keepalive {
        let plan = KeepaliveSettings::On {
            every: EVERY,
            message: String::new(),
            mode,
        };
        Keepalive::new(&plan, now)
    }

    #[test]
    fn pings_when_quiet_and_never_later_than_every() {
        let start = Instant::now();
        let mut keepalive = keepalive(KeepaliveMode::Async, start);
        let mut last = start;
        for _ in 0..100 {
            let due = keepalive.due().unwrap();
            assert!(due - last <= EVERY && due - last >= EVERY.mul_f64(1.0 - JITTER) - MAX_SPACING);
            assert_eq!(keepalive.poll(due - Duration::from_millis(1), READY), None);
            assert!(keepalive.poll(due, READY).is_some());
            last = due;
        }
    }

    #[test]
    fn idle_connections_ping_at_moments_that_they_share_and_not_all_at_once() {
        let start = Instant::now();
        let mut dues: Vec<_> = (0..4_000)
            .map(|after| {
                let opened = start + Duration::from_micros(after);
                keepalive(KeepaliveMode::Async, opened).due().unwrap()
            })
            .collect();
        dues.sort_unstable();
        let at_once = dues.chunk_by(|a, b| a == b).map(<[_]>::len);
        let moments = at_once.clone().count();
        // The jitter spreads the pings over a fifth of the interval. The spacing is 1/256 of the interval
        // (234 ms), so about 51 moments have pings, and up to one more at either end.
        assert!((40..=54).contains(&moments), "{moments}");
        let most = at_once.max().unwrap();
        assert!(most < 4_000 / 20, "{most} at once");
    }

    #[test]
    fn traffic_of_the_client_puts_it_off() {
        let start = Instant::now();
        let mut keepalive = keepalive(KeepaliveMode::Async, start);
        keepalive.sent(start + EVERY / 2);
        assert_eq!(keepalive.poll(start + EVERY, READY), None);
        assert!(keepalive.poll(start + EVERY * 3 / 2, READY).is_some());
    }

    #[test]
    fn never_inside_a_message() {
        let start = Instant::now();
        let mut keepalive = keepalive(KeepaliveMode::Async, start);
        let inside = Stream {
            between_messages: false,
            ..READY
        };
        assert_eq!(keepalive.poll(start + 2 * EVERY, inside), None);
        assert!(keepalive.poll(start + 2 * EVERY, READY).is_some());
    }

    #[test]
    fn an_async_ping_goes_out_while_a_query_runs_and_a_sync_one_does_not() {
        let busy = Stream {
            outstanding: 1,
            ..READY
        };
        let start = Instant::now();
        let later = start + EVERY;
        assert!(
            keepalive(KeepaliveMode::Async, start)
                .poll(later, busy)
                .is_some()
        );
        assert_eq!(keepalive(SYNC, start).poll(later, busy), None);
    }

    #[test]
    fn one_sync_ping_at_a_time() {
        let start = Instant::now();
        let mut keepalive = keepalive(SYNC, start);
        assert!(keepalive.poll(start + EVERY, READY).is_some());
        assert!(keepalive.awaiting_answer());
        assert_eq!(keepalive.due(), None);
        assert_eq!(keepalive.poll(start + 3 * EVERY, READY), None);
        keepalive.answered();
        assert!(keepalive.poll(start + 3 * EVERY, READY).is_some());
    }

    #[test]
    fn off_is_off() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(&KeepaliveSettings::Off, start);
        assert_eq!(keepalive.due(), None);
        assert_eq!(keepalive.poll(start + 100 * EVERY, READY), None);
    }
}
