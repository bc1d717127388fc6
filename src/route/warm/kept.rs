//! A connection that waits for its client: listened to, pinged, and let go at the first wrong word.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::route::Opened;
use q_ipc::frame::{FrameTracker, HEADER_LEN, MessageType, StreamPart};
use q_relay::relay::{Keepalive, KeepaliveSettings, Stream};

/// After this it is renewed: `.z.po` of kdb+ has seen it come, and what that noted grows old; and
/// connections go to where kdb+ is now.
const RENEWED_AFTER: Duration = Duration::from_secs(10 * 60);
/// The same where no pings go out: an idle connection is dropped on the way after 350 s.
const RENEWED_UNPINGED: Duration = Duration::from_secs(4 * 60);
/// A life is shortened by up to this share, so that those made together are not renewed together.
const JITTER: f64 = 0.2;
/// The longest silence that the way allows, with some seconds to spare.
const LONGEST_SILENCE: Duration = Duration::from_secs(340);
/// Bytes read at a time: nothing is expected but the answer to a ping.
const READ: usize = 256;

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) opened: Opened,
    /// What was said to kdb+ at the login.
    pub(super) capability: Option<u8>,
    pub(super) since: Instant,
    renew: Instant,
    pings: Keepalive,
    /// By when the answer to a sync ping has to be there.
    answer_by: Option<Instant>,
    /// How long that may take.
    patience: Duration,
    answer: FrameTracker,
    /// A part of the answer's header.
    head: Vec<u8>,
}

/// Why a connection waits no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("kdb+ closed a connection that waited for its client")]
    Closed,
    #[error("a connection that waited for its client broke: {0}")]
    Broken(io::Error),
    #[error(
        "kdb+ said something of its own accord to a connection that waited for its client. Fix: set warm = 0 if it greets every client."
    )]
    Unasked,
    #[error("kdb+ left a ping without an answer for {} s", .0.as_secs())]
    Unanswered(Duration),
}

impl Kept {
    /// `patience` is how long kdb+ may take to answer a ping.
    pub(super) fn new(
        opened: Opened,
        capability: Option<u8>,
        keepalive: &KeepaliveSettings,
        patience: Duration,
    ) -> Self {
        let now = Instant::now();
        let life = match keepalive {
            KeepaliveSettings::On { .. } => RENEWED_AFTER,
            KeepaliveSettings::Off => RENEWED_UNPINGED,
        };
        Self {
            opened,
            capability,
            since: now,
            renew: now + life.mul_f64(1.0 - JITTER * fastrand::f64()),
            pings: Keepalive::new(&sooner(keepalive), now),
            answer_by: None,
            patience,
            answer: FrameTracker::default(),
            head: Vec::new(),
        }
    }

    /// Whether another one should take its place.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now >= self.renew
    }

    /// Whether a client can have it: nothing outstanding, nothing unread, not closed.
    pub(super) fn is_clean(&self) -> bool {
        !self.pings.awaiting_answer() && self.opened.upstream.stream.is_silent()
    }

    /// When it has to be looked at again, if nothing comes before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.answer_by.or_else(|| self.pings.due())
    }

    /// Takes in what has come and sends the ping that is due.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Lost> {
        loop {
            let mut bytes = [0; READ];
            let mut room = ReadBuf::new(&mut bytes);
            let stream = Pin::new(&mut self.opened.upstream.stream);
            match stream.poll_read(context, &mut room) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Lost::Closed);
                }
                Poll::Ready(Err(error)) => return Err(Lost::Broken(error)),
                Poll::Ready(Ok(())) if room.filled().is_empty() => return Err(Lost::Closed),
                Poll::Ready(Ok(())) => self.hear(room.filled())?,
            }
        }
        if self.answer_by.is_some_and(|by| by <= now) {
            return Err(Lost::Unanswered(self.patience));
        }
        let ready = Stream {
            between_messages: true,
            outstanding: 0,
        };
        if let Some(ping) = self.pings.poll(now, ready) {
            self.send(context, &ping)?;
            if self.pings.awaiting_answer() {
                self.answer_by = Some(now + self.patience);
            }
        }
        Ok(())
    }

    /// Swallows the answer to a ping; nothing else may come.
    fn hear(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        self.head.extend_from_slice(bytes);
        while !self.head.is_empty() {
            if !self.pings.awaiting_answer() {
                return Err(Lost::Unasked);
            }
            match self.answer.next(&self.head) {
                Ok(StreamPart::Incomplete) => return Ok(()),
                Ok(StreamPart::Header(header)) if header.message_type == MessageType::Response => {
                    self.head.drain(..HEADER_LEN);
                }
                Ok(StreamPart::Header(_)) | Err(_) => return Err(Lost::Unasked),
                Ok(StreamPart::Body(count)) => {
                    self.head.drain(..count);
                    if self.answer.at_boundary() {
                        self.pings.answered();
                        self.answer_by = None;
                    }
                }
            }
        }
        // Nothing is held while nothing comes.
        self.head = Vec::new();
        Ok(())
    }

    /// A ping fits any socket's buffer; where it does not, nobody reads at the other end.
    fn send(&mut self, context: &mut Context<'_>, ping: &[u8]) -> Result<(), Lost> {
        let mut stream = Pin::new(&mut self.opened.upstream.stream);
        let full = || Lost::Broken(io::ErrorKind::WouldBlock.into());
        match stream.as_mut().poll_write(context, ping) {
            Poll::Ready(Ok(count)) if count == ping.len() => {}
            Poll::Ready(Err(error)) => return Err(Lost::Broken(error)),
            Poll::Ready(Ok(_)) | Poll::Pending => return Err(full()),
        }
        match stream.poll_flush(context) {
            Poll::Ready(flushed) => flushed.map_err(Lost::Broken),
            Poll::Pending => Err(full()),
        }
    }
}

/// A session's pings begin anew when it gets the connection: together the two silences must stay
/// within what the way allows.
fn sooner(keepalive: &KeepaliveSettings) -> KeepaliveSettings {
    let mut sooner = keepalive.clone();
    if let KeepaliveSettings::On { every, .. } = &mut sooner {
        let rest = LONGEST_SILENCE.saturating_sub(*every);
        *every = (*every).min(rest.max(Duration::from_secs(1)));
    }
    sooner
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
            let KeepaliveSettings::On { every: sooner, .. } = sooner(&keepalive) else {
                panic!("no pings");
            };
            assert_eq!(sooner, Duration::from_secs(waiting), "{seconds}");
            assert!(every + sooner <= Duration::from_secs(350));
        }
    }
}
