//! `errors = "explain"`: hopen succeeds although kdb+ cannot be reached. hopend answers the first sync
//! request with the reason.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use base::error::FIX;
use q_ipc::frame::{FrameTracker, HEADER_LEN, Header, MessageType, StreamPart};
use q_ipc::handshake::common_capability;
use q_ipc::message::error_response;

/// How long hopend waits for the first sync request. It is long, because a person may type the request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The capability of kdb+ 4, the most likely version of the target.
const CAPABILITY: u8 = 6;
/// The longest error that KX's C library shows, in bytes. The library cuts off the rest.
const MAX_ERROR_LEN: usize = 256;
/// The longest remedy that hopend keeps in a shortened error, in bytes.
const MAX_REMEDY_LEN: usize = 160;
/// Replaces the omitted part of an error.
const ELLIPSIS: &str = "...";
/// How many bytes hopend reads from the client at a time.
const CHUNK: usize = 16 * 1024;

/// The explanation for a client that gets no session. hopend gives it instead of kdb+.
#[derive(Debug)]
pub(crate) struct Explanation<'a> {
    /// The capability byte of the client's handshake.
    pub capability: Option<u8>,
    /// The bytes that hopend has already read after the client's handshake.
    pub early: &'a [u8],
    /// The longest message that the client may send, in bytes. None if there is no limit.
    pub max_message: Option<u64>,
    /// The cause of the failure, and its remedy.
    pub reason: &'a str,
}

impl Explanation<'_> {
    /// Accepts the handshake, ignores async messages, and answers the first sync request with the reason as
    /// a q error. Takes at most [`REQUEST_TIMEOUT`], and stores nothing that the client sends.
    pub(crate) async fn give<C>(&self, client: &mut C) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(REQUEST_TIMEOUT, self.converse(client)).await?
    }

    async fn converse<C>(&self, client: &mut C) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        // The byte goes out alone: some clients hang if a message arrives in the same read.
        let capability = common_capability(self.capability, CAPABILITY);
        client.write_all(&[capability]).await?;
        let mut requests = Requests::new(self.max_message);
        let mut asked = requests.complete_request(self.early)?;
        let mut chunk = vec![0; CHUNK];
        while !asked {
            match client.read(&mut chunk).await? {
                0 => return Ok(()),
                count => asked = requests.complete_request(&chunk[..count])?,
            }
        }
        client
            .write_all(&error_response(&shorten(self.reason)))
            .await
    }
}

/// Shortens the reason to [`MAX_ERROR_LEN`] bytes. A long reason loses its middle, because the reader needs
/// the remedy at its end most.
fn shorten(reason: &str) -> String {
    let text = format!("hopend: {reason}");
    if text.len() <= MAX_ERROR_LEN {
        return text;
    }
    let remedy = text.rfind(FIX).map_or("", |at| &text[at..]);
    // A policy statement after the remedy is for the administrator, who finds it in the log.
    let (remedy, _) = remedy.split_once(": {").unwrap_or((remedy, ""));
    let remedy = if remedy.len() <= MAX_REMEDY_LEN {
        remedy
    } else {
        ""
    };
    let kept = text.floor_char_boundary(MAX_ERROR_LEN - ELLIPSIS.len() - remedy.len());
    format!("{}{ELLIPSIS}{remedy}", &text[..kept])
}

/// Finds the end of the first sync request in the bytes from the client.
struct Requests {
    tracker: FrameTracker,
    /// The bytes of a header that has arrived in part.
    partial: Vec<u8>,
    /// Whether the current message is a sync request.
    is_sync: bool,
}

impl Requests {
    fn new(limit: Option<u64>) -> Self {
        Self {
            tracker: FrameTracker::new(limit),
            partial: Vec::new(),
            is_sync: false,
        }
    }

    /// Whether `bytes` complete a sync request. The bytes after that request do not matter.
    fn complete_request(&mut self, bytes: &[u8]) -> io::Result<bool> {
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
                    self.is_sync = message_type == MessageType::Sync;
                    HEADER_LEN
                }
                StreamPart::Body(count) => count,
            };
            rest = &rest[count..];
            if self.is_sync && self.tracker.at_boundary() {
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

    /// Sends `pieces` as a client, and returns all bytes that the client receives.
    async fn exchange(early: &[u8], pieces: &[&[u8]]) -> (io::Result<()>, Vec<u8>) {
        let (mut client, mut server) = duplex(4_096);
        for piece in pieces {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let given = explanation(early).give(&mut server).await;
        drop(server);
        (given, rest(client).await)
    }

    fn capability_and_error() -> Vec<u8> {
        let mut expected = vec![3];
        expected.extend(error_response(
            "hopend: the cluster is gone. Fix: start it.",
        ));
        expected
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
            let (given, got) = exchange(early, &[later]).await;
            assert!(given.is_ok(), "{cut}");
            assert_eq!(got, capability_and_error(), "{cut}");
        }
        let (_, got) = exchange(&[], &stream.chunks(1).collect::<Vec<_>>()).await;
        assert_eq!(got, capability_and_error());
        // A request from a big-endian q.
        let (_, got) = exchange(&[0, 1, 0, 0, 0, 0, 0, 9, 1], &[]).await;
        assert_eq!(got, capability_and_error());
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
            let (given, got) = exchange(sent, &[]).await;
            assert!(given.is_ok());
            assert_eq!(got, [3]);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_or_too_long_a_one_ends_it() {
        for sent in [&[9; 8][..], &[1, 1, 0, 0, 0xe9, 3, 0, 0]] {
            let (given, got) = exchange(sent, &[]).await;
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
        assert!(start.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(2));
    }

    #[test]
    fn what_is_too_long_to_be_shown_loses_its_middle_and_never_its_remedy() {
        assert_eq!(
            shorten("gone. Fix: start it."),
            "hopend: gone. Fix: start it."
        );
        let long = shorten(&format!(
            "{}; see the log. Fix: start it.",
            "zoë ".repeat(100)
        ));
        assert!(
            long.len() <= MAX_ERROR_LEN && long.len() > MAX_ERROR_LEN - 4,
            "{long}"
        );
        assert!(long.starts_with("hopend: zoë zoë"), "{long}");
        assert!(long.ends_with("... Fix: start it."), "{long}");
        for endless in [
            "x".repeat(1_000),
            format!("gone. Fix: {}", "x".repeat(1_000)),
        ] {
            let cut = shorten(&endless);
            assert_eq!(cut.len(), MAX_ERROR_LEN);
            assert!(cut.ends_with("x..."), "{cut}");
        }
    }

    #[test]
    fn a_client_without_a_capability_is_answered_as_before_kdb_2_6() {
        assert_eq!(common_capability(None, CAPABILITY), 0);
    }
}
