//! Both ends of the connections on either side of a session.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hopend::upstream::UpstreamStream;
use hopend::upstream::tls::TlsConfigs;
use q_relay::tls_stream::TlsStream;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::Result;

/// kdb+'s end of a connection.
pub(crate) enum Kdb {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// Both ends of a connection over loopback.
pub(crate) async fn tcp() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (here, there) = tokio::join!(
        TcpStream::connect(listener.local_addr()?),
        listener.accept()
    );
    let (here, (there, _)) = (here?, there?);
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    Ok((here, there))
}

/// A session's connection to kdb+, and kdb+'s end of it.
pub(crate) async fn plain() -> Result<(UpstreamStream, Kdb)> {
    let (here, there) = tcp().await?;
    Ok((UpstreamStream::Plain(here), Kdb::Plain(there)))
}

/// The same over TLS, set up as hopend does it.
pub(crate) async fn tls() -> Result<(UpstreamStream, Kdb)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let folder = tempfile::tempdir()?;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, made.cert.pem())?;
    let config = TlsConfigs::default().config(Some(&ca_file))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let server = ServerConfig::builder_with_provider(q_relay::crypto::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let name = ServerName::try_from("localhost")?;
    let (here, there) = tcp().await?;
    let connect = async {
        let mut here = TlsStream::connect(config, name, here).await?;
        here.flush().await?;
        Ok::<_, io::Error>(here)
    };
    let (here, there) = tokio::join!(connect, TlsAcceptor::from(Arc::new(server)).accept(there));
    Ok((
        UpstreamStream::Tls(Box::new(here?)),
        Kdb::Tls(Box::new(there?)),
    ))
}

impl AsyncRead for Kdb {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, room),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, room),
        }
    }
}

impl AsyncWrite for Kdb {
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
