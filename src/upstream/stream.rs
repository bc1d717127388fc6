//! A connection to kdb+, with TLS or without.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::primitives::kernel_sockets;
use q_relay::budget::MemoryAccount;
use q_relay::relay::SendQueue;
use q_relay::tls_stream::TlsStream;

/// A connection to kdb+.
#[derive(Debug)]
pub enum UpstreamStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream>),
}

impl UpstreamStream {
    /// Whether no byte waits to be read or sent, and kdb+ has not ended the stream. Asks the kernel,
    /// because the runtime may not have noticed new bytes yet.
    pub fn is_silent(&self) -> bool {
        let quiet = match self {
            Self::Plain(_) => true,
            Self::Tls(stream) => stream.is_quiet(),
        };
        let mut byte = [MaybeUninit::uninit()];
        let next = SockRef::from(self.tcp()).peek(&mut byte);
        quiet && next.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Charges the memory of the stream's buffers to `account` from now on. Only TLS has buffers.
    pub fn charge(&mut self, account: &Arc<MemoryAccount>) {
        if let Self::Tls(stream) = self {
            stream.charge(account);
        }
    }

    /// From now on, wipes decrypted bytes from memory once they have been read.
    pub fn keep_secrets(&mut self) {
        if let Self::Tls(stream) = self {
            stream.keep_secrets();
        }
    }

    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Moves the connection to the runtime of the caller.
    ///
    /// # Errors
    /// The old runtime does not release the connection, or the new one cannot watch it.
    pub fn rehome(self) -> io::Result<Self> {
        Ok(match self {
            Self::Plain(tcp) => Self::Plain(TcpStream::from_std(tcp.into_std()?)?),
            Self::Tls(stream) => Self::Tls(Box::new(stream.rehome()?)),
        })
    }
}

impl SendQueue for UpstreamStream {
    fn unsent(&self) -> u64 {
        match self {
            Self::Plain(tcp) => kernel_sockets::unsent(tcp),
            Self::Tls(stream) => stream.unwritten() + kernel_sockets::unsent(stream.get_ref().0),
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
