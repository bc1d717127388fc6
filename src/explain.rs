//! `errors = "explain"`: hopen succeeds although kdb+ can't be had, and the first sync request is
//! answered with the reason.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::q::frame::{HEADER_LEN, Header, MessageType, Piece, Tracker};
use crate::q::handshake::common_capability;
use crate::q::message::error_response;

/// How long a client may take to ask: a person types it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The capability of kdb+ 4: what a client would most likely have met.
const CAPABILITY: u8 = 6;
/// Bytes that are read at a time, and dropped.
const CHUNK: usize = 16 * 1024;

/// A client that is told why, in place of kdb+.
#[derive(Debug)]
pub struct Explanation<'a> {
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
    pub async fn give<C>(&self, client: &mut C) -> io::Result<()>
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
        let text = format!("hopend: {}", self.reason);
        client.write_all(&error_response(&text)).await
    }
}

/// Looks for the end of the first sync request.
struct Requests {
    tracker: Tracker,
    /// The part of a header that has come.
    partial: Vec<u8>,
    sync: bool,
}

impl Requests {
    fn new(limit: Option<u64>) -> Self {
        Self {
            tracker: Tracker::new(limit),
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
                Piece::Partial => {
                    self.partial = rest.to_vec();
                    return Ok(false);
                }
                Piece::Header(Header { message_type, .. }) => {
                    self.sync = message_type == MessageType::Sync;
                    HEADER_LEN
                }
                Piece::Body(count) => count,
            };
            rest = &rest[count..];
            if self.sync && self.tracker.at_boundary() {
                return Ok(true);
            }
        }
    }
}
