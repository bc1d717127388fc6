//! Memory stays within its budget, whatever clients send and do not read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hopend::telemetry::status::Status;
use q_ipc::value::Value;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::certificates::Authority;
use crate::support::qclient::Refused;
use crate::support::{Daemon, Log, QClient, Stage, process};

/// The header of an async message of 256 GiB, which nobody ever finishes.
const ENDLESS: [u8; 8] = [1, 0, 0, 0x40, 0, 0, 0, 0];

/// kdb+ over TLS that takes every login and then sends without end and reads nothing.
async fn flooding_kdb(authority: &Authority) -> u16 {
    let certificate = authority.server();
    let chain = CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(q_relay::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = small_socket();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1_024).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            sessions.spawn(async move {
                let mut stream = acceptor.accept(tcp).await?;
                while stream.read_u8().await? != 0 {}
                stream.write_all(&[6]).await?;
                Box::pin(flood(stream)).await
            });
        }
    });
    port
}

/// A socket of which the kernel buffers little, so that who writes to it stalls soon.
fn small_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap();
    socket
}

/// Writes one message that never ends.
async fn flood(mut stream: impl tokio::io::AsyncWrite + Unpin) -> std::io::Result<()> {
    stream.write_all(&ENDLESS).await?;
    let piece = [7; 16 * 1024];
    loop {
        stream.write_all(&piece).await?;
        stream.flush().await?;
    }
}

/// Asks the daemon as `hopend status` does.
async fn status(config: &Path) -> Status {
    let mut command = process::command(&["status", "--json", "--config", config.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await;
    serde_json::from_slice(&output.unwrap().stdout).unwrap()
}

/// Returns once no byte moves any more in any session of the endpoint.
async fn stalled(config: &Path, sessions: usize) -> Status {
    let mut before = Vec::new();
    loop {
        let now = status(config).await;
        let moved: Vec<_> = now
            .sessions
            .iter()
            .filter(|row| row.endpoint == "flood")
            .map(|row| (row.session, row.bytes_up, row.bytes_down))
            .collect();
        if moved.len() == sessions && moved == before {
            return now;
        }
        before = moved;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_stalled_sessions_stay_within_a_share_and_another_user_goes_on() {
    const SESSIONS: usize = 200;
    const BUDGET: u64 = 64_000_000;
    let authority = Authority::new("test CA");
    let port = flooding_kdb(&authority).await;
    let files = tempfile::tempdir().unwrap();
    let ca = files.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let daemon = Daemon::with(|config| {
        let control = files.path().join("control");
        config
            .daemon(|daemon| {
                daemon
                    .key("max_memory", i64::try_from(BUDGET).unwrap())
                    .control(control.to_str().unwrap())
            })
            .add_endpoint("flood", |flood| {
                flood
                    .connect(format!(":tcps://localhost:{port}"))
                    .login("client")
                    .ca_file(ca.to_str().unwrap())
                    .connect_timeout("60s")
            })
    })
    .await;
    let before = daemon.process.own_memory();
    let mut clients = JoinSet::new();
    for _ in 0..SESSIONS {
        let stream = small_socket().connect(daemon.address("flood"));
        let client = QClient::log_in(stream.await.unwrap(), "", "").await;
        let client = client.unwrap();
        clients.spawn(Box::pin(flood(client.stream)));
    }
    let now = stalled(&daemon.config_path(), SESSIONS).await;
    let memory = now.memory.unwrap();
    let grown_kib = daemon.process.own_memory().saturating_sub(before);
    println!(
        "{SESSIONS} stalled sessions: {} KiB each in RAM, {} bytes charged",
        grown_kib / SESSIONS as u64,
        memory.used_bytes
    );
    assert_eq!(memory.budget_bytes, BUDGET);
    // Large buffers take the third that one user may have of them; the other sessions have what they
    // always have, 80 KiB.
    assert!(memory.used_bytes > BUDGET * 3 / 10, "{memory:?}");
    assert!(memory.used_bytes < BUDGET * 3 / 5, "{memory:?}");
    // Without a budget each of them holds 620 KiB: 127 MB.
    assert!(grown_kib * 1024 < BUDGET * 5 / 4, "{grown_kib} KiB");

    let password = std::fs::read_to_string(daemon.folder.path().join("alice.password")).unwrap();
    let hdb = daemon.address("hdb");
    let mut hers = QClient::open(hdb, "alice", password.trim_end())
        .await
        .unwrap();
    let much = hers.ask("sum til 10").await;
    assert_eq!(much, Ok(Value::Long(45)));
    let long = "x".repeat(1_000_000);
    let answer = hers.ask(&format!("\"{long}\"")).await;
    assert_eq!(answer, Ok(Value::Chars(long.into_bytes())));
    // The first user's idle handles go on as well, in smaller steps.
    let mut own = daemon.open("hdb").await;
    let long = "y".repeat(300_000);
    let answer = own.ask(&format!("\"{long}\"")).await;
    assert_eq!(answer, Ok(Value::Chars(long.into_bytes())));
    clients.shutdown().await;
}

/// hopend answers a client that speaks HTTP, and waits for it to close. Until then the client counts as one
/// that has not said who it is: otherwise such clients could use up all file descriptors.
#[tokio::test]
async fn a_refused_client_that_stays_counts_until_its_connection_is_closed() {
    let stage = Stage::start().await;
    let handshakes = || stage.app.status().memory.unwrap().handshakes_bytes;
    let mut client = TcpStream::connect(stage.address("hdb")).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    assert!(handshakes() > 0, "the refused client is not counted");
    drop(client);
    while handshakes() > 0 {
        tokio::task::yield_now().await;
    }
}

/// hopend reads no more of a client that has not said who it is than q needs.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_of_128_kib_hold_16_at_most() {
    const CLIENTS: usize = 400;
    let daemon = Daemon::start().await;
    let before = daemon.process.own_memory();
    let mut long = JoinSet::new();
    let mut silent = Vec::new();
    for number in 0..CLIENTS {
        let mut client = TcpStream::connect(daemon.address("hdb")).await.unwrap();
        if number % 2 == 0 {
            client.write_all(&[b'x'; 16_000]).await.unwrap();
            silent.push(client);
        } else {
            long.spawn(async move {
                // What is not read in full may end in a reset.
                let _ = client.write_all(&[b'x'; 128_000]).await;
                let mut answer = [0];
                let end = tokio::time::timeout(Duration::from_secs(8), client.read(&mut answer));
                matches!(end.await, Ok(Ok(0) | Err(_)))
            });
        }
    }
    let refused = long.join_all().await;
    let grown_kib = daemon.process.own_memory().saturating_sub(before);
    println!(
        "{CLIENTS} handshakes: {} KiB each",
        grown_kib / CLIENTS as u64
    );
    assert!(
        refused.iter().all(|refused| *refused),
        "a handshake of 128 KB is waited for: {grown_kib} KiB"
    );
    // 200 of 16 KiB, and what 400 sessions have beside.
    assert!(grown_kib < 20_000, "{grown_kib} KiB");
    drop(silent);
}

#[tokio::test]
async fn at_the_limit_handshakes_are_refused_and_live_sessions_go_on() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .daemon(|daemon| daemon.max_memory("16MiB"))
        .start()
        .await;
    let mut live = stage.open("hdb").await;
    let budget = stage.app.services().limits.memory();
    assert_eq!(budget.limit(), 16 << 20);
    // Users who hold as much as they may, until next to nothing is left.
    let mut held = Vec::new();
    for user in 0..16 {
        while let Ok(account) = budget.session(&format!("user {user}"), 64 * 1024) {
            held.push(account);
        }
    }
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    log.line_with(&[
        "session refused",
        "hopend has no memory for a handshake",
        "(max_memory of [daemon])",
        "Fix: ",
        "kind=\"limit\"",
    ])
    .await;
    let long = "x".repeat(1_000_000);
    let answer = live.ask(&format!("\"{long}\"")).await;
    assert_eq!(answer, Ok(Value::Chars(long.into_bytes())));

    let status = stage.app.status();
    assert_eq!(status.memory.unwrap().used_bytes, budget.used() as u64);
    drop(held);
    let mut next = stage.open("hdb").await;
    assert_eq!(next.ask("1+1").await, Ok(Value::Long(2)));
}

#[tokio::test]
async fn a_user_with_a_full_share_gets_no_further_session_and_others_do() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .daemon(|daemon| daemon.max_memory("16MiB"))
        .start()
        .await;
    let budget = stage.app.services().limits.memory();
    let mut held = Vec::new();
    let name = crate::support::account();
    while let Ok(account) = budget.session(&name, 64 * 1024) {
        held.push(account);
    }
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    log.line_with(&[
        "session refused",
        "no memory for a session of user",
        "by the sessions of this user",
        "Fix: ",
        "kind=\"limit\"",
    ])
    .await;
    let mut hers = QClient::open(stage.address("hdb"), "alice", &stage.password())
        .await
        .unwrap();
    assert_eq!(hers.ask("1+1").await, Ok(Value::Long(2)));
    drop(held);
    stage.open("hdb").await;
}
