//! TLS towards kdb+: sessions are resumed, and the name is what counts.

use std::time::Duration;

use hopend::config::Address;
use hopend::error::chain;
use hopend::q::handshake::Hello;
use hopend::sim::{Options, Simulator};
use hopend::upstream::tls::TlsConfigs;
use hopend::upstream::{self, Upstream, UpstreamError, UpstreamStream};
use rustls::HandshakeKind;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

fn handshake_of(upstream: &Upstream) -> HandshakeKind {
    match &upstream.stream {
        UpstreamStream::Tls(stream) => stream.get_ref().1.handshake_kind().unwrap(),
        UpstreamStream::Plain(_) => panic!("no TLS"),
    }
}

#[tokio::test]
async fn the_second_connection_resumes_the_session_of_the_first() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, sim.ca_pem()).unwrap();
    let tls = TlsConfigs::default().config(Some(&ca_file)).unwrap();
    let (port, user, password) = sim.plain();
    let hello = Hello {
        user: user.into(),
        password: password.into(),
        capability: Some(6),
    };
    let address = |host: &str| Address {
        tls: true,
        host: host.into(),
        port,
    };
    let localhost = address("localhost");
    let first = upstream::open(&localhost, Some(&tls), &hello, LIMIT)
        .await
        .unwrap();
    assert_eq!(handshake_of(&first), HandshakeKind::Full);
    let second = upstream::open(&localhost, Some(&tls), &hello, LIMIT)
        .await
        .unwrap();
    assert_eq!(handshake_of(&second), HandshakeKind::Resumed);

    // The certificate is for this address as well.
    let by_address = upstream::open(&address("127.0.0.1"), Some(&tls), &hello, LIMIT).await;
    assert!(by_address.is_ok(), "{by_address:?}");
}

/// The same server answers at an address that its certificate does not carry.
#[tokio::test]
async fn a_certificate_without_the_dialled_name_is_refused() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, sim.ca_pem()).unwrap();
    let tls = TlsConfigs::default().config(Some(&ca_file)).unwrap();
    let (port, user, password) = sim.plain();
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let other = Address {
        tls: true,
        host: "127.0.0.2".into(),
        port: listener.local_addr().unwrap().port(),
    };
    let passed_on = tokio::spawn(async move {
        let (mut from, _) = listener.accept().await.unwrap();
        let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        copy_bidirectional(&mut from, &mut to).await
    });
    let hello = Hello {
        user: user.into(),
        password: password.into(),
        capability: Some(6),
    };
    let refused = upstream::open(&other, Some(&tls), &hello, LIMIT).await;
    let Err(error @ UpstreamError::Tls { .. }) = refused else {
        panic!("{refused:?}");
    };
    let text = chain(&error);
    assert!(text.contains("not valid for name"), "{text}");
    // The server was reached: nothing but the certificate stood in the way.
    assert!(passed_on.is_finished() || passed_on.await.is_ok());
}
