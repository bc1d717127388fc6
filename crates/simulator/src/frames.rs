//! Reads and writes messages. Memory is bounded: long requests are counted instead of kept, and long
//! responses are generated while they are sent.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::lazy_value::LazyValue;
use q_ipc::compress::{THRESHOLD, compress, decompress};
use q_ipc::frame::{HEADER_LEN, Header, LONGEST_MESSAGE, MessageType};
use q_ipc::message::error_response;
use q_ipc::value::{Value, decode, decode_message, vector_header};

/// Length of the longest body that is kept for evaluation, in bytes. Longer bodies are counted.
const KEPT: usize = 256 << 20;

/// Bytes that are kept of a counted body: enough to read the count of its items.
const HEAD: usize = 4 << 10;

/// Limit for the bodies that wait for their evaluation, in KiB.
const QUEUE_KIB: u32 = 320 << 10;

/// Length of the parts in which a long response is generated, in bytes.
const CHUNK: usize = 64 << 10;

/// A received message that waits for its evaluation.
pub(crate) struct QueuedMessage {
    pub(crate) header: Header,
    /// The body, or its first bytes if it is longer than [`KEPT`].
    body: Vec<u8>,
    /// This message's share of [`QUEUE_KIB`].
    _room: OwnedSemaphorePermit,
}

impl QueuedMessage {
    /// Whether this is a keepalive: an async message with an empty char vector.
    pub(crate) fn is_ping(&self) -> bool {
        self.header.message_type == MessageType::Async && self.body == [10, 0, 0, 0, 0, 0]
    }

    /// The value in the message. For a counted body it is a long: the number of items, or else of bytes.
    ///
    /// # Errors
    /// The text of a q error: the body is not a value.
    pub(crate) fn value(&self) -> Result<Arc<Value>, String> {
        let length = self.header.length - HEADER_LEN as u64;
        let value = if self.body.len() as u64 != length {
            Ok(Value::Long(
                i64::try_from(self.counted().unwrap_or(length)).unwrap_or(i64::MAX),
            ))
        } else if self.header.compression == 0 {
            decode(&self.body, self.header.little_endian)
        } else {
            let mut message = self.header.encode().to_vec();
            message.extend_from_slice(&self.body);
            let plain = decompress(&message, KEPT).map_err(|error| format!("badmsg: {error}"))?;
            decode_message(&plain).map(|(_, value)| value)
        };
        value
            .map(Arc::new)
            .map_err(|error| format!("badmsg: {error}"))
    }

    /// The count of the vector in a counted body of the form `("function"; vector)`.
    fn counted(&self) -> Option<u64> {
        let number = |bytes: &[u8]| {
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            if !self.header.little_endian {
                wide[..bytes.len()].reverse();
            }
            u64::from_le_bytes(wide)
        };
        let rest = match self.body.get(..6)? {
            [0, _, count @ ..] if number(count) == 2 => &self.body[6..],
            _ => return None,
        };
        let [10, _, count @ ..] = rest.get(..6)? else {
            return None;
        };
        let function = usize::try_from(number(count)).ok()?;
        let vector = rest.get(6 + function..)?;
        match vector.get(..2)? {
            [1..=19, long] if long & 0x80 != 0 => Some(number(vector.get(2..10)?)),
            [1..=19, _] => Some(number(vector.get(2..6)?)),
            _ => None,
        }
    }
}

/// Reads messages into the queue until the stream ends, or until nobody reads the queue.
///
/// # Errors
/// The stream fails, ends inside a message, or does not contain messages.
pub(crate) async fn read<R>(
    mut reader: R,
    queue: mpsc::UnboundedSender<QueuedMessage>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
{
    let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
    loop {
        let mut head = [0; HEADER_LEN];
        if reader.read(&mut head[..1]).await? == 0 {
            return Ok(());
        }
        reader.read_exact(&mut head[1..]).await?;
        let header = Header::parse(head)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let length = header.length - HEADER_LEN as u64;
        let keep = match usize::try_from(length) {
            Ok(length) if length <= KEPT => length,
            _ => HEAD,
        };
        let kibibytes = u32::try_from(keep / 1024 + 1).unwrap_or(QUEUE_KIB);
        let permit = room
            .clone()
            .acquire_many_owned(kibibytes.min(QUEUE_KIB))
            .await;
        let permit = permit.map_err(io::Error::other)?;
        let mut body = Vec::new();
        let kept = (&mut reader)
            .take(keep as u64)
            .read_to_end(&mut body)
            .await?;
        if kept < keep {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = length - keep as u64;
        let skipped = tokio::io::copy_buf(
            &mut tokio::io::BufReader::with_capacity(CHUNK, (&mut reader).take(rest)),
            &mut tokio::io::sink(),
        )
        .await?;
        if skipped < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let frame = QueuedMessage {
            header,
            body,
            _room: permit,
        };
        if queue.send(frame).is_err() {
            return Ok(());
        }
    }
}

/// The form in which a message is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageFormat {
    pub(crate) message_type: MessageType,
    pub(crate) capability: u8,
    pub(crate) compress: bool,
    pub(crate) little_endian: bool,
}

/// Writes one message. The items of a lazy value are generated while they are sent. A message that the
/// client's capability does not allow becomes the error `limit`.
pub(crate) async fn write<W>(
    writer: &mut W,
    form: MessageFormat,
    data: &LazyValue,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    match data {
        LazyValue::Til(count) => {
            let start = vector_header(7, *count, form.little_endian);
            let pieces = (0..*count).step_by(CHUNK / 8).map(|from| {
                let items = from..(*count).min(from + CHUNK as u64 / 8);
                items
                    .flat_map(|item| form.order(item.to_le_bytes()))
                    .collect()
            });
            let vector = LongVector {
                head: start,
                width: 8,
                count: *count,
            };
            stream(writer, form, vector, pieces).await
        }
        LazyValue::Repeat { kind, item, count } => {
            let start = vector_header(*kind, *count, form.little_endian);
            let mut item = item.to_vec();
            if !form.little_endian {
                item.reverse();
            }
            let width = item.len() as u64;
            let each = CHUNK as u64 / width;
            let pieces = (0..*count).step_by(CHUNK / item.len()).map(|from| {
                let here = usize::try_from(each.min(count - from)).unwrap_or_default();
                item.repeat(here)
            });
            let vector = LongVector {
                head: start,
                width,
                count: *count,
            };
            stream(writer, form, vector, pieces).await
        }
        LazyValue::Value(_) | LazyValue::Function(_) => {
            let body = match data.value() {
                Ok(value) => value.encode_in(form.little_endian),
                Err(_) => return Ok(()),
            };
            let length = (HEADER_LEN + body.len()) as u64;
            let mut message = form.header(length).encode().to_vec();
            message.extend_from_slice(&body);
            let small = (form.compress && message.len() > THRESHOLD)
                .then(|| compress(&message))
                .flatten();
            writer.write_all(&small.unwrap_or(message)).await?;
            writer.flush().await
        }
    }
}

impl MessageFormat {
    fn header(self, length: u64) -> Header {
        Header {
            little_endian: self.little_endian,
            message_type: self.message_type,
            compression: 0,
            length,
        }
    }

    fn order<const N: usize>(self, mut bytes: [u8; N]) -> [u8; N] {
        if !self.little_endian {
            bytes.reverse();
        }
        bytes
    }
}

/// A vector whose items are generated while it is sent.
struct LongVector {
    /// The bytes before the items: type, attribute and count.
    head: Vec<u8>,
    /// Length of an item, in bytes.
    width: u64,
    /// Number of items.
    count: u64,
}

async fn stream<W>(
    writer: &mut W,
    form: MessageFormat,
    vector: LongVector,
    pieces: impl Iterator<Item = Vec<u8>>,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let message = vector
        .count
        .checked_mul(vector.width)
        .map(|items| items + vector.head.len() as u64 + HEADER_LEN as u64);
    // The capability that a client needs for this message.
    let needs = match message {
        _ if i32::try_from(vector.count).is_err() => 6,
        Some(length) if i32::try_from(length).is_ok() => 0,
        _ => 5,
    };
    let Some(length) =
        message.filter(|&length| length <= LONGEST_MESSAGE && form.capability >= needs)
    else {
        writer.write_all(&error_response("limit")).await?;
        return writer.flush().await;
    };
    let mut head = form.header(length).encode().to_vec();
    head.extend(vector.head);
    writer.write_all(&head).await?;
    for piece in pieces {
        writer.write_all(&piece).await?;
    }
    writer.flush().await
}
