//! When to say something to a cluster that has heard nothing for a while: a pure machine, told the
//! time and the state of the stream.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use q_ipc::frame::MessageType;
use q_ipc::message;

/// An interval is shortened by up to this share, so that connections opened together don't ping
/// together.
const JITTER: f64 = 0.2;
/// Pings go out at moments that all connections of the process share, so many to an interval: those
/// of thousands of idle connections then cost one wake-up together, and are still no burst.
const MOMENTS: u32 = 256;
/// The longest time between two of these moments.
const LONGEST: Duration = Duration::from_millis(250);

/// The keepalive of an endpoint: which message is sent to kdb+, and after how much silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepaliveSettings {
    /// No keepalive.
    Off,
    /// A message that hopend writes itself.
    On {
        /// Sent after this long without a byte towards kdb+.
        every: Duration,
        /// q text; the empty string does nothing.
        message: String,
        /// Whether kdb+ answers.
        mode: KeepaliveMode,
    },
}

/// How a keepalive is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepaliveMode {
    /// As an async message: kdb+ sends no answer. It is sent while kdb+ computes, too.
    Async,
    /// As a sync message, while no request is outstanding. The client never sees the answer.
    Sync {
        /// How long messages of the client wait for the answer before the session ends.
        answer_timeout: Duration,
    },
}

/// The pings of one connection.
#[derive(Debug)]
pub struct Keepalive {
    plan: Option<Plan>,
    /// The interval that runs now, `every` less its jitter.
    interval: Duration,
    /// When the next ping is due: worked out when something is sent, as it is looked at more often.
    next: Instant,
    pong: Pong,
}

/// The answer to a sync ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pong {
    /// None is to come.
    NotExpected,
    /// It has not come.
    Expected,
    /// It has not come, and a message of the client waits for it since then.
    Blocks(Instant),
}

#[derive(Debug)]
struct Plan {
    every: Duration,
    /// From one shared moment to the next, in nanoseconds.
    moment: u64,
    mode: KeepaliveMode,
    ping: Vec<u8>,
}

/// What the stream towards the cluster looks like now.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Every byte that was taken from the client has been handed to the cluster's socket, and the
    /// last one ended a message.
    pub between_messages: bool,
    /// Sync requests of the client that have no answer yet.
    pub outstanding: u64,
}

impl Keepalive {
    /// The machine for a connection that opened at `now`.
    pub fn new(plan: &KeepaliveSettings, now: Instant) -> Self {
        let plan = match plan {
            KeepaliveSettings::Off => None,
            KeepaliveSettings::On {
                every,
                message,
                mode,
            } => Some(Plan {
                every: *every,
                moment: nanoseconds((*every / MOMENTS).min(LONGEST)).max(1),
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

    /// Bytes of the client went towards the cluster.
    pub fn sent(&mut self, now: Instant) {
        if let Some(plan) = &self.plan {
            self.next = moment_before(now + self.interval, plan.moment);
        }
    }

    /// When the next ping is due, if nothing is sent before. `None` when there are no pings, or one
    /// waits for its answer.
    pub fn due(&self) -> Option<Instant> {
        (self.plan.is_some() && !self.awaiting_answer()).then_some(self.next)
    }

    /// The ping to send now, if one is due and the stream is fit for it. Where it isn't, ask again
    /// when the stream has moved.
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

    /// Whether a sync ping waits for its answer: until then no message of the client may pass, or
    /// its answer and ours could not be told apart.
    pub fn awaiting_answer(&self) -> bool {
        self.pong != Pong::NotExpected
    }

    /// The answer to the sync ping has come.
    pub fn answered(&mut self) {
        self.pong = Pong::NotExpected;
    }

    /// A message of the client waits for the answer to the sync ping.
    pub fn blocked(&mut self, now: Instant) {
        if self.pong == Pong::Expected {
            self.pong = Pong::Blocks(now);
        }
    }

    /// When the answer to the sync ping is given up. `None` unless a message of the client waits for
    /// it: until then a kdb+ that is busy with a long query costs nobody anything.
    pub fn answer_due(&self) -> Option<Instant> {
        match self.pong {
            Pong::Blocks(since) => Some(since + self.answer_timeout()?),
            Pong::NotExpected | Pong::Expected => None,
        }
    }

    /// How long a message of the client waits for the answer to a sync ping.
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

/// The last shared moment until then.
fn moment_before(then: Instant, moment: u64) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = then.saturating_duration_since(*FIRST);
    then - Duration::from_nanos(nanoseconds(since) % moment)
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
            assert!(due - last <= EVERY && due - last >= EVERY.mul_f64(1.0 - JITTER) - LONGEST);
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
        // A fifth of the interval, in moments of 1/256 of it (234 ms), and one for each end.
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
