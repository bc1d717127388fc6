//! The load: q clients, over TLS where nothing else stands in between.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message;
use q_ipc::value::vector_header;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes read and written at a time.
const CHUNK: usize = 256 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How clients dial.
#[derive(Clone)]
pub struct Dial {
    pub address: SocketAddr,
    /// Where the client speaks TLS itself.
    pub tls: Option<Arc<ClientConfig>>,
}

/// An open handle.
pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// What clients of the bench's server trust.
pub fn tls(folder: &Path) -> std::io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(folder.join("ca.pem")).map_err(std::io::Error::other)?;
    roots.add(ca).map_err(std::io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots);
    Ok(Arc::new(config.with_no_client_auth()))
}

impl Client {
    /// `hopen`.
    pub async fn open(dial: &Dial) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(dial.address).await?;
        tcp.set_nodelay(true)?;
        let mut stream: Box<dyn Stream> = match &dial.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                let connector = TlsConnector::from(Arc::clone(config));
                Box::new(connector.connect(name, tcp).await?)
            }
        };
        stream.write_all(b"bench:secret\x06\0").await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// A message of 16 bytes and an answer of 16.
    pub async fn round_trip(&mut self) -> std::io::Result<()> {
        let question = message::text(MessageType::Sync, "?!");
        self.stream.write_all(&question).await?;
        self.stream.flush().await?;
        let mut answer = [0; 16];
        self.stream.read_exact(&mut answer).await.map(drop)
    }

    /// Asks for an answer of so many bytes.
    pub async fn get(&mut self, count: u64) -> std::io::Result<()> {
        let question = message::text(MessageType::Sync, &format!("get {count}"));
        self.stream.write_all(&question).await?;
        self.stream.flush().await?;
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).await?;
        let header = Header::parse(head).map_err(std::io::Error::other)?;
        let mut left = header.length - HEADER_LEN as u64;
        self.buffer.resize(CHUNK, 0);
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = self.stream.read(&mut self.buffer[..now]).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
        }
        self.buffer = Vec::new();
        Ok(())
    }

    /// Sends so many bytes and waits for the answer.
    pub async fn put(&mut self, count: u64) -> std::io::Result<()> {
        static BYTES: [u8; CHUNK] = [0x5a; CHUNK];
        let vector = vector_header(4, count, true);
        let header = Header {
            little_endian: true,
            message_type: MessageType::Sync,
            compression: 0,
            length: (HEADER_LEN + vector.len()) as u64 + count,
        };
        let mut head = header.encode().to_vec();
        head.extend_from_slice(&vector);
        self.stream.write_all(&head).await?;
        let mut left = count;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            self.stream.write_all(&BYTES[..now]).await?;
            left -= now as u64;
        }
        self.stream.flush().await?;
        let mut answer = [0; 16];
        self.stream.read_exact(&mut answer).await.map(drop)
    }
}
