//! A connection from a q client.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::CertificateName;
use crate::identity::client_tls;
use crate::primitives::{kernel_sockets, socket};
use q_relay::budget::MemoryAccount;
use q_relay::relay::SendQueue;
use q_relay::tls_stream::TlsStream;

/// How long a client may take to close the connection after hopend has sent the end of the stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection from a client.
#[derive(Debug)]
pub enum ClientStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP, with TLS.
    Tls(Box<TlsStream<UnbufferedServerConnection>>),
}

/// Why a client's TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The first byte of the client is not that of a TLS handshake.
    #[error("the client does not speak TLS to a TLS port. Fix: dial it as :tcps://host:port.")]
    NotTls,
    /// The client closed, or its connection broke.
    #[error("the client went away before its TLS handshake was complete")]
    Gone,
    /// The client or hopend rejected the handshake, for example because of a certificate or a TLS version.
    #[error("TLS with the client failed")]
    Tls(#[source] io::Error),
}

/// A connection that belongs to no tokio runtime, so that it can move from one to another.
#[derive(Debug)]
pub enum Detached {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Registers the connection with the tokio runtime of the caller.
    ///
    /// # Errors
    /// The runtime cannot register the socket.
    pub fn attach(self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(stream) => ClientStream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => ClientStream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl ClientStream {
    /// Makes a TCP connection expect a TLS handshake. Leaves other connections as they are.
    ///
    /// # Errors
    /// rustls rejects the configuration. The error is the unchanged connection.
    pub fn with_tls(self, config: Arc<ServerConfig>) -> Result<Self, Self> {
        let Self::Tcp(stream) = self else {
            return Ok(self);
        };
        match UnbufferedServerConnection::new(config) {
            Ok(tls) => Ok(Self::Tls(Box::new(TlsStream::over(stream, tls)))),
            Err(_) => Err(Self::Tcp(stream)),
        }
    }

    /// Charges the buffers to `account` from now on. Only a connection with TLS has any.
    pub fn charge(&mut self, account: &Arc<MemoryAccount>) {
        if let Self::Tls(stream) = self {
            stream.charge(account);
        }
    }

    /// Completes the TLS handshake. Returns the names in the client's certificate, and None if the client
    /// has no certificate or the connection has no TLS. Cancel-safe.
    ///
    /// # Errors
    /// The client does not speak TLS or has gone, or the client or hopend rejected the handshake.
    pub async fn shake_hands(&mut self) -> Result<Option<Vec<CertificateName>>, HandshakeError> {
        /// The first byte of a TLS record that belongs to a handshake.
        const HANDSHAKE: u8 = 0x16;
        let Self::Tls(stream) = self else {
            return Ok(None);
        };
        let mut first = [0];
        match stream.get_ref().0.peek(&mut first).await {
            Ok(1..) if first[0] != HANDSHAKE => return Err(HandshakeError::NotTls),
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(HandshakeError::Gone),
        }
        stream
            .handshake()
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => HandshakeError::Tls(error),
                _ => HandshakeError::Gone,
            })?;
        let certificates = stream.get_ref().1.peer_certificates();
        Ok(certificates
            .and_then(|all| all.first())
            .map(client_tls::names))
    }

    /// The TCP connection, also under TLS. None over a Unix socket.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    /// Whether the kernel knows that the client reads nothing any more. That is so if the client has closed
    /// its Unix socket, if it has reset its TCP connection, or if the kernel has given the connection up.
    pub fn is_closed(&self) -> bool {
        // `now_or_never` only reads the readiness that the runtime already knows. A closed connection stays
        // marked as closed in it.
        let ready = match self {
            Self::Unix(stream) => stream.ready(Interest::WRITABLE).now_or_never(),
            Self::Tcp(stream) => stream.ready(Interest::WRITABLE).now_or_never(),
            Self::Tls(stream) => {
                let tcp = stream.get_ref().0;
                tcp.ready(Interest::WRITABLE).now_or_never()
            }
        };
        matches!(ready, Some(Ok(ready)) if ready.is_write_closed())
    }

    /// Removes the connection from its tokio runtime.
    ///
    /// # Errors
    /// The runtime cannot deregister the socket, or the connection already uses TLS.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Self::Unix(stream) => Detached::Unix(stream.into_std()?),
            Self::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// The address that the client dialled. None over a Unix socket.
    pub fn server(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// Closes the connection regularly: the client receives all written bytes, then the end of the stream.
    /// hopend reads and discards what the client still sends, because a close with unread input would be a
    /// reset.
    pub async fn close(mut self) {
        let close = async {
            self.shutdown().await?;
            // The buffer is part of every session's task from its start, so it is small.
            let mut ignored = [0; 256];
            while self.read(&mut ignored).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // After an error or a timeout, hopend closes the connection all the same.
        let _ = timeout(CLOSE_TIMEOUT, close).await;
    }

    /// Closes the connection at once. Over TCP the client sees a reset.
    pub fn reset(self) {
        if let Some(stream) = self.tcp() {
            // If the option cannot be set, the client sees a regular end.
            let _ = socket::reset_on_close(stream);
        }
    }
}

impl SendQueue for ClientStream {
    /// 0 over a Unix socket: a write puts the bytes directly into the client's receive queue.
    fn unsent(&self) -> u64 {
        match self {
            Self::Tcp(tcp) => kernel_sockets::unsent(tcp),
            Self::Tls(stream) => stream.unwritten() + kernel_sockets::unsent(stream.get_ref().0),
            Self::Unix(_) => 0,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => match Pin::new(stream).poll_read(context, buffer) {
                // Many clients close without a close_notify of TLS. The relay detects a truncation without
                // it, because each q message states its length.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use tokio::net::TcpListener;

    async fn expect_end_of_stream(stream: &mut ClientStream) {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    async fn wait_until_closed(stream: &ClientStream) {
        let closed = async {
            while !stream.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), closed).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_ended_its_side_is_told_from_one_that_was_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let mut client = dialled.await.unwrap();
        let mut stream = ClientStream::Tcp(listener.accept().await.unwrap().0);
        client.shutdown().await.unwrap();
        expect_end_of_stream(&mut stream).await;
        assert!(!stream.is_closed());
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        wait_until_closed(&stream).await;
    }

    #[tokio::test]
    async fn a_client_at_a_unix_socket_that_ended_its_side_is_told_from_one_that_closed() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        let mut stream = ClientStream::Unix(stream);
        client.shutdown().await.unwrap();
        expect_end_of_stream(&mut stream).await;
        assert!(!stream.is_closed());
        drop(client);
        wait_until_closed(&stream).await;
    }
}
