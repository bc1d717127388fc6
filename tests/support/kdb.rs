//! A kdb+ that the test plays itself, byte by byte, behind the endpoint `plain`.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::certificates::Authority;
use super::configuration::EndpointTable;

/// A connection on which hopend has logged in.
pub type Wire = Either<TcpStream, TlsStream<TcpStream>>;

/// A listener that takes the part of kdb+, with TLS or without.
pub struct Kdb {
    listener: TcpListener,
    tls: Option<(TlsAcceptor, tempfile::NamedTempFile)>,
}

impl Kdb {
    pub async fn plain() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            tls: None,
        }
    }

    pub async fn with_tls() -> Self {
        let authority = Authority::new("kdb+");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &authority.pem).unwrap();
        let config = Arc::new(authority.server().serves());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            tls: Some((TlsAcceptor::from(config), file)),
        }
    }

    /// Has an endpoint lead to this listener.
    pub fn behind_plain(&self, plain: EndpointTable) -> EndpointTable {
        let port = self.listener.local_addr().unwrap().port();
        match &self.tls {
            Some((_, file)) => plain
                .connect(format!(":tcps://localhost:{port}"))
                .ca_file(file.path().to_str().unwrap()),
            None => plain
                .connect(format!(":localhost:{port}"))
                .without("ca_file"),
        }
    }

    /// Accepts the next connection and its login.
    pub async fn accept(&self) -> Wire {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let mut wire = match &self.tls {
            Some((acceptor, _)) => Either::Right(acceptor.accept(tcp).await.unwrap()),
            None => Either::Left(tcp),
        };
        while wire.read_u8().await.unwrap() != 0 {}
        wire.write_all(&[3]).await.unwrap();
        wire.flush().await.unwrap();
        wire
    }
}

/// The TCP connection under a connection with or without TLS.
pub fn tcp(wire: &Wire) -> &TcpStream {
    match wire {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}
