//! A q client over TLS that opens signed connection strings, for the tests of this crate and of `finspace`.

#![allow(dead_code, reason = "not every test program uses every function")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message::text;
use q_ipc::value::{Value, decode_message};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) async fn start() -> Simulator {
    Simulator::start(Options::default()).await.unwrap()
}

/// Port, user and password of a connection string.
pub(crate) fn parts(string: &str) -> (u16, String, String) {
    let rest = string.strip_prefix(":tcps://localhost:").unwrap();
    let mut parts = rest.splitn(3, ':').map(str::to_owned);
    let port = parts.next().unwrap().parse().unwrap();
    (port, parts.next().unwrap(), parts.next().unwrap())
}

pub(crate) async fn tls(sim: &Simulator, port: u16) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(sim.ca_pem().as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
}

/// Logs in with this string; `None` when the server closes without an answer.
pub(crate) async fn open(sim: &Simulator, string: &str) -> Option<TlsStream<TcpStream>> {
    let (port, user, password) = parts(string);
    open_with(sim, port, &format!("{user}:{password}\x06\0")).await
}

pub(crate) async fn open_with(
    sim: &Simulator,
    port: u16,
    login: &str,
) -> Option<TlsStream<TcpStream>> {
    let mut stream = tls(sim, port).await.unwrap();
    stream.write_all(login.as_bytes()).await.unwrap();
    let mut answer = [0];
    match stream.read(&mut answer).await.unwrap() {
        0 => None,
        _ => Some(stream),
    }
}

pub(crate) async fn alice(sim: &Simulator) -> TlsStream<TcpStream> {
    let string = sim.connection_string("alice", "hdb-cluster").unwrap();
    open(sim, &string).await.unwrap()
}

pub(crate) async fn next(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).await.unwrap();
    let length = Header::parse(head).unwrap().length;
    let mut bytes = head.to_vec();
    bytes.resize(usize::try_from(length).unwrap(), 0);
    stream.read_exact(&mut bytes[HEADER_LEN..]).await.unwrap();
    bytes
}

pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>, question: &str) -> Value {
    stream
        .write_all(&text(MessageType::Sync, question))
        .await
        .unwrap();
    let (header, value) = decode_message(&next(stream).await).unwrap();
    assert_eq!(header.message_type, MessageType::Response);
    value
}

pub(crate) fn in_future() -> (Arc<Mutex<Duration>>, Options) {
    let offset = Arc::new(Mutex::new(Duration::ZERO));
    let clock = offset.clone();
    let options = Options {
        clock: Arc::new(move || SystemTime::now() + *clock.lock().unwrap()),
        ..Options::default()
    };
    (offset, options)
}
