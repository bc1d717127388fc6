//! Sends a sync request of hopend's own to kdb+, on a connection that no session uses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::UpstreamStream;
use q_ipc::compress::decompress;
use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message;
use q_ipc::value::{Value, decode};

/// The longest response, in bytes.
const RESPONSE_LIMIT: usize = 64 * 1024;

/// Why kdb+ gave no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    /// kdb+ sent no q message, or one that is longer than 64 KiB.
    #[error("it sent no valid response: {0}")]
    Garbled(String),
}

/// Sends `text` as a sync request and reads the response, which may be a q error. Skips async messages
/// that kdb+ sends before it.
///
/// The login must have announced a capability below 4, or the response must be short, because this
/// function does not read chunked messages. Waits without a limit, so put a deadline around the call.
/// After a cancellation, close the connection, because the response may still arrive.
///
/// # Errors
/// kdb+ sent something other than a response, or the connection broke.
pub(crate) async fn ask(stream: &mut UpstreamStream, text: &str) -> Result<Value, QueryError> {
    // The decrypted bytes of the response are wiped, because they may hold a password.
    stream.keep_secrets();
    stream
        .write_all(&message::text(MessageType::Sync, text))
        .await?;
    stream.flush().await?;
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).await?;
        let parsed = Header::parse(header).map_err(garbled)?;
        let length = usize::try_from(parsed.length).unwrap_or(usize::MAX);
        if length > RESPONSE_LIMIT {
            return Err(QueryError::Garbled(format!("a message of {length} bytes")));
        }
        let mut message = Zeroizing::new(vec![0; length.max(HEADER_LEN)]);
        message[..HEADER_LEN].copy_from_slice(&header);
        stream.read_exact(&mut message[HEADER_LEN..]).await?;
        if parsed.message_type != MessageType::Response {
            continue;
        }
        if parsed.compression != 0 {
            message = Zeroizing::new(decompress(&message, RESPONSE_LIMIT).map_err(garbled)?);
        }
        return decode(&message[HEADER_LEN..], parsed.little_endian).map_err(garbled);
    }
}

fn garbled(error: impl std::fmt::Display) -> QueryError {
    QueryError::Garbled(error.to_string())
}
