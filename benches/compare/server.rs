//! A q server behind TLS that knows two questions, in a process of its own: `get N` is answered
//! with N bytes, everything else with two characters.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message;
use q_ipc::value::vector_header;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The argument with which this program is the server.
pub const MODE: &str = "serve";
/// Bytes read and written at a time.
const CHUNK: usize = 256 * 1024;
/// A question that is longer than this is data.
const QUESTION: usize = 64;

/// The server at work. Ended when dropped.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Makes certificates in `folder` and starts the server there.
    pub fn start(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        certificates(folder)?;
        std::fs::write(folder.join("password"), "secret\n")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(MODE)
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        Ok(Self {
            address: line.trim().parse()?,
            child,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certificates(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Two certificates of one name would look like one that signed itself.
    authority
        .distinguished_name
        .push(DnType::CommonName, "the bench's authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    std::fs::write(folder.join("server.pem"), certificate.pem())?;
    std::fs::write(folder.join("server.key"), key.serialize_pem())?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    std::fs::write(folder.join("password"), "secret\n")?;
    std::fs::set_permissions(
        folder.join("password"),
        std::fs::Permissions::from_mode(0o600),
    )?;
    Ok(())
}

/// Serves until the process is ended.
pub fn run(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(serve(folder)).expect("a server");
}

async fn serve(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let chain =
        CertificateDer::pem_file_iter(folder.join("server.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener: TcpListener = socket.listen(8_192)?;
    println!("{}", listener.local_addr()?);
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that goes is the client's affair.
            let _ = converse(acceptor, tcp).await;
        });
    }
}

async fn converse(acceptor: TlsAcceptor, tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    while stream.read_u8().await? != 0 {}
    stream.write_all(&[6]).await?;
    stream.flush().await?;
    let small = message::text(MessageType::Response, "ok");
    let mut body = Vec::new();
    loop {
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).await?;
        let header = Header::parse(head).map_err(std::io::Error::other)?;
        let mut left = usize::try_from(header.length).unwrap_or(usize::MAX) - HEADER_LEN;
        let question = left <= QUESTION;
        while left > 0 {
            body.resize(left.min(CHUNK), 0);
            stream.read_exact(&mut body).await?;
            left -= body.len();
        }
        if header.message_type != MessageType::Sync {
            continue;
        }
        match asked(&body).filter(|_| question) {
            Some(count) => answer(&mut stream, count).await?,
            None => stream.write_all(&small).await?,
        }
        stream.flush().await?;
        if body.capacity() > QUESTION {
            body = Vec::new();
        }
    }
}

/// N of `get N`.
fn asked(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body.get(6..)?).ok()?;
    text.strip_prefix("get ")?.parse().ok()
}

async fn answer(
    stream: &mut tokio_rustls::server::TlsStream<TcpStream>,
    count: u64,
) -> std::io::Result<()> {
    static BYTES: [u8; CHUNK] = [0x5a; CHUNK];
    let vector = vector_header(4, count, true);
    let header = Header {
        little_endian: true,
        message_type: MessageType::Response,
        compression: 0,
        length: (HEADER_LEN + vector.len()) as u64 + count,
    };
    let mut head = header.encode().to_vec();
    head.extend_from_slice(&vector);
    stream.write_all(&head).await?;
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&BYTES[..now]).await?;
        left -= now as u64;
        // Everybody else's turn: what is measured is the proxy's fairness, not this one's.
        tokio::task::yield_now().await;
    }
    Ok(())
}
