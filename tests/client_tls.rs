//! TLS towards clients: real handshakes, certificates that name users, and files that change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hopend::credential::{Clock, Sources};
use hopend::daemon::app::App;
use q_ipc::value::Value;
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::certificates::{Authority, Certificate, dial_with};
use crate::support::configuration::{EndpointTable, table};
use crate::support::qclient::Refused;
use crate::support::{Log, QClient, Stage, account, write_configuration};

/// What the files of the endpoint were made from.
pub struct Tls {
    pub stage: Stage,
    pub authority: Authority,
    folder: tempfile::TempDir,
}

/// The server's certificate and key, and the authority that signed them, in a folder.
fn files(folder: &Path) -> [String; 3] {
    ["server.pem", "server.key", "ca.pem"]
        .map(|name| folder.join(name).to_str().unwrap().to_owned())
}

impl Tls {
    /// `hdb` on all addresses, with TLS, and `keys` more of it; alice's certificate is `CN=alice`.
    /// An exposed endpoint `hdb` with more keys.
    pub async fn with(client_ca: bool, hdb: impl FnOnce(EndpointTable) -> EndpointTable) -> Self {
        let authority = Authority::new("test CA");
        let folder = tempfile::tempdir().unwrap();
        authority.server().write(folder.path());
        std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
        let [cert, key, authorities] = files(folder.path());
        let tls = match client_ca {
            true => table([("cert", cert), ("key", key), ("client_ca", authorities)]),
            false => table([("cert", cert), ("key", key)]),
        };
        let stage = Stage::builder()
            .endpoint("hdb", |endpoint| {
                hdb(endpoint.listen("0.0.0.0:0").expose(true).tls(tls))
            })
            .user("alice", |alice| alice.certificate("CN=alice"))
            .start()
            .await;
        Self {
            stage,
            authority,
            folder,
        }
    }

    /// Where it is reached.
    pub fn address(&self) -> std::net::SocketAddr {
        let mut address = self.stage.address("hdb");
        address.set_ip("127.0.0.1".parse().unwrap());
        address
    }

    /// hopen, with what TLS itself refuses as a broken connection.
    pub async fn open(
        &self,
        shown: Option<&Certificate>,
        user: &str,
        password: &str,
    ) -> Result<QClient<TlsStream<TcpStream>>, Refused> {
        let stream = self.authority.dial(self.address(), shown).await;
        QClient::log_in(stream.map_err(Refused::Broken)?, user, password).await
    }
}

#[tokio::test]
async fn a_handle_over_tls_is_a_handle() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(false, |hdb| hdb).await;
    let password = tls.stage.password();
    let mut handle = tls.open(None, "alice", &password).await.unwrap();
    assert_eq!(handle.ask(".z.u").await, Ok(Value::Symbol("alice".into())));
    // Records of 16 KiB, in great number, both ways.
    let long = "x".repeat(1_000_000);
    let asked = handle.ask(&format!("\"{long}\"")).await.unwrap();
    assert_eq!(asked, Value::Chars(long.into_bytes()));
    for (user, password) in [("alice", "wrong"), ("alice", ""), (&account(), "")] {
        let refused = tls.open(None, user, password).await;
        assert!(matches!(refused, Err(Refused::Access)), "{user}");
    }
    // Gone without a word of TLS: as an end, not as a fault.
    drop(handle);
    log.line_with(&["session ended: the client closed", "kind=\"none\""])
        .await;
}

/// Python's ssl is OpenSSL, as q's is.
#[tokio::test]
async fn openssl_opens_a_handle_with_each_version_of_tls() {
    let tls = Tls::with(false, |hdb| hdb).await;
    for version in ["TLSv1_2", "TLSv1_3"] {
        let script = format!(
            "import socket, ssl\n\
             c = ssl.create_default_context(cafile='{}')\n\
             c.minimum_version = c.maximum_version = ssl.TLSVersion.{version}\n\
             s = c.wrap_socket(socket.create_connection(('127.0.0.1', {})), server_hostname='localhost')\n\
             s.sendall(b'alice:{}\\x03\\0')\n\
             print(s.recv(1)[0], s.version())\n\
             s.sendall(bytes.fromhex('01010000110000000a0003000000312b31'))\n\
             print(s.recv(17).hex())\n",
            tls.folder.path().join("ca.pem").display(),
            tls.address().port(),
            tls.stage.password(),
        );
        let mut python = tokio::process::Command::new("python3");
        let output = python.arg("-c").arg(script).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = format!(
            "3 {}\n0102000011000000f90200000000000000\n",
            version.replace('_', ".")
        );
        assert_eq!(
            text,
            expected,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn a_certificate_names_the_user_and_none_gets_no_further_than_tls() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(true, |hdb| hdb).await;
    let (hers, password) = (tls.authority.client("alice"), tls.stage.password());
    for (user, password) in [
        ("", ""),
        ("alice", ""),
        ("alice", &*password),
        ("login17", ""),
    ] {
        let mut handle = tls.open(Some(&hers), user, password).await.unwrap();
        assert_eq!(
            handle.ask(".z.u").await,
            Ok(Value::Symbol("alice".into())),
            "{user}"
        );
    }
    let told = [
        "session open",
        "certificate=\"CN=alice",
        "hopen_user=\"login17\"",
    ];
    log.line_with(&told).await;
    let refused = tls.open(Some(&hers), "alice", "wrong").await;
    assert!(matches!(refused, Err(Refused::Access)));
    let none = tls.open(None, "alice", &password).await;
    assert!(matches!(none, Err(Refused::Broken(_))));
    log.line_with(&[
        "session refused",
        "TLS with the client failed",
        "kind=\"client\"",
    ])
    .await;
    let expired = tls.authority.expired_client("alice");
    let expired = tls.open(Some(&expired), "", "").await;
    assert!(matches!(expired, Err(Refused::Broken(_))));
}

/// The certificate is shown and checked at each hopen, also by a client that would resume a session.
#[tokio::test]
async fn with_client_ca_no_session_of_tls_is_resumed() {
    let tls = Tls::with(true, |hdb| hdb).await;
    let hers = tls.authority.client("alice");
    for version in [&TLS12, &TLS13] {
        let config = tls.authority.client_config(Some(&hers), &[version]);
        for _ in 0..2 {
            let stream = dial_with(Arc::clone(&config), tls.address()).await.unwrap();
            let mut handle = QClient::log_in(stream, "", "").await.unwrap();
            // What the server offers for resumption comes before this answer.
            assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
            let kind = handle.stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Full), "{version:?}");
        }
    }
}

/// Whoever is somebody else elsewhere is nobody here, whatever the password.
#[tokio::test]
async fn a_certificate_of_a_user_of_other_endpoints_tries_no_password() {
    let mut tls = Tls::with(true, |hdb| hdb.users("alice")).await;
    tls.stage.reload(|config| {
        config
            .user("alice", |alice| alice.without("certificate"))
            .add_user("carol", |carol| carol.certificate("CN=carol"))
    });
    let password = tls.stage.password();
    let [carols, nobodys] = ["carol", "host7"].map(|name| tls.authority.client(name));
    let refused = tls.open(Some(&carols), "alice", &password).await;
    assert!(matches!(refused, Err(Refused::Access)));
    tls.open(Some(&nobodys), "alice", &password).await.unwrap();
}

#[tokio::test]
async fn each_side_that_expects_the_other_protocol_is_told() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(false, |hdb| hdb).await;
    let plain = QClient::open(tls.address(), "alice", &tls.stage.password()).await;
    assert!(matches!(plain, Err(Refused::Broken(_))));
    log.line_with(&["does not speak TLS to a TLS port", ":tcps://host:port"])
        .await;
    let address = tls.stage.address("rdb");
    assert!(tls.authority.dial(address, None).await.is_err());
    log.line_with(&["speaks TLS to a plain port"]).await;
}

#[tokio::test]
async fn a_slow_handshake_is_given_up_and_holds_nobody_up() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(false, |hdb| hdb.handshake_timeout("1s")).await;
    let mut slow = TcpStream::connect(tls.address()).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    let password = tls.stage.password();
    tls.open(None, "alice", &password).await.unwrap();
    // Through with TLS, and silent then: the same second counts.
    let mut silent = tls.authority.dial(tls.address(), None).await.unwrap();
    assert!(matches!(silent.read(&mut [0]).await, Ok(0) | Err(_)));
    assert!(matches!(slow.read(&mut [0]).await, Ok(0) | Err(_)));
    log.line_with(&["no complete handshake within 1 s"]).await;
}

#[tokio::test]
async fn files_that_change_are_read_anew_and_broken_ones_are_not_taken() {
    let (log, _guard) = Log::capture();
    let mut tls = Tls::with(false, |hdb| hdb).await;
    let shown = async |tls: &Tls| {
        let stream = tls.authority.dial(tls.address(), None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown(&tls).await;
    let password = tls.stage.password();
    let mut handle = tls.open(None, "alice", &password).await.unwrap();

    // They are looked at once a second, when somebody comes.
    let until = async |tls: &Tls, done: &dyn Fn(&CertificateDer<'_>) -> bool| {
        let dials = async { while !done(&shown(tls).await) {} };
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, dials).await.unwrap();
    };
    let next = tls.authority.server();
    next.write(tls.folder.path());
    until(&tls, &|shown| shown == next.der()).await;
    assert_ne!(first, *next.der());
    log.line_with(&["the certificate has been reloaded", "endpoint=\"hdb\""])
        .await;

    // Another key than the certificate's, then no PEM at all.
    let other = tls.authority.server();
    let refused = |count| {
        let text = log.text();
        text.matches("the previous certificate stays in use")
            .count()
            == count
    };
    std::fs::write(tls.folder.path().join("server.key"), &other.key_pem).unwrap();
    until(&tls, &|_| refused(1)).await;
    assert_eq!(shown(&tls).await, *next.der());
    log.line_with(&[
        "ERROR",
        "can't be used",
        "the previous certificate stays in use",
    ])
    .await;
    std::fs::write(tls.folder.path().join("server.pem"), "half a fi").unwrap();
    until(&tls, &|_| refused(2)).await;
    assert_eq!(shown(&tls).await, *next.der());
    // A reload says what is wrong, and changes nothing.
    let problems = hopend::config::load(&tls.stage.config_path()).unwrap_err();
    assert!(
        problems.to_string().contains("no certificate"),
        "{problems}"
    );

    // A key that others can read.
    other.write(tls.folder.path());
    let key = tls.folder.path().join("server.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    until(&tls, &|_| refused(3)).await;
    log.line_with(&[
        "ERROR",
        "holds secrets",
        "the previous certificate stays in use",
    ])
    .await;
    assert_eq!(shown(&tls).await, *next.der());

    other.write(tls.folder.path());
    tls.stage.reload(|text| text);
    assert_eq!(shown(&tls).await, *other.der());
    assert_eq!(
        handle.ask("1+1").await,
        Ok(Value::Long(2)),
        "as if nothing was"
    );
}

/// As for everything that is not the client's fault: a reset, and not q's `'access`.
#[tokio::test]
async fn without_a_certificate_that_can_be_used_a_client_sees_a_reset() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    Authority::new("test CA").server().write(folder.path());
    let [cert, key, _] = files(folder.path());
    let tls = table([("cert", cert), ("key", key)]);
    let path = write_configuration(&sim, folder.path(), |config| {
        config.endpoint("hdb", |hdb| hdb.tls(tls))
    });
    let config = hopend::config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    // After it was checked, before it is used.
    std::fs::write(folder.path().join("server.pem"), "half a fi").unwrap();
    let app = App::start(config, Arc::new(Sources::default()), Clock::system()).unwrap();
    let address = crate::support::address_of(&app, "hdb");
    let mut client = TcpStream::connect(address).await.unwrap();
    let error = client.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    log.line_with(&["the certificate of the endpoint can't be used"])
        .await;
}

#[tokio::test]
async fn an_endpoint_that_is_exposed_without_tls_is_warned_of() {
    let (log, _guard) = Log::capture();
    let _stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen("0.0.0.0:0").expose(true))
        .start()
        .await;
    log.line_with(&[
        "WARN",
        "reachable from other hosts without TLS",
        "endpoint=\"hdb\"",
    ])
    .await;
    assert!(log.find(&["without TLS", "endpoint=\"rdb\""]).is_none());
}

#[tokio::test]
async fn only_tls_1_3_where_it_is_asked_for() {
    let tls = Tls::with(false, |hdb| hdb).await;
    let mut stage = tls.stage;
    let [cert, key, _] = files(tls.folder.path());
    let only_1_3 = table([("cert", &*cert), ("key", &*key), ("min_version", "1.3")]);
    stage.reload(|config| config.endpoint("hdb", |hdb| hdb.tls(only_1_3)));
    let script = format!(
        "import socket, ssl\n\
         c = ssl.create_default_context(cafile='{}')\n\
         c.maximum_version = ssl.TLSVersion.TLSv1_2\n\
         c.wrap_socket(socket.create_connection(('127.0.0.1', {})), server_hostname='localhost')\n",
        tls.folder.path().join("ca.pem").display(),
        stage.address("hdb").port(),
    );
    let mut python = tokio::process::Command::new("python3");
    let output = python.arg("-c").arg(script).output();
    let output = tokio::time::timeout(Duration::from_secs(60), output)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("PROTOCOL_VERSION"), "{text}");
}
