//! A connection that waits in a warm pool. It reads what kdb+ sends, sends pings, and is closed as soon as
//! kdb+ sends anything but the answer to a ping.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::route::connection::LoggedInConnection;
use q_ipc::frame::{FrameTracker, HEADER_LEN, MessageType, StreamPart};
use q_relay::relay::{Keepalive, KeepaliveSettings, Stream};

/// The pool replaces a connection after this time. State that `.z.po` of kdb+ stored at the opening
/// grows old, and the address may have moved to another host.
const RENEWED_AFTER: Duration = Duration::from_secs(10 * 60);
/// As [`RENEWED_AFTER`], but without pings, because FinSpace's network drops a connection that is idle
/// for 350 s.
const RENEWED_UNPINGED: Duration = Duration::from_secs(4 * 60);
/// Each life is shortened at random, by up to this share, so that connections that were opened together
/// are not replaced together.
const JITTER: f64 = 0.2;
/// The longest silence that FinSpace's network allows, with some seconds to spare.
const LONGEST_SILENCE: Duration = Duration::from_secs(340);
/// Bytes read at a time. Few suffice, because kdb+ should send nothing but the answer to a ping.
const READ_SIZE: usize = 256;

/// A connection that waits in a warm pool.
#[derive(Debug)]
pub(super) struct WarmConnection {
    pub(super) connection: LoggedInConnection,
    /// The capability that hopend announced at the login.
    pub(super) capability: Option<u8>,
    /// When the connection entered the pool.
    pub(super) since: Instant,
    /// When it should be replaced.
    renew_at: Instant,
    pings: Keepalive,
    /// When kdb+ must have answered the sync ping that was sent. `None` if no answer is due.
    answer_due: Option<Instant>,
    /// How long kdb+ may take to answer a ping.
    answer_limit: Duration,
    answer: FrameTracker,
    /// The bytes of the answer that were read, up to the end of its header.
    unparsed: Vec<u8>,
}

/// Why a connection has left the pool before a session could take it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WarmLoss {
    #[error("kdb+ closed a connection that waited for its client")]
    Closed,
    #[error("a connection that waited for its client broke: {0}")]
    Broken(io::Error),
    #[error(
        "kdb+ sent a message of its own accord to a connection that waited for its client. Fix: set warm = 0 if kdb+ greets each client."
    )]
    Unasked,
    #[error("kdb+ left a ping without an answer for {} s", .0.as_secs())]
    Unanswered(Duration),
}

impl WarmConnection {
    /// `answer_limit` is how long kdb+ may take to answer a ping.
    pub(super) fn new(
        connection: LoggedInConnection,
        capability: Option<u8>,
        keepalive: &KeepaliveSettings,
        answer_limit: Duration,
    ) -> Self {
        let now = Instant::now();
        let life = match keepalive {
            KeepaliveSettings::On { .. } => RENEWED_AFTER,
            KeepaliveSettings::Off => RENEWED_UNPINGED,
        };
        Self {
            connection,
            capability,
            since: now,
            renew_at: now + life.mul_f64(1.0 - JITTER * fastrand::f64()),
            pings: Keepalive::new(&shortened(keepalive), now),
            answer_due: None,
            answer_limit,
            answer: FrameTracker::default(),
            unparsed: Vec::new(),
        }
    }

    /// Whether a new connection should replace this one.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now >= self.renew_at
    }

    /// Whether a session can take the connection: no ping is unanswered, no byte is unread, and kdb+ has
    /// not closed it.
    pub(super) fn is_clean(&self) -> bool {
        !self.pings.awaiting_answer() && self.connection.upstream.stream.is_silent()
    }

    /// When to call [`Self::poll`] again if kdb+ sends nothing before. `None` if no ping is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.answer_due.or_else(|| self.pings.due())
    }

    /// Reads what kdb+ has sent, and sends a ping if one is due.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), WarmLoss> {
        loop {
            let mut bytes = [0; READ_SIZE];
            let mut room = ReadBuf::new(&mut bytes);
            let stream = Pin::new(&mut self.connection.upstream.stream);
            match stream.poll_read(context, &mut room) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(WarmLoss::Closed);
                }
                Poll::Ready(Err(error)) => return Err(WarmLoss::Broken(error)),
                Poll::Ready(Ok(())) if room.filled().is_empty() => return Err(WarmLoss::Closed),
                Poll::Ready(Ok(())) => self.take_answer(room.filled())?,
            }
        }
        if self.answer_due.is_some_and(|due| due <= now) {
            return Err(WarmLoss::Unanswered(self.answer_limit));
        }
        let ready = Stream {
            between_messages: true,
            outstanding: 0,
        };
        if let Some(ping) = self.pings.poll(now, ready) {
            self.send(context, &ping)?;
            if self.pings.awaiting_answer() {
                self.answer_due = Some(now + self.answer_limit);
            }
        }
        Ok(())
    }

    /// Discards the answer to a ping. All other bytes are an error.
    fn take_answer(&mut self, bytes: &[u8]) -> Result<(), WarmLoss> {
        self.unparsed.extend_from_slice(bytes);
        while !self.unparsed.is_empty() {
            if !self.pings.awaiting_answer() {
                return Err(WarmLoss::Unasked);
            }
            match self.answer.next(&self.unparsed) {
                Ok(StreamPart::Incomplete) => return Ok(()),
                Ok(StreamPart::Header(header)) if header.message_type == MessageType::Response => {
                    self.unparsed.drain(..HEADER_LEN);
                }
                Ok(StreamPart::Header(_)) | Err(_) => return Err(WarmLoss::Unasked),
                Ok(StreamPart::Body(count)) => {
                    self.unparsed.drain(..count);
                    if self.answer.at_boundary() {
                        self.pings.answered();
                        self.answer_due = None;
                    }
                }
            }
        }
        // Frees the memory, because a connection that waits needs no buffer.
        self.unparsed = Vec::new();
        Ok(())
    }

    /// Sends a ping. A ping fits into any socket's buffer. If there is no room, kdb+ no longer reads.
    fn send(&mut self, context: &mut Context<'_>, ping: &[u8]) -> Result<(), WarmLoss> {
        let mut stream = Pin::new(&mut self.connection.upstream.stream);
        let full = || WarmLoss::Broken(io::ErrorKind::WouldBlock.into());
        match stream.as_mut().poll_write(context, ping) {
            Poll::Ready(Ok(count)) if count == ping.len() => {}
            Poll::Ready(Err(error)) => return Err(WarmLoss::Broken(error)),
            Poll::Ready(Ok(_)) | Poll::Pending => return Err(full()),
        }
        match stream.poll_flush(context) {
            Poll::Ready(flushed) => flushed.map_err(WarmLoss::Broken),
            Poll::Pending => Err(full()),
        }
    }
}

/// Shortens the interval of the pings. A session that takes the connection begins its own interval. So
/// the silence before that moment and the silence after it must together stay within
/// [`LONGEST_SILENCE`].
fn shortened(keepalive: &KeepaliveSettings) -> KeepaliveSettings {
    let mut shortened = keepalive.clone();
    if let KeepaliveSettings::On { every, .. } = &mut shortened {
        let rest = LONGEST_SILENCE.saturating_sub(*every);
        *every = (*every).min(rest.max(Duration::from_secs(1)));
    }
    shortened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silence_before_a_session_and_the_one_within_it_stay_below_the_limit() {
        for (seconds, waiting) in [(1, 1), (60, 60), (170, 170), (200, 140), (339, 1), (349, 1)] {
            let every = Duration::from_secs(seconds);
            let keepalive = KeepaliveSettings::On {
                every,
                message: String::new(),
                mode: q_relay::relay::KeepaliveMode::Async,
            };
            let KeepaliveSettings::On {
                every: shortened, ..
            } = shortened(&keepalive)
            else {
                panic!("no pings");
            };
            assert_eq!(shortened, Duration::from_secs(waiting), "{seconds}");
            assert!(every + shortened <= Duration::from_secs(350));
        }
    }
}
