//! One sync request of hopend's own, on a connection that nobody else uses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::UpstreamStream;
use q_ipc::compress::decompress;
use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message;
use q_ipc::value::{Value, decode};

/// Bytes of the longest answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection is over.
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    /// No q message, or one that is too long to be the answer.
    #[error("it sent what is no answer: {0}")]
    Garbled(String),
}

/// Sends `text` as a sync request and reads the answer, which may be q's error; what kdb+ says of
/// its own accord before is left aside. The connection has a capability below 4, or the answer is
/// short. Without a deadline; when it is cut off, the connection is of no more use.
pub async fn ask(stream: &mut UpstreamStream, text: &str) -> Result<Value, AskError> {
    // The answer may be a login.
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
        if length > ANSWER_LIMIT {
            return Err(AskError::Garbled(format!("a message of {length} bytes")));
        }
        let mut message = Zeroizing::new(vec![0; length.max(HEADER_LEN)]);
        message[..HEADER_LEN].copy_from_slice(&header);
        stream.read_exact(&mut message[HEADER_LEN..]).await?;
        if parsed.message_type != MessageType::Response {
            continue;
        }
        if parsed.compression != 0 {
            message = Zeroizing::new(decompress(&message, ANSWER_LIMIT).map_err(garbled)?);
        }
        return decode(&message[HEADER_LEN..], parsed.little_endian).map_err(garbled);
    }
}

fn garbled(error: impl std::fmt::Display) -> AskError {
    AskError::Garbled(error.to_string())
}
