//! TLS connections to kdb+ and from clients.
//!
//! They use the unbuffered interface of rustls for two reasons. One read of the socket can return hundreds of
//! kilobytes of records, instead of 4 KB. And an idle connection holds no buffer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use zeroize::Zeroize;

use crate::budget::{LEAN_INCOMING, LEAN_OUTGOING, MemoryAccount};
use crate::buffer::{self, Buffer, CHUNK};

/// The number of bytes up to which the cost of a copy does not matter. A [`Window`] moves up to this many bytes
/// to the front of its buffer. A [`TlsStream`] leaves up to this many unsent until the next write.
const CHEAP_TO_MOVE: usize = 1_024;
/// The longest plaintext of a TLS record, in bytes.
const MAX_RECORD_PLAINTEXT: usize = 16 * 1_024;
/// An upper bound for the bytes that TLS adds to a record.
const RECORD_OVERHEAD: usize = 64;

/// A TLS connection of rustls, as a client or as a server.
pub trait Side: Unpin {
    /// The data that rustls keeps for a client or for a server.
    type Data;

    /// Calls `process_tls_records` of rustls.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// The state that clients and servers have in common, such as the peer's certificates.
    fn common(&self) -> &CommonState;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// A TLS connection over TCP. By default hopend is its client. With the other [`Side`], hopend is its server.
pub struct TlsStream<S = UnbufferedClientConnection> {
    tcp: TcpStream,
    tls: S,
    incoming: Window,
    /// Decrypted bytes for which the caller's buffer had no room.
    plain: Plain,
    outgoing: Window,
    reading: Reading,
    writing: Writing,
}

/// The receiving direction of a TLS connection.
#[derive(Debug)]
enum Reading {
    /// The peer may send data.
    Open,
    /// The received records hold more data, for which the last read had no room.
    Full,
    /// The peer has sent its close_notify.
    Closed,
    /// The last read returned the data before this error. The next read returns the error.
    Failed(io::Error),
}

/// The sending direction of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// hopend may send data.
    Open,
    /// hopend has queued its close_notify, and may send no more data.
    Closed,
    /// The peer broke the protocol: hopend can neither send nor receive.
    Broken,
}

/// A buffer, and the range of it that is in use.
#[derive(Debug)]
struct Window {
    buffer: Buffer,
    start: usize,
    end: usize,
    /// The length of the buffer if the account has no room for a large one, in bytes.
    lean_len: usize,
}

/// Decrypted bytes that wait for the next read.
#[derive(Debug, Default)]
struct Plain {
    bytes: Vec<u8>,
    /// How many of the bytes the caller has read.
    read: usize,
    account: Option<Arc<MemoryAccount>>,
    /// Whether the bytes are wiped before their memory is released, because a login may be among them.
    secret: bool,
}

/// The state of the protocol after all received records have been processed.
enum Standing {
    /// The handshake waits for the peer: hopend can send no data yet.
    Handshake,
    /// The handshake is complete: data can be sent and received.
    Traffic,
    /// More data has arrived than the caller's buffer has room for.
    Full,
}

impl TlsStream {
    /// Completes the handshake with a server whose certificate must be valid for `name`. The client's last
    /// handshake message may stay in the buffer until the first write or flush.
    ///
    /// # Errors
    /// The connection broke, or the handshake failed. Then the `io::Error` contains a `rustls::Error`.
    pub async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        tcp: TcpStream,
    ) -> io::Result<Self> {
        let mut stream = Self::new_client(config, name, tcp)?;
        stream.handshake().await?;
        Ok(stream)
    }

    /// Prepares a connection to a server whose certificate must be valid for `name`. The caller then calls
    /// [`handshake`](Self::handshake).
    ///
    /// # Errors
    /// rustls rejects the configuration.
    pub fn new_client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        tcp: TcpStream,
    ) -> io::Result<Self> {
        let tls = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        Ok(Self::over(tcp, tls))
    }
}

impl TlsStream<UnbufferedServerConnection> {
    /// Prepares a connection from a client. The caller then calls [`handshake`](Self::handshake).
    ///
    /// # Errors
    /// rustls rejects the configuration.
    pub fn serve(config: Arc<ServerConfig>, tcp: TcpStream) -> Result<Self, rustls::Error> {
        Ok(Self::over(tcp, UnbufferedServerConnection::new(config)?))
    }
}

impl<S: Side> TlsStream<S> {
    /// Prepares a connection over `tcp`. The caller then calls [`handshake`](Self::handshake).
    pub fn over(tcp: TcpStream, tls: S) -> Self {
        Self {
            tcp,
            tls,
            incoming: Window::new(LEAN_INCOMING),
            plain: Plain::default(),
            outgoing: Window::new(LEAN_OUTGOING),
            reading: Reading::Open,
            writing: Writing::Open,
        }
    }

    /// Charges the buffers to `account` from now on.
    pub fn charge(&mut self, account: &Arc<MemoryAccount>) {
        self.incoming.buffer.charge(account);
        self.outgoing.buffer.charge(account);
        self.plain.charge(account);
    }

    /// Uses only small buffers until [`charge`](Self::charge) is called. Before that no account counts their
    /// memory.
    pub fn stay_small(&mut self) {
        self.incoming.buffer.stay_small();
        self.outgoing.buffer.stay_small();
    }

    /// From now on, wipes decrypted bytes after they have been read.
    pub fn keep_secrets(&mut self) {
        self.incoming.buffer.keep_secrets();
        self.plain.secret = true;
    }

    /// Completes the handshake. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or the handshake failed. Then the `io::Error` contains a `rustls::Error`.
    pub async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_handshake(context)).await
    }

    /// The socket, and the connection's state in rustls.
    pub fn get_ref(&self) -> (&TcpStream, &CommonState) {
        (&self.tcp, self.tls.common())
    }

    /// The number of encrypted bytes that hopend has not written to the socket yet.
    pub fn unwritten(&self) -> u64 {
        self.outgoing.len() as u64
    }

    /// Whether the connection holds no bytes: the caller has read all received data, and the socket has
    /// accepted all written data. False also after the end of the stream or an error.
    pub fn is_quiet(&self) -> bool {
        let windows = [&self.incoming, &self.outgoing];
        let empty = windows.iter().all(|window| window.start == window.end);
        empty
            && self.plain.bytes.is_empty()
            && matches!(self.reading, Reading::Open)
            && self.writing != Writing::Broken
    }

    /// Moves the connection to the tokio runtime of the caller.
    ///
    /// # Errors
    /// The old runtime cannot deregister the socket, or the new one cannot register it.
    pub fn rehome(self) -> io::Result<Self> {
        let tcp = TcpStream::from_std(self.tcp.into_std()?)?;
        Ok(Self { tcp, ..self })
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let standing = self.advance(None).inspect_err(|_| {
                // Send the alert, so that the peer can log the reason.
                let _ = self.poll_send(context);
            })?;
            if matches!(standing, Standing::Traffic | Standing::Full) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_send(context))?;
            let closed = matches!(self.reading, Reading::Closed);
            if closed || ready!(self.poll_receive(context))? == 0 {
                return Poll::Ready(Err(ended_in_handshake()));
            }
        }
    }

    /// Processes the received records until none is left or `room` is full. Decrypted data goes to `room`,
    /// or to `self.plain` if `room` is None. Messages of the protocol itself go to `self.outgoing`.
    fn advance(&mut self, mut room: Option<&mut ReadBuf<'_>>) -> io::Result<Standing> {
        if self.writing == Writing::Broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            let incoming = &mut self.incoming;
            let bytes = &mut incoming.buffer[incoming.start..incoming.end];
            let UnbufferedStatus { mut discard, state } = self.tls.process(bytes);
            let mut standing = None;
            match state {
                Err(error) => {
                    self.writing = Writing::Broken;
                    self.incoming.clear();
                    self.queue_alert();
                    return Err(invalid(error));
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(length) = traffic.peek_len() {
                        let fits = room
                            .as_ref()
                            .is_none_or(|room| room.remaining() >= length.get());
                        let begun = room.as_ref().is_some_and(|room| !room.filled().is_empty());
                        if !fits && begun {
                            standing = Some(Standing::Full);
                            break;
                        }
                        let Some(record) = traffic.next_record() else {
                            break;
                        };
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        match &mut room {
                            Some(room) => {
                                let now = record.payload.len().min(room.remaining());
                                let (now, later) = record.payload.split_at(now);
                                room.put_slice(now);
                                self.plain.push(later);
                            }
                            None => self.plain.push(record.payload),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let outgoing = &mut self.outgoing;
                    let written = match data.encode(outgoing.space()) {
                        Err(EncodeError::InsufficientSize(error)) => {
                            data.encode(outgoing.space_for(error.required_size))
                        }
                        encoded => encoded,
                    };
                    outgoing.end += written.map_err(|error| encode_failed(&error))?;
                }
                // `poll_send` sends the bytes of `outgoing` in order, so there is nothing to do here.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.reading = Reading::Closed,
                Ok(ConnectionState::Closed) => standing = Some(Standing::Traffic),
                Ok(ConnectionState::BlockedHandshake) => standing = Some(Standing::Handshake),
                Ok(ConnectionState::WriteTraffic(_)) => standing = Some(Standing::Traffic),
                Ok(other) => return Err(invalid(format!("TLS came to {other:?}"))),
            }
            self.incoming.consume(discard);
            if let Some(standing) = standing {
                match (&standing, &self.reading) {
                    (Standing::Full, _) => self.reading = Reading::Full,
                    (_, Reading::Full) => self.reading = Reading::Open,
                    _ => {}
                }
                return Ok(standing);
            }
        }
    }

    /// Queues the alert with which rustls answers an error of the peer. After it, rustls must not be called
    /// again.
    fn queue_alert(&mut self) {
        // Without an alert to send, rustls would process the received records again. hopend has discarded them,
        // and rustls panics if it cannot find a record that it has seen before.
        if !self.tls.common().wants_write() {
            return;
        }
        let UnbufferedStatus { state, .. } = self.tls.process(&mut []);
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) = state {
            let written = alert.encode(self.outgoing.space());
            self.outgoing.end += written.unwrap_or_default();
        }
    }

    /// Encrypts as many of `bytes` as the outgoing buffer has room for. Returns how many it has encrypted.
    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.advance(None)?;
        let incoming = &mut self.incoming;
        let waiting = &mut incoming.buffer[incoming.start..incoming.end];
        let UnbufferedStatus { discard, state } = self.tls.process(waiting);
        let encrypted = match state.map_err(invalid)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let outgoing = &mut self.outgoing;
                let space = outgoing.space();
                let bytes = &bytes[..bytes.len().min(max_plaintext_for(space.len()))];
                let written = match traffic.encrypt(bytes, space) {
                    Err(EncryptError::InsufficientSize(error)) => {
                        traffic.encrypt(bytes, outgoing.space_for(error.required_size))
                    }
                    encrypted => encrypted,
                };
                outgoing.end += written.map_err(|error| match error {
                    EncryptError::InsufficientSize(error) => record_needs_more_space(error),
                    EncryptError::EncryptExhausted => invalid(error),
                })?;
                bytes.len()
            }
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        self.incoming.consume(discard);
        Ok(encrypted)
    }

    /// Decrypts received data into `room`, which must be empty. Leaves it empty at the end of the stream.
    fn poll_decrypt(
        &mut self,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.plain.read(room);
        if room.filled().is_empty()
            && let Some(error) = self.take_failure()
        {
            return Poll::Ready(Err(error));
        }
        loop {
            if room.filled().is_empty() || self.incoming.start < self.incoming.end {
                self.advance(Some(room))?;
            }
            // Sends the answer to a key update; if that is not possible now, it leaves with the next bytes. A
            // failure to send is an error of the next write: received data may still be left to read.
            let _ = self.poll_send(context);
            if !room.filled().is_empty() || matches!(self.reading, Reading::Closed) {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(context))? == 0 {
                // Without a close_notify before it, the end may be a truncation.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn take_failure(&mut self) -> Option<io::Error> {
        if !matches!(self.reading, Reading::Failed(_)) {
            return None;
        }
        match std::mem::replace(&mut self.reading, Reading::Open) {
            Reading::Failed(error) => Some(error),
            Reading::Open | Reading::Full | Reading::Closed => None,
        }
    }

    /// Writes the outgoing bytes to the socket. Ready once all are written.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outgoing = &mut self.outgoing;
        while outgoing.start < outgoing.end {
            let bytes = &outgoing.buffer[outgoing.start..outgoing.end];
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(context, bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads bytes from the socket once. Returns their number, 0 at the end of the connection.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let incoming = &mut self.incoming;
        if incoming.space().is_empty() && incoming.space_for(1).is_empty() {
            return Poll::Ready(Err(too_long(incoming.len())));
        }
        let mut space = ReadBuf::new(incoming.space());
        let received = Pin::new(&mut self.tcp).poll_read(context, &mut space);
        let count = space.filled().len();
        incoming.end += count;
        if incoming.start == incoming.end {
            incoming.clear();
        }
        ready!(received)?;
        Poll::Ready(Ok(count))
    }
}

impl<S: Side> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let mut free = ReadBuf::new(room.initialize_unfilled());
        let polled = if free.remaining() == 0 {
            Poll::Ready(Ok(()))
        } else {
            stream.poll_decrypt(context, &mut free)
        };
        let count = free.filled().len();
        room.advance(count);
        match polled {
            Poll::Ready(Err(error)) if count > 0 => {
                stream.reading = Reading::Failed(error);
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }
}

impl<S: Side> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        // A few unsent bytes, such as the last message of a handshake, leave together with the new ones.
        if stream.outgoing.len() > CHEAP_TO_MOVE {
            ready!(stream.poll_send(context))?;
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = stream.encrypt(bytes)?;
        // Bytes that the socket does not accept now leave with the next write or flush.
        match stream.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_send(context))?;
        if stream.writing == Writing::Open {
            stream.writing = Writing::Closed;
            stream.queue_close_notify();
        }
        ready!(stream.poll_send(context))?;
        Pin::new(&mut stream.tcp).poll_shutdown(context)
    }
}

impl<S: Side> TlsStream<S> {
    /// Queues a close_notify, if the state of the connection still allows one.
    fn queue_close_notify(&mut self) {
        if self.advance(None).is_err() {
            return;
        }
        let incoming = &mut self.incoming;
        let waiting = &mut incoming.buffer[incoming.start..incoming.end];
        let UnbufferedStatus { discard, state } = self.tls.process(waiting);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let written = traffic.queue_close_notify(self.outgoing.space());
            self.outgoing.end += written.unwrap_or_default();
        }
        self.incoming.consume(discard);
    }
}

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

impl Window {
    fn new(lean_len: usize) -> Self {
        Self {
            buffer: Buffer::default(),
            start: 0,
            end: 0,
            lean_len,
        }
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    /// The free part of the buffer, after the used range. Moves the used range to the front if that pays.
    fn space(&mut self) -> &mut [u8] {
        self.buffer.lend(self.lean_len);
        if self.start > 0 && (self.end > self.buffer.len() / 2 || self.len() <= CHEAP_TO_MOVE) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Free space for a message of the TLS protocol itself, such as one of a handshake. The buffer grows to
    /// hold `bytes` more bytes, if its largest size and the account allow that. Otherwise the space is shorter.
    fn space_for(&mut self, bytes: usize) -> &mut [u8] {
        let needed = (self.end + bytes).max((self.buffer.len() * 2).min(buffer::SIZE));
        if needed <= buffer::SIZE {
            self.buffer.grow(needed);
        }
        self.space()
    }

    /// Removes the first `count` bytes. Releases the buffer if none is left.
    fn consume(&mut self, count: usize) {
        self.buffer.forget(self.start, self.start + count);
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
        self.buffer.give_back();
    }
}

impl Plain {
    fn charge(&mut self, account: &Arc<MemoryAccount>) {
        let before = self.account.replace(Arc::clone(account));
        if let Some(before) = before {
            before.release(self.bytes.capacity());
        }
        account.hold(self.bytes.capacity());
        self.secret = account.keeps_secrets();
    }

    fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let before = self.bytes.capacity();
        if self.secret && before < self.bytes.len() + bytes.len() {
            // Copies by hand, because a reallocation would leave the old memory unwiped.
            let mut larger = Vec::with_capacity(2 * (self.bytes.len() + bytes.len()));
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
        if let Some(account) = &self.account {
            account.hold(self.bytes.capacity() - before);
        }
    }

    fn read(&mut self, room: &mut ReadBuf<'_>) {
        let waiting = &self.bytes[self.read..];
        let count = waiting.len().min(room.remaining());
        room.put_slice(&waiting[..count]);
        self.read += count;
        if self.read == self.bytes.len() && self.bytes.capacity() > 0 {
            self.clear();
        }
    }

    /// Releases the memory, after wiping secret bytes.
    fn clear(&mut self) {
        drop(self.take_wiped());
    }

    /// Takes the bytes out, and wipes them if they are secret. A function of its own so that a test can see
    /// the wiped bytes.
    fn take_wiped(&mut self) -> Vec<u8> {
        if let Some(account) = &self.account {
            account.release(self.bytes.capacity());
        }
        if self.secret {
            self.bytes.as_mut_slice().zeroize();
        }
        self.read = 0;
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.clear();
    }
}

fn ended_in_handshake() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection ended within the TLS handshake",
    )
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// How many bytes of plaintext fit into `space` bytes once they are encrypted, with [`CHEAP_TO_MOVE`] bytes
/// to spare. At least 1 and at most [`CHUNK`].
fn max_plaintext_for(space: usize) -> usize {
    let records = space / MAX_RECORD_PLAINTEXT + 1;
    let least = space.saturating_sub(records * RECORD_OVERHEAD);
    least.saturating_sub(CHEAP_TO_MOVE).clamp(1, CHUNK)
}

fn too_long(bytes: usize) -> io::Error {
    invalid(format!(
        "a TLS message of more than {bytes} bytes came, which is longer than may be"
    ))
}

fn encode_failed(error: &EncodeError) -> io::Error {
    io::Error::other(error.to_string())
}

fn record_needs_more_space(error: InsufficientSizeError) -> io::Error {
    io::Error::other(format!(
        "a buffer of {} bytes is too small for a TLS record",
        error.required_size
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::Duration;

    use futures_util::poll;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::budget::{LEAN_DIRECTION, MemoryBudget};

    type Server = tokio_rustls::server::TlsStream<TcpStream>;

    fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        static MADE: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
        MADE.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let certificate = made.cert.der().clone();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            // The server uses another cryptographic implementation than the client, if the build has two.
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(certificate).unwrap();
            let client = ClientConfig::builder_with_provider(crate::crypto::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            (Arc::new(server), Arc::new(client))
        })
        .clone()
    }

    async fn pair() -> (TlsStream, Server) {
        let (server, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let name = ServerName::try_from("localhost").unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let connect = async {
            let mut client = TlsStream::connect(client, name, tcp.unwrap()).await?;
            client.flush().await?;
            Ok::<_, io::Error>(client)
        };
        let accept = TlsAcceptor::from(server).accept(accepted);
        let (client, server) = tokio::join!(connect, accept);
        (client.unwrap(), server.unwrap())
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..251_u8).cycle().take(count).collect()
    }

    /// An account without room for a large buffer.
    fn tight() -> Arc<MemoryAccount> {
        Arc::new(MemoryBudget::of(1).session("a", 0).unwrap())
    }

    #[tokio::test]
    async fn megabytes_each_way_into_room_of_any_size() {
        for (room, account) in [
            (1_000, None),
            (16_384, None),
            (16_385, None),
            (400_000, None),
            (1_000, Some(tight())),
            (LEAN_DIRECTION, Some(tight())),
            (400_000, Some(tight())),
        ] {
            let (mut client, mut server) = pair().await;
            if let Some(account) = &account {
                client.charge(account);
            }
            let sent = bytes(3_000_000);
            let expected = sent.clone();
            let echo = tokio::spawn(async move {
                let mut got = vec![0; 3_000_000];
                server.read_exact(&mut got).await.unwrap();
                // The pieces are not aligned with TLS records.
                for piece in got.chunks(70_001) {
                    server.write_all(piece).await.unwrap();
                }
                server.shutdown().await.unwrap();
            });
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            let mut got = Vec::new();
            let mut piece = vec![0; room];
            loop {
                let count = client.read(&mut piece).await.unwrap();
                if count == 0 {
                    break;
                }
                got.extend_from_slice(&piece[..count]);
            }
            assert!(got == expected, "room for {room}, {account:?}");
            echo.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_read_in_part_is_read_on_into_the_same_room() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"abc").await.unwrap();
        server.flush().await.unwrap();
        let mut start = [0; 1];
        client.read_exact(&mut start).await.unwrap();
        server.write_all(b"def").await.unwrap();
        server.flush().await.unwrap();
        let mut rest = [0; 5];
        client.read_exact(&mut rest).await.unwrap();
        assert_eq!((&start, &rest), (b"a", b"bcdef"));
    }

    #[tokio::test]
    async fn writing_goes_on_while_nobody_reads_what_has_come() {
        let (mut client, server) = pair().await;
        let (mut from, mut to) = tokio::io::split(server);
        // More than the buffers of both sockets hold, so that the client holds unread records.
        let sent = bytes(400_000);
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            to.write_all(&sent).await.unwrap();
            to.flush().await.unwrap();
            to
        });
        let mut first = [0; 10];
        client.read_exact(&mut first).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut got = vec![0; 5_000_000];
            from.read_exact(&mut got).await.unwrap();
            got
        });
        client.write_all(&bytes(5_000_000)).await.unwrap();
        client.flush().await.unwrap();
        assert!(reading.await.unwrap() == bytes(5_000_000));
        let mut rest = vec![0; 400_000 - 10];
        client.read_exact(&mut rest).await.unwrap();
        assert!([&first[..], &rest].concat() == expected);
        drop(sending.await.unwrap());
    }

    #[tokio::test]
    async fn new_keys_of_the_server_change_nothing_for_the_reader() {
        let (mut client, mut server) = pair().await;
        for round in 0..5_u8 {
            server.write_all(&[round; 40_000]).await.unwrap();
            server.get_mut().1.refresh_traffic_keys().unwrap();
            server.write_all(&[round + 100; 10]).await.unwrap();
            server.flush().await.unwrap();
            let mut got = vec![0; 40_010];
            client.read_exact(&mut got).await.unwrap();
            assert!(got[..40_000].iter().all(|&byte| byte == round));
            assert!(got[40_000..].iter().all(|&byte| byte == round + 100));
            client.write_all(&[round; 3]).await.unwrap();
            client.flush().await.unwrap();
            let mut back = [0; 3];
            server.read_exact(&mut back).await.unwrap();
            assert_eq!(back, [round; 3]);
        }
    }

    #[tokio::test]
    async fn the_end_of_the_handshake_leaves_with_the_first_bytes() {
        let (server, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let name = ServerName::try_from("localhost").unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let mut accept = Box::pin(TlsAcceptor::from(server).accept(accepted).into_fallible());
        let connect = TlsStream::connect(client, name, tcp.unwrap());
        let mut client = tokio::select! {
            client = connect => client.unwrap(),
            _ = &mut accept => panic!("the server has heard the end"),
        };
        assert!(client.outgoing.len() > 0);
        client.write_all(b"hello").await.unwrap();
        assert_eq!(client.outgoing.len(), 0);
        let mut server = accept.await.map_err(|(error, _)| error).unwrap();
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn an_end_that_is_said_is_told_from_a_cut() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"last words").await.unwrap();
        server.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
        // The direction to the server is still open.
        client.write_all(b"and mine").await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        server.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"and mine");

        let (mut client, mut server) = pair().await;
        server.write_all(b"last words").await.unwrap();
        server.flush().await.unwrap();
        drop(server);
        let mut got = Vec::new();
        let error = client.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(got, b"last words");
    }

    #[tokio::test]
    async fn last_words_are_heard_also_where_nothing_can_be_sent_any_more() {
        let (mut client, mut server) = pair().await;
        let much = bytes(CHUNK);
        let mut writing = Box::pin(async {
            loop {
                client.write_all(&much).await.unwrap();
            }
        });
        // Writes until the socket accepts no more.
        assert!(poll!(&mut writing).is_pending());
        drop(writing);
        assert!(client.outgoing.len() > 0);
        server.write_all(b"last words").await.unwrap();
        server.flush().await.unwrap();
        // The server has not read the client's data, so its close is a reset.
        drop(server);
        client
            .get_ref()
            .0
            .ready(tokio::io::Interest::ERROR)
            .await
            .unwrap();
        assert!(client.flush().await.is_err());
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(got, b"last words");
    }

    /// A server on a thread of its own, which reads at least `limit` bytes and then resets the connection.
    /// Returns its address, and a handle that yields the number of bytes that it has read.
    fn resetting(limit: usize) -> (std::net::SocketAddr, std::thread::JoinHandle<usize>) {
        let (server, _) = configs();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let (tcp, _) = listener.accept().await.unwrap();
            let socket = socket2::SockRef::from(&tcp);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            let mut stream = TlsAcceptor::from(server).accept(tcp).await.unwrap();
            let (mut room, mut count) = (vec![0; MAX_RECORD_PLAINTEXT], 0);
            while count < limit {
                count += stream.read(&mut room).await.unwrap();
            }
            count
        };
        let thread = std::thread::spawn(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(serve)
        });
        (address, thread)
    }

    /// A write that fails has sent nothing, so the relay never counts a message as lost that kdb+ has
    /// received.
    #[tokio::test]
    async fn a_peer_that_resets_has_read_nothing_of_a_write_that_fails() {
        let (_, client) = configs();
        for round in 0..100 {
            let mut random = fastrand::Rng::with_seed(round);
            let (address, server) = resetting(random.usize(1..400_000));
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsStream::connect(Arc::clone(&client), name, tcp).await;
            let mut stream = stream.unwrap();
            stream.flush().await.unwrap();
            let message = bytes(random.usize(1..300_000));
            let (mut taken, mut at) = (0, 0);
            while let Ok(count) = stream.write(&message[at..]).await {
                taken += count;
                at = (at + count) % message.len();
                tokio::task::yield_now().await;
            }
            let read = tokio::task::spawn_blocking(|| server.join().unwrap());
            let read = read.await.unwrap();
            assert!(read <= taken, "round {round}: {read} read, {taken} taken");
        }
    }

    #[tokio::test]
    async fn what_came_behind_what_was_asked_for_is_not_quiet() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"a").await.unwrap();
        server.write_all(b"b").await.unwrap();
        let mut peeked = [0; 100];
        while client.get_ref().0.peek(&mut peeked).await.unwrap() < 2 * (5 + 1 + 1 + 16) {
            tokio::task::yield_now().await;
        }
        let mut first = [0; 1];
        client.read_exact(&mut first).await.unwrap();
        assert!(!client.is_quiet(), "there is one more");
        client.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"b");
        assert!(client.is_quiet());
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let (mut client, mut server) = pair().await;
        server.write_all(&bytes(100_000)).await.unwrap();
        server.flush().await.unwrap();
        let mut got = vec![0; 100_000];
        client.read_exact(&mut got).await.unwrap();
        client.write_all(b"thanks").await.unwrap();
        client.flush().await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(1), client.read(&mut got)).await;
        assert!(nothing.is_err(), "nothing comes");
        assert!(client.incoming.buffer.is_empty() && client.outgoing.buffer.is_empty());
        assert_eq!(client.plain.bytes.capacity(), 0);
    }

    #[tokio::test]
    async fn it_moves_from_one_runtime_to_another() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"here").await.unwrap();
        client.flush().await.unwrap();
        let there = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut client = client.rehome().unwrap();
                assert!(client.is_quiet());
                client.write_all(b" and there").await.unwrap();
                client.flush().await.unwrap();
                let mut back = [0; 4];
                client.read_exact(&mut back).await.unwrap();
                back
            })
        });
        let mut got = [0; 14];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"here and there");
        server.write_all(b"back").await.unwrap();
        server.flush().await.unwrap();
        let back = tokio::task::spawn_blocking(|| there.join().unwrap());
        assert_eq!(&back.await.unwrap(), b"back");
    }

    /// Errors inside a handshake message for which rustls sends no alert. The first message states a length
    /// of 16 MB. The second one is interrupted by a record of another type. A record's header holds its
    /// type, version and length.
    const WITHOUT_ALERT: [&[u8]; 2] = [
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x01\x01\x14\x03\x01\x00\x01\x01",
    ];

    #[tokio::test]
    async fn a_handshake_that_rustls_says_nothing_about_is_an_error_of_either_side() {
        let (server, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for bytes in WITHOUT_ALERT {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            stranger.write_all(bytes).await.unwrap();
            let mut served = TlsStream::serve(Arc::clone(&server), accepted).unwrap();
            let error = served.handshake().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            let again = served.handshake().await.unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::BrokenPipe, "{again}");

            let tcp = TcpStream::connect(address).await.unwrap();
            let (mut stranger, _) = listener.accept().await.unwrap();
            stranger.write_all(bytes).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let error = TlsStream::connect(Arc::clone(&client), name, tcp).await;
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    /// A handshake message that states a length of 60,000 bytes, split into records of 1,000 bytes.
    fn pieces() -> Vec<u8> {
        let mut message = vec![1, 0, 0xea, 0x60];
        message.resize(60_004, 7);
        let record = |piece: &[u8]| [&b"\x16\x03\x01\x03\xe8"[..], piece].concat();
        message[..60_000].chunks(1_000).flat_map(record).collect()
    }

    #[tokio::test]
    async fn a_handshake_in_many_pieces_holds_no_more_than_its_guarantee() {
        let (server, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let budget = MemoryBudget::of(1 << 30);
        let memory = Arc::new(budget.try_handshake(48 * 1024).unwrap());
        let mut stranger = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let sending = tokio::spawn(async move {
            let _ = stranger.write_all(&pieces()).await;
            stranger
        });
        let mut served = TlsStream::serve(Arc::clone(&server), accepted).unwrap();
        served.charge(&memory);
        let error = served.handshake().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains("longer than may be"), "{error}");
        drop(sending.await.unwrap());

        // A handshake of the usual length fits.
        let tcp = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let mut served = TlsStream::serve(server, accepted).unwrap();
        served.charge(&memory);
        let name = ServerName::try_from("localhost").unwrap();
        let dial = async {
            let mut client = TlsStream::connect(client, name, tcp).await?;
            client.write_all(b"alice:secret\x06\0").await?;
            client.flush().await
        };
        let mut hello = [0; 14];
        let hear = async {
            served.handshake().await?;
            served.read_exact(&mut hello).await
        };
        let (dialled, heard) = tokio::join!(dial, hear);
        dialled.unwrap();
        heard.unwrap();
        assert_eq!(&hello, b"alice:secret\x06\0");
    }

    #[tokio::test]
    async fn a_login_over_tls_leaves_nothing_in_the_buffers() {
        const LOGIN: &[u8] = b"alice:secret\x06\0";
        let (server, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (accepted, _) = listener.accept().await.unwrap();
        let mut served = TlsStream::serve(server, accepted).unwrap();
        let budget = MemoryBudget::of(1 << 30);
        served.charge(&Arc::new(budget.try_handshake(80 * 1024).unwrap()));
        let name = ServerName::try_from("localhost").unwrap();
        let dial = async {
            let mut client = TlsStream::connect(client, name, tcp.unwrap()).await?;
            client.flush().await?;
            Ok::<_, io::Error>(client)
        };
        let (client, shaken) = tokio::join!(dial, served.handshake());
        let mut client = client.unwrap();
        shaken.unwrap();
        client.write_all(LOGIN).await.unwrap();
        client.flush().await.unwrap();
        // With a part of the next record, the connection keeps its buffer.
        client
            .tcp
            .write_all(b"\x17\x03\x03\x00\x50part")
            .await
            .unwrap();
        let mut peeked = [0; 100];
        let expected = 5 + LOGIN.len() + 1 + 16 + 9;
        while served.get_ref().0.peek(&mut peeked).await.unwrap() < expected {
            tokio::task::yield_now().await;
        }
        let mut first = [0; 3];
        served.read_exact(&mut first).await.unwrap();
        let mut rest = [0; LOGIN.len() - 3];
        served.read_exact(&mut rest).await.unwrap();
        assert_eq!([&first[..], &rest].concat(), LOGIN);
        assert_eq!(served.plain.bytes.capacity(), 0);
        let used = &served.incoming.buffer[..served.incoming.start];
        assert_eq!(used.len(), expected - 9);
        assert!(used.iter().all(|&byte| byte == 0), "{used:?}");
    }

    #[test]
    fn what_waits_decrypted_is_wiped_when_it_goes() {
        let mut plain = Plain::default();
        plain.secret = true;
        plain.push(b"alice:secret");
        assert_eq!(plain.take_wiped(), [0; 12]);
    }

    #[tokio::test]
    async fn what_is_no_tls_is_an_error_of_the_handshake() {
        let (_, client) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (said, kind) in [
            (
                &b"\x01\x00\x00\x00 no TLS at all"[..],
                io::ErrorKind::InvalidData,
            ),
            (b"", io::ErrorKind::UnexpectedEof),
        ] {
            let tcp = TcpStream::connect(address).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            let speaking = tokio::spawn(async move {
                let mut hello = [0; 8];
                accepted.read_exact(&mut hello).await.unwrap();
                accepted.write_all(said).await.unwrap();
                accepted.shutdown().await.unwrap();
                // Waits until the client closes.
                let _ = accepted.read_to_end(&mut Vec::new()).await;
            });
            let name = ServerName::try_from("localhost").unwrap();
            let error = TlsStream::connect(Arc::clone(&client), name, tcp)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind);
            speaking.await.unwrap();
        }
    }
}
