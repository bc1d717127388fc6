//! TLS towards kdb+: sessions are resumed, and the name is what counts.

use std::time::Duration;

use hopend::config::Address;
use hopend::q::handshake::Hello;
use hopend::sim::{Options, Simulator};
use hopend::upstream::tls::TlsConfigs;
use hopend::upstream::{self, Upstream, UpstreamError, UpstreamStream};
use rustls::HandshakeKind;

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

    // The certificate is for this address as well, and for no other of the loopback's.
    let by_address = upstream::open(&address("127.0.0.1"), Some(&tls), &hello, LIMIT).await;
    assert!(by_address.is_ok(), "{by_address:?}");
    let other = upstream::open(&address("127.1"), Some(&tls), &hello, LIMIT).await;
    assert!(
        matches!(
            other,
            Err(UpstreamError::Tls { .. } | UpstreamError::ServerName { .. })
        ),
        "{other:?}"
    );
}
