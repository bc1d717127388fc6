//! `errors = "explain"`: hopen succeeds although kdb+ can't be had, and the first sync request is
//! answered with the reason.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use base::error::FIX;
use q_ipc::frame::{FrameTracker, HEADER_LEN, Header, MessageType, StreamPart};
use q_ipc::handshake::common_capability;
use q_ipc::message::error_response;

/// How long a client may take to ask: a person types it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The capability of kdb+ 4: what a client would most likely have met.
const CAPABILITY: u8 = 6;
/// Most bytes of an error that KX's C library shows; the rest is cut off.
const SHOWN: usize = 256;
/// Longest remedy that is kept whole.
const LONGEST_REMEDY: usize = 160;
/// Stands for what is left out.
const GAP: &str = "...";
/// Bytes that are read at a time, and dropped.
const CHUNK: usize = 16 * 1024;

/// A client that is told why, in place of kdb+.
#[derive(Debug)]
pub(crate) struct Explanation<'a> {
    /// Its own capability.
    pub capability: Option<u8>,
    /// What it sent behind its handshake.
    pub early: &'a [u8],
    /// Bytes of the longest message that is read.
    pub max_message: Option<u64>,
    /// What happened, and what to do.
    pub reason: &'a str,
}

impl Explanation<'_> {
    /// Accepts the handshake, reads over async messages, and answers the first sync request with the
    /// reason as q's error. Takes a minute at most; nothing that the client sends is kept.
    pub(crate) async fn give<C>(&self, client: &mut C) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(PATIENCE, self.converse(client)).await?
    }

    async fn converse<C>(&self, client: &mut C) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        // By itself: some clients hang when a message arrives in the same read.
        let capability = common_capability(self.capability, CAPABILITY);
        client.write_all(&[capability]).await?;
        let mut requests = Requests::new(self.max_message);
        let mut asked = requests.take(self.early)?;
        let mut chunk = vec![0; CHUNK];
        while !asked {
            match client.read(&mut chunk).await? {
                0 => return Ok(()),
                count => asked = requests.take(&chunk[..count])?,
            }
        }
        client.write_all(&error_response(&shown(self.reason))).await
    }
}

/// The reason in as many bytes as are shown. What is too long loses its middle: the remedy at its end
/// is what the reader needs most.
fn shown(reason: &str) -> String {
    let text = format!("hopend: {reason}");
    if text.len() <= SHOWN {
        return text;
    }
    let remedy = text.rfind(FIX).map_or("", |at| &text[at..]);
    // A policy statement behind it is for the administrator, who finds it in the log.
    let (remedy, _) = remedy.split_once(": {").unwrap_or((remedy, ""));
    let remedy = if remedy.len() <= LONGEST_REMEDY {
        remedy
    } else {
        ""
    };
    let kept = text.floor_char_boundary(SHOWN - GAP.len() - remedy.len());
    format!("{}{GAP}{remedy}", &text[..kept])
}

/// Looks for the end of the first sync request.
struct Requests {
    tracker: FrameTracker,
    /// The part of a header that has come.
    partial: Vec<u8>,
    sync: bool,
}

impl Requests {
    fn new(limit: Option<u64>) -> Self {
        Self {
            tracker: FrameTracker::new(limit),
            partial: Vec::new(),
            sync: false,
        }
    }

    /// Whether a sync request is whole with these bytes; those behind it are of no interest.
    fn take(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let joined = [&std::mem::take(&mut self.partial), bytes].concat();
        let mut rest = &joined[..];
        loop {
            let piece = self.tracker.next(rest).map_err(io::Error::other)?;
            let count = match piece {
                StreamPart::Incomplete => {
                    self.partial = rest.to_vec();
                    return Ok(false);
                }
                StreamPart::Header(Header { message_type, .. }) => {
                    self.sync = message_type == MessageType::Sync;
                    HEADER_LEN
                }
                StreamPart::Body(count) => count,
            };
            rest = &rest[count..];
            if self.sync && self.tracker.at_boundary() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use q_ipc::message::{message, text};

    const REASON: &str = "the cluster is gone. Fix: start it.";

    fn explanation(early: &[u8]) -> Explanation<'_> {
        Explanation {
            capability: Some(3),
            early,
            max_message: Some(1_000),
            reason: REASON,
        }
    }

    async fn rest(mut client: DuplexStream) -> Vec<u8> {
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        got
    }

    /// Everything that a client gets for what it sends, in pieces.
    async fn got_for(early: &[u8], pieces: &[&[u8]]) -> (io::Result<()>, Vec<u8>) {
        let (mut client, mut server) = duplex(4_096);
        for piece in pieces {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let given = explanation(early).give(&mut server).await;
        drop(server);
        (given, rest(client).await)
    }

    fn told() -> Vec<u8> {
        let mut told = vec![3];
        told.extend(error_response(
            "hopend: the cluster is gone. Fix: start it.",
        ));
        told
    }

    #[tokio::test]
    async fn asyncs_are_passed_over_and_the_first_sync_request_is_answered_however_it_is_cut() {
        let stream = [
            text(MessageType::Async, "a:1"),
            message(MessageType::Response, b"x"),
            text(MessageType::Sync, "select from trade"),
        ]
        .concat();
        for cut in 0..=stream.len() {
            let (early, later) = stream.split_at(cut);
            let (given, got) = got_for(early, &[later]).await;
            assert!(given.is_ok(), "{cut}");
            assert_eq!(got, told(), "{cut}");
        }
        let (_, got) = got_for(&[], &stream.chunks(1).collect::<Vec<_>>()).await;
        assert_eq!(got, told());
        // From a big-endian q.
        let (_, got) = got_for(&[0, 1, 0, 0, 0, 0, 0, 9, 1], &[]).await;
        assert_eq!(got, told());
    }

    #[tokio::test]
    async fn who_asks_nothing_or_half_of_something_hears_nothing() {
        let request = text(MessageType::Sync, "1+1");
        let update = text(MessageType::Async, "a:1");
        for sent in [
            &[][..],
            &update,
            &request[..7],
            &request[..request.len() - 1],
        ] {
            let (given, got) = got_for(sent, &[]).await;
            assert!(given.is_ok());
            assert_eq!(got, [3]);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_or_too_long_a_one_ends_it() {
        for sent in [&[9; 8][..], &[1, 1, 0, 0, 0xe9, 3, 0, 0]] {
            let (given, got) = got_for(sent, &[]).await;
            assert!(given.is_err());
            assert_eq!(got, [3]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_longer_than_a_minute() {
        let (mut client, mut server) = duplex(64);
        let start = Instant::now();
        let dripping = async {
            while client
                .write_all(&text(MessageType::Async, ""))
                .await
                .is_ok()
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let explanation = explanation(&[]);
        let explaining = async {
            let given = explanation.give(&mut server).await;
            drop(server);
            given
        };
        let (given, ()) = tokio::join!(explaining, dripping);
        assert_eq!(given.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < PATIENCE + Duration::from_secs(2));
    }

    #[test]
    fn what_is_too_long_to_be_shown_loses_its_middle_and_never_its_remedy() {
        assert_eq!(
            shown("gone. Fix: start it."),
            "hopend: gone. Fix: start it."
        );
        let long = shown(&format!(
            "{}; see the log. Fix: start it.",
            "zoë ".repeat(100)
        ));
        assert!(long.len() <= SHOWN && long.len() > SHOWN - 4, "{long}");
        assert!(long.starts_with("hopend: zoë zoë"), "{long}");
        assert!(long.ends_with("... Fix: start it."), "{long}");
        for endless in [
            "x".repeat(1_000),
            format!("gone. Fix: {}", "x".repeat(1_000)),
        ] {
            let cut = shown(&endless);
            assert_eq!(cut.len(), SHOWN);
            assert!(cut.ends_with("x..."), "{cut}");
        }
    }

    #[test]
    fn a_client_without_a_capability_is_answered_as_before_kdb_2_6() {
        assert_eq!(common_capability(None, CAPABILITY), 0);
    }
}
