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

/// How long a client may take to notice that the connection is over.
const LINGER: Duration = Duration::from_secs(2);

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

/// How a client's TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Its first byte is none of TLS.
    #[error("the client does not speak TLS to a TLS port. Fix: dial it as :tcps://host:port.")]
    NotTls,
    /// It went away.
    #[error("the client went away before its TLS handshake was complete")]
    Gone,
    /// One of both sides does not take what the other one offers.
    #[error("TLS with the client failed")]
    Tls(#[source] io::Error),
}

/// A connection on its way from one runtime to another.
#[derive(Debug)]
pub enum Detached {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Puts it on the runtime that this is called from.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn attach(self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(stream) => ClientStream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => ClientStream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl ClientStream {
    /// Expects TLS from the client, if it comes over TCP.
    ///
    /// # Errors
    /// The connection as it was: rustls refused the configuration.
    pub fn with_tls(self, config: Arc<ServerConfig>) -> Result<Self, Self> {
        let Self::Tcp(stream) = self else {
            return Ok(self);
        };
        match UnbufferedServerConnection::new(config) {
            Ok(tls) => Ok(Self::Tls(Box::new(TlsStream::over(stream, tls)))),
            Err(_) => Err(Self::Tcp(stream)),
        }
    }

    /// Charges its buffers, which TLS alone has, to `account` from now on.
    pub fn charge(&mut self, account: &Arc<MemoryAccount>) {
        if let Self::Tls(stream) = self {
            stream.charge(account);
        }
    }

    /// The TLS handshake, where there is one, and what the client's certificate calls it. Cancel-safe.
    ///
    /// # Errors
    /// The client does not want, or may not.
    pub async fn shake_hands(&mut self) -> Result<Option<Vec<CertificateName>>, HandshakeError> {
        /// The type of a handshake record.
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

    /// The TCP connection, if it is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    /// Whether the client is known to read nothing any more: it has closed its Unix socket, or its TCP
    /// connection was reset, or was given up by the kernel.
    pub fn is_closed(&self) -> bool {
        // Once it is, that stays with the readiness, which is never waited for here.
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

    /// Takes the connection off the runtime that accepted it.
    ///
    /// # Errors
    /// The runtime does not let go of it, or TLS has begun.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Self::Unix(stream) => Detached::Unix(stream.into_std()?),
            Self::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// The address that was dialled, over TCP.
    pub fn server(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// Ends the connection in order: what was written arrives, then the end of the stream. What the
    /// client still sends is read, as closing over it would turn the end into a reset.
    pub async fn close(mut self) {
        let close = async {
            self.shutdown().await?;
            // Held by every session from its start: small.
            let mut ignored = [0; 256];
            while self.read(&mut ignored).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // A client that has gone, or does not go, is left either way.
        let _ = timeout(LINGER, close).await;
    }

    /// Breaks the connection: over TCP the client sees a reset.
    pub fn reset(self) {
        if let Some(stream) = self.tcp() {
            // Without it the client sees an orderly end, which is the best that is left.
            let _ = socket::reset_on_close(stream);
        }
    }
}

impl SendQueue for ClientStream {
    /// Over a Unix socket what is written is in the client's own queue at once.
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
                // Many clients close without a word of TLS. q's messages tell their length, so a cut
                // inside one is seen without it.
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

    async fn reaches_its_end(stream: &mut ClientStream) {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    async fn is_told(stream: &ClientStream) {
        let told = async {
            while !stream.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), told).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_ended_its_side_is_told_from_one_that_was_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let mut client = dialled.await.unwrap();
        let mut stream = ClientStream::Tcp(listener.accept().await.unwrap().0);
        client.shutdown().await.unwrap();
        reaches_its_end(&mut stream).await;
        assert!(!stream.is_closed());
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        is_told(&stream).await;
    }

    #[tokio::test]
    async fn a_client_at_a_unix_socket_that_ended_its_side_is_told_from_one_that_closed() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        let mut stream = ClientStream::Unix(stream);
        client.shutdown().await.unwrap();
        reaches_its_end(&mut stream).await;
        assert!(!stream.is_closed());
        drop(client);
        is_told(&stream).await;
    }
}
