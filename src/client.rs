//! A connection from a q client on this host.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::socket;

/// How long a client may take to notice that the connection is over.
const LINGER: Duration = Duration::from_secs(2);

/// A connection from a client.
#[derive(Debug)]
pub enum ClientStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
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
    /// Sets what every connection gets.
    pub fn tune(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => socket::tune(stream),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Takes the connection off the runtime that accepted it.
    ///
    /// # Errors
    /// The runtime does not let go of it.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Self::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }

    /// The address that was dialled, over TCP.
    pub fn server(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
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
        if let Self::Tcp(stream) = &self {
            // Without it the client sees an orderly end, which is the best that is left.
            let _ = socket::reset_on_close(stream);
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
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
