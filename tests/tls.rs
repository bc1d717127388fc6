//! TLS towards kdb+: sessions are resumed, and the name is what counts.

use std::sync::Arc;
use std::time::Duration;

use base::error::chain;
use base::kdb_address::KdbAddress;
use hopend::upstream::tls::TlsConfigs;
use hopend::upstream::{self, Upstream, UpstreamError, UpstreamStream};
use q_ipc::handshake::Hello;
use rustls::{ClientConfig, HandshakeKind};
use simulator::{Options, Simulator};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

fn handshake_of(upstream: &Upstream) -> HandshakeKind {
    match &upstream.stream {
        UpstreamStream::Tls(stream) => stream.get_ref().1.handshake_kind().unwrap(),
        UpstreamStream::Plain(_) => panic!("no TLS"),
    }
}

/// A kdb+ that speaks TLS, and what dials it.
struct Kdb {
    tls: Arc<ClientConfig>,
    hello: Hello,
    port: u16,
    _sim: Simulator,
}

impl Kdb {
    async fn start() -> Self {
        let sim = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, sim.ca_pem()).unwrap();
        let plain = sim.plain();
        Self {
            tls: TlsConfigs::default().config(Some(&ca_file)).unwrap(),
            hello: Hello {
                user: plain.user.clone(),
                password: plain.password.as_str().into(),
                capability: Some(6),
            },
            port: plain.port,
            _sim: sim,
        }
    }

    async fn open(&self, host: &str, port: u16) -> Result<Upstream, UpstreamError> {
        let address = KdbAddress {
            tls: true,
            host: host.into(),
            port,
        };
        upstream::open(&address, Some(&self.tls), &self.hello, LIMIT).await
    }
}

#[tokio::test]
async fn the_second_connection_resumes_the_session_of_the_first() {
    let kdb = Kdb::start().await;
    let first = kdb.open("localhost", kdb.port).await.unwrap();
    assert_eq!(handshake_of(&first), HandshakeKind::Full);
    let second = kdb.open("localhost", kdb.port).await.unwrap();
    assert_eq!(handshake_of(&second), HandshakeKind::Resumed);

    // The certificate is for this address as well.
    let by_address = kdb.open("127.0.0.1", kdb.port).await;
    assert!(by_address.is_ok(), "{by_address:?}");
}

/// The same server answers at an address that its certificate does not carry.
#[tokio::test]
async fn a_certificate_without_the_dialled_name_is_refused() {
    let kdb = Kdb::start().await;
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = kdb.port;
    tokio::spawn(async move {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
        copy_bidirectional(&mut from, &mut to).await
    });
    let refused = kdb.open("127.0.0.2", port).await;
    let Err(error @ UpstreamError::Tls { .. }) = refused else {
        panic!("{refused:?}");
    };
    // The server was reached: its certificate alone stood in the way.
    let text = chain(&error);
    assert!(text.contains("not valid for name"), "{text}");
}
