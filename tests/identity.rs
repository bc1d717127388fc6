//! Who a client is: by account, by password, and nobody else.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream as StdUnixStream};
use std::process::Command;

use hopend::config::ListenAddress;
use hopend::identity::Peer;
use nix::unistd::User;
use q_ipc::value::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::attacks::{STRANGER, as_stranger, open_folder};
use crate::support::qclient::Refused;
use crate::support::{Daemon, Log, QClient, Stage, account};

async fn stage() -> Stage {
    Stage::start().await
}

async fn user_of(handle: &mut QClient) -> Value {
    handle.ask(".z.u").await.unwrap()
}

#[tokio::test]
async fn by_account_by_password_and_each_with_a_string_of_their_own() {
    let stage = stage().await;
    let mut mine = stage.open("hdb").await;
    assert_eq!(user_of(&mut mine).await, Value::Symbol(account()));
    let hers = QClient::open(stage.address("hdb"), "alice", &stage.password()).await;
    assert_eq!(
        user_of(&mut hers.unwrap()).await,
        Value::Symbol("alice".into())
    );
}

#[tokio::test]
async fn a_wrong_name_or_password_is_an_access_error() {
    let stage = stage().await;
    for (user, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody-here", ""),
        ("nobody-here", "wrong"),
    ] {
        let refused = QClient::open(stage.address("hdb"), user, password).await;
        assert!(matches!(refused, Err(Refused::Access)), "{user} {password}");
    }
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

/// The daemon's umask and confinement notwithstanding.
#[tokio::test(flavor = "multi_thread")]
async fn another_account_comes_in_by_a_socket_file() {
    let folder = tempfile::tempdir().unwrap();
    open_folder(folder.path());
    let path = folder.path().join("hdb");
    let listen = ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
    let stranger = User::from_uid(STRANGER.parse::<u32>().unwrap().into())
        .unwrap()
        .unwrap();
    let _daemon = Daemon::with(|config| {
        config
            .endpoint("hdb", |hdb| hdb.listen(listen))
            .user(&account(), |own| own.os_user(stranger.name))
    })
    .await;
    let dial = format!(
        "exec python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); \
         s.sendall(b':\\x06\\0'); print(s.recv(1))\"",
        path.display()
    );
    let Some(output) = as_stranger(dial).await else {
        return;
    };
    assert_eq!(output.stdout, b"b'\\x06'\n", "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_password_check_goes_back() {
    const KEPT_BY_ONE: u64 = 19 << 10;
    let daemon = Daemon::start().await;
    let password = std::fs::read_to_string(daemon.folder.path().join("alice.password")).unwrap();
    let before = daemon.process.own_memory();
    for _ in 0..4 {
        let handle = QClient::open(daemon.address("hdb"), "alice", password.trim_end()).await;
        drop(handle.unwrap());
    }
    let after = daemon.process.own_memory();
    assert!(
        after < before + KEPT_BY_ONE,
        "{before} KiB before, {after} after"
    );
}

#[tokio::test]
async fn over_ipv6_and_both_kinds_of_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hdb");
    // A number of this process's own: abstract names are shared by the whole host.
    let number = 1 + std::process::id() % 65_000;
    let listen = [
        "[::1]:0".to_owned(),
        format!("unix:{number}"),
        format!("unix:{}", path.display()),
    ];
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen(listen))
        .start()
        .await;
    let mut v6 = stage.open("hdb").await;
    assert_eq!(user_of(&mut v6).await, Value::Symbol(account()));

    let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{number}")).unwrap();
    let abstract_socket = StdUnixStream::connect_addr(&name).unwrap();
    abstract_socket.set_nonblocking(true).unwrap();
    for stream in [
        UnixStream::from_std(abstract_socket).unwrap(),
        UnixStream::connect(&path).await.unwrap(),
    ] {
        let mut handle = QClient::log_in(stream, "", "").await.unwrap();
        assert_eq!(handle.ask(".z.u").await, Ok(Value::Symbol(account())));
    }
    let listed = stage.app.addresses();
    assert!(listed.contains(&("hdb".into(), ListenAddress::Path(path))));
}

/// Needs root, as becoming somebody else does; CI has it.
#[tokio::test]
async fn another_account_is_refused_and_never_taken_for_the_one_that_runs_the_daemon() {
    if !crate::support::root::is_root() {
        return;
    }
    let stage = stage().await;
    let port = stage.address("hdb").port();
    for hello in [":", "root:", "alice:"] {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{hello}\\6\\0' >&3; head -c 1 <&3 | od -An -tx1"
        );
        let output = tokio::task::spawn_blocking(move || {
            Command::new("setpriv")
                .args(["--reuid=65534", "--clear-groups", "bash", "-c", &script])
                .output()
                .unwrap()
        })
        .await
        .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"", "{hello} was let in");
    }
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

#[tokio::test]
async fn users_of_an_endpoint_are_its_users_only() {
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.users("alice"))
        .start()
        .await;
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Access)));
    stage.open("rdb").await;
}

#[tokio::test]
async fn an_exposed_endpoint_counts_passwords_only() {
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen("0.0.0.0:0").expose(true))
        .start()
        .await;
    let mut address = stage.address("hdb");
    address.set_ip("127.0.0.1".parse().unwrap());
    for user in ["", &account()] {
        let refused = QClient::open(address, user, "").await;
        assert!(matches!(refused, Err(Refused::Access)), "{user:?}");
    }
    QClient::open(address, "alice", &stage.password())
        .await
        .unwrap();
}

/// What kola sends without a terminal, and what node-q sends, byte for byte.
#[tokio::test]
async fn the_name_that_a_client_sends_by_itself_counts_as_none() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .endpoint("plain", |plain| plain.default_user_names("kdb"))
        .start()
        .await;
    let say = async |endpoint: &str, hello: &[u8]| {
        let mut stream = TcpStream::connect(stage.address(endpoint)).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let mut answer = [0];
        (stream.read(&mut answer).await.unwrap(), stream)
    };
    let kola: &[u8] = b"unknown:\x06\0";
    let node_q: &[u8] = b"anonymous\x03\0";
    for (hello, name) in [(kola, "unknown"), (node_q, "anonymous")] {
        let (answered, stream) = say("hdb", hello).await;
        assert_eq!(answered, 1, "{name}");
        let mut handle = QClient { stream };
        assert_eq!(user_of(&mut handle).await, Value::Symbol(account()));
        let given = format!("hopen_user=\"{name}\"");
        let user = format!("user=\"{}\"", account());
        log.line_with(&["session open", &given, &user]).await;
    }
    // With a password it is a name, and an endpoint may have names of its own.
    let with_password: &[u8] = b"unknown:x\x06\0";
    for (endpoint, hello, answered) in [
        ("hdb", with_password, 0),
        ("hdb", b"kdb:\x06\0", 0),
        ("plain", kola, 0),
        ("plain", b"kdb:\x06\0", 1),
    ] {
        assert_eq!(say(endpoint, hello).await.0, answered, "{endpoint}");
    }
}

/// qPython says its name and password anew, without a capability byte, as soon as it is refused.
#[tokio::test]
async fn a_client_that_tries_the_older_handshake_after_a_refusal_has_guessed_once() {
    let stage = stage().await;
    let refused = async |hello: &[u8]| {
        let mut stream = TcpStream::connect(stage.address("hdb")).await.unwrap();
        stream.write_all(hello).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    };
    refused(b"alice:wrong\x03\0").await;
    refused(b"alice:wrong\0").await;
    let own = Peer::Local {
        uid: nix::unistd::geteuid().as_raw(),
        pid: None,
        address: None,
    };
    // 100 ms after the first guess, 200 ms after the second.
    let penalties = &stage.app.services().penalties;
    let second = penalties.failed(&own, "alice", std::time::Instant::now());
    assert_eq!(second.as_millis(), 200);
}
