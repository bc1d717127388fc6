//! The attack table of SECURITY.md: account A tries to reach what only B may. One test a row.
//!
//! The attacker is another local account where a row needs one, which takes root, as CI has; or
//! somebody beyond this host.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hopend::identity::Peer;
use hopend::primitives::shutdown::ShutdownSender;
use q_ipc::frame::MessageType;
use q_ipc::message::message;
use q_ipc::value::{self, Value};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client_tls::Tls;
use crate::support::certificates::Authority;
use crate::support::qclient::Refused;
use crate::support::root::is_root;
use crate::support::{Configuration, Log, Process, QClient, Stage, account};

/// An account that is nobody of the configuration.
pub const STRANGER: &str = "65534";

/// What a stranger's shell said.
fn stranger(script: &str) -> Output {
    Command::new("setpriv")
        .args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"])
        .args(["bash", "-c", script])
        .output()
        .unwrap()
}

/// The same while the daemon goes on, or nothing if this is not root.
pub async fn as_stranger(script: String) -> Option<Output> {
    if !is_root() {
        return None;
    }
    let output = tokio::task::spawn_blocking(move || stranger(&script));
    Some(output.await.unwrap())
}

/// A stranger's hopen: what came back, as hexadecimal digits.
async fn hopen_as_stranger(port: u16, hello: &str) -> Option<String> {
    let output = as_stranger(format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{hello}' >&3; head -c 1 <&3 | od -An -tx1"
    ))
    .await?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

async fn stage() -> Stage {
    Stage::start().await
}

#[tokio::test]
async fn by_name() {
    let (log, _guard) = Log::capture();
    let stage = stage().await;
    for user in ["", "alice", &account(), "nobody-here"] {
        let Some(answer) =
            hopen_as_stranger(stage.address("hdb").port(), &format!("{user}:\\6\\0")).await
        else {
            return;
        };
        assert_eq!(answer, "", "{user} was let in");
    }
    log.line_with(&["session refused", "uid 65534", "kind=\"denied\""])
        .await;
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

/// Each guess that is wrong costs the next one its time, on every connection of the account.
#[tokio::test]
async fn by_password_guess() {
    let stage = stage().await;
    let address = stage.address("hdb");
    let begun = std::time::Instant::now();
    for guess in ["alice", "password", "secret", "kdb"] {
        let refused = QClient::open(address, "alice", guess).await;
        assert!(matches!(refused, Err(Refused::Access)), "{guess}");
    }
    // 100 ms, 200, 400, 800.
    assert!(
        begun.elapsed().as_millis() >= 1_400,
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

/// Guesses made at the same moment cost what they cost one after the other, and nobody but the guesser.
#[tokio::test]
async fn by_many_guesses_at_once() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.handshake_timeout("2s"))
        .start()
        .await;
    let (address, password) = (stage.address("hdb"), stage.password());
    // The last one would be right: 100 ms, 200, 400, 800 and 1,600 keep it out.
    let wrong = (0..40).map(|number| format!("guess{number}"));
    let guesses: Vec<_> = wrong.chain([password.clone()]).collect();
    let guessing = tokio::spawn(async move {
        let guesses = guesses
            .iter()
            .map(|guess| QClient::open(address, "alice", guess));
        futures_util::future::join_all(guesses).await
    });
    log.line_with(&["session refused", "does not match"]).await;
    let hello = format!("alice:{password}\\6\\0");
    if let Some(answer) = hopen_as_stranger(address.port(), &hello).await {
        assert_ne!(answer, "", "she does not wait for the guesses");
    }
    let answers = guessing.await.unwrap();
    assert!(answers.iter().all(Result::is_err));
    let checked = |answer: &&Result<_, _>| matches!(answer, Err(Refused::Access));
    let checked = answers.iter().filter(checked).count();
    let processors = std::thread::available_parallelism().unwrap().get();
    assert!((1..=processors / 2 + 6).contains(&checked), "{checked}");
    log.line_with(&["too many passwords", "kind=\"limit\""])
        .await;
}

/// Connects, writes the login and a request, and is gone before the kernel is asked whose it was; then
/// leaves its port to somebody who may come in. The daemon runs on this very thread: while this waits
/// for the stranger, it accepts nobody.
#[tokio::test]
async fn by_racing_the_socket_lookup() {
    let (log, _guard) = Log::capture();
    let stage = stage().await;
    let address = stage.address("hdb");
    if !is_root() {
        return;
    }
    let script = format!(
        "import socket, struct\n\
         def come(own, reset):\n\
         \x20   s = socket.socket()\n\
         \x20   s.bind((own, 0))\n\
         \x20   s.connect(('127.0.0.1', {port}))\n\
         \x20   if reset: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n\
         \x20   s.sendall(b':\\x06\\0' + bytes.fromhex('01010000110000000a0003000000312b31'))\n\
         \x20   own = s.getsockname()[1]\n\
         \x20   s.close()\n\
         \x20   return own\n\
         for n in range(300): come('127.0.0.1', n % 2)\n\
         print(come('127.0.0.77', True))\n",
        port = address.port()
    );
    let output = stranger(&format!("exec python3 -c \"{script}\""));
    assert!(output.status.success(), "{output:?}");
    let left = String::from_utf8(output.stdout).unwrap();
    let left: SocketAddr = format!("127.0.0.77:{}", left.trim()).parse().unwrap();
    let next = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    next.set_reuse_address(true).unwrap();
    next.bind(&left.into()).unwrap();
    next.connect(&address.into()).unwrap();
    next.set_nonblocking(true).unwrap();

    log.times("before hopend could look up its account", 301)
        .await;
    let opened = || {
        let rows = stage.app.status().endpoints;
        let hdb = rows.iter().find(|row| row.name == "hdb").unwrap();
        hdb.opened
    };
    assert_eq!(opened(), 0);
    assert!(stage.sim.connections().is_empty());
    // Whoever has the port now has a session of their own, without the stranger's request in it.
    let next = TcpStream::from_std(next.into()).unwrap();
    let mut next = QClient::log_in(next, "", "").await.unwrap();
    assert_eq!(next.ask("2+2").await, Ok(Value::Long(4)));
    assert_eq!(opened(), 1);
}

/// The stranger connects and hands the socket to an account that may come in, and is gone when that
/// one goes on with it: the socket stays the stranger's.
#[tokio::test]
async fn by_passing_a_socket_on() {
    let (log, _guard) = Log::capture();
    if !is_root() {
        return;
    }
    let stage = stage().await;
    let script = format!(
        "import os, socket\n\
         'x'.encode('idna')\n\
         here, there = socket.socketpair()\n\
         if os.fork() == 0:\n\
         \x20   os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})\n\
         \x20   s = socket.create_connection(('127.0.0.1', {port}))\n\
         \x20   socket.send_fds(there, [b'x'], [s.fileno()])\n\
         \x20   os._exit(0)\n\
         _, (number,), _, _ = socket.recv_fds(here, 1, 1)\n\
         os.wait()\n\
         s = socket.socket(fileno=number)\n\
         s.sendall(b':\\x06\\0')\n\
         print(len(s.recv(1)), os.getuid())\n",
        port = stage.address("hdb").port()
    );
    let mut python = tokio::process::Command::new("python3");
    let output = python.arg("-c").arg(script).output().await.unwrap();
    assert_eq!(output.stdout, b"0 0\n", "{output:?}");
    log.line_with(&["session refused", "uid 65534"]).await;
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

/// What a console can be asked, with `cluster` where one is named.
fn console_requests(cluster: &str) -> Vec<Vec<u8>> {
    let symbol = |text: &str| Value::Symbol(text.into());
    let texts = [
        "endpoints".to_owned(),
        "addresses".into(),
        "sessions".into(),
        "credentials".into(),
        "errors".into(),
        "hopend.kill 1".into(),
        ".aws.list_kx_clusters[]".into(),
        format!(".aws.list_kx_cluster_nodes[\"{cluster}\"]"),
        format!(".aws.get_kx_connection_string[\"{cluster}\"]"),
        format!(".aws.get_kx_node_connection_string[\"{cluster}\";\"sim-hdb-node-1\"]"),
    ];
    let calls = [
        vec![symbol("sessions"), Value::NULL],
        vec![symbol(".aws.list_kx_clusters"), Value::NULL],
        vec![symbol(".aws.list_kx_cluster_nodes"), symbol(cluster)],
        vec![
            Value::text(".aws.get_kx_connection_string"),
            Value::text(cluster),
        ],
    ];
    let texts = texts.iter().map(|text| Value::text(text));
    let all = texts.chain(calls.map(Value::List));
    all.map(|value| message(MessageType::Sync, &value.encode()))
        .collect()
}

/// All that is written in it.
fn text_of(value: &Value) -> String {
    String::from_utf8_lossy(&value.encode()).into_owned()
}

/// A stranger who may come in at the console alone, as mallory: what each request was answered.
async fn ask_as_mallory(port: u16, cluster: &str) -> Vec<Value> {
    let requests: Vec<String> = console_requests(cluster)
        .iter()
        .map(|request| request.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    let script = format!(
        "import socket\n\
         s = socket.create_connection(('127.0.0.1', {port})).makefile('rwb', 0)\n\
         s.write(b'mallory:\\x06\\0'); assert len(s.read(1)) == 1\n\
         def read(n):\n\
         \x20   b = b''\n\
         \x20   while len(b) < n: b += s.read(n - len(b)) or exit(1)\n\
         \x20   return b\n\
         for request in '{}'.split():\n\
         \x20   s.write(bytes.fromhex(request))\n\
         \x20   print(read(int.from_bytes(read(8)[4:], 'little') - 8).hex())\n",
        requests.join(" ")
    );
    let output = as_stranger(format!("exec python3 -c \"{script}\"")).await;
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let answers = text.lines().map(|line| {
        let bytes: Vec<u8> = line.as_bytes().chunks(2).map(byte).collect();
        value::decode(&bytes, true).unwrap()
    });
    let answers: Vec<Value> = answers.collect();
    assert_eq!(answers.len(), requests.len());
    answers
}

/// Mallory is a user with an account, and has the console alone.
#[tokio::test]
async fn through_the_console() {
    if !is_root() {
        return;
    }
    let stage = Stage::builder()
        .configure(|config| {
            config
                .every_kdb_endpoint(|kdb| kdb.users([account(), "alice".into()]))
                .add_user("mallory", |mallory| mallory.os_user(STRANGER))
        })
        .start()
        .await;
    let mut mine = stage.open("hdb").await;
    mine.ask("1+1").await.unwrap();
    let mut hers = QClient::open(stage.address("plain"), "alice", &stage.password())
        .await
        .unwrap();
    hers.ask("1+1").await.unwrap();
    let refused = QClient::open(stage.address("rdb"), "alice", "wrong").await;
    assert!(refused.is_err(), "for the table of errors");
    let console = stage.address("console");

    // What there is to be seen.
    let mut all = stage.open("console").await;
    let mut seen = String::new();
    for request in console_requests("hdb-cluster") {
        all.stream.write_all(&request).await.unwrap();
        seen += &all
            .answer()
            .await
            .map_or_else(|error| error, |value| text_of(&value));
    }
    let own = account();
    let others = [&*own, "alice", "hdb", "rdb", "127.0.0.1:"];
    for other in others {
        assert!(seen.contains(other), "{other} is not in {seen}");
    }

    let there = ask_as_mallory(console.port(), "hdb-cluster").await;
    let nowhere = ask_as_mallory(console.port(), "no-such-cluster").await;
    // The console's own endpoint is mallory's too, with its address.
    let own = text_of(&there[0]);
    assert!(own.contains("console") && !own.contains("hdb"), "{own}");
    let Value::Table(sessions) = &there[2] else {
        panic!("{:?}", there[2]);
    };
    assert_eq!(sessions.rows(), 1);
    let user = sessions.column("user").unwrap();
    assert_eq!(user, &Value::Symbols(vec!["mallory".into()]));
    let secrets = stage.sim.issued_secrets();
    assert!(!secrets.is_empty());
    for (number, answer) in there.iter().enumerate().skip(1) {
        let text = text_of(answer);
        // What was asked for may be named.
        let text = text.replace("sim-hdb-node-1", "it");
        let text = text.replace("hdb-cluster", "it");
        for other in others {
            // The session's own client has an address.
            let fine = other == "127.0.0.1:" && [2, 10].contains(&number);
            assert!(
                fine || !text.contains(other),
                "{number} shows {other}: {text}"
            );
        }
        assert!(!text.contains("X-Amz"), "{text}");
        assert!(
            !secrets.iter().any(|secret| text.contains(secret)),
            "{text}"
        );
    }
    // Whether there is such a cluster can't be told.
    for (number, (there, nowhere)) in there.iter().zip(&nowhere).enumerate() {
        let [there, nowhere] = [there, nowhere].map(|answer| format!("{answer:?}"));
        if ![0, 2, 10].contains(&number) {
            let there = there.replace("hdb-cluster", "no-such-cluster");
            assert_eq!(there, nowhere, "{number}");
        }
    }
    for hello in ["alice:", &format!("{}:", account()), "alice:guess"] {
        let answer = hopen_as_stranger(console.port(), &format!("{hello}\\6\\0")).await;
        assert_eq!(answer.as_deref(), Some(""), "{hello}");
    }
}

#[tokio::test]
async fn through_the_control_socket() {
    let stage = stage().await;
    let mut mine = stage.open("hdb").await;
    let path = control_of(&stage);
    // Even where the folder is open to all.
    open_folder(stage.folder.path());
    let Some(output) = as_stranger(format!(
        "exec python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print('in')\"",
        path.display()
    ))
    .await
    else {
        return;
    };
    assert!(
        !output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert_eq!(mine.ask("1+1").await, Ok(Value::Long(2)));
}

fn control_of(stage: &Stage) -> std::path::PathBuf {
    let path = hopend::config::control_socket(&stage.config_path()).unwrap();
    let path = path.unwrap();
    assert!(path.exists(), "{}", path.display());
    path
}

pub fn open_folder(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn through_the_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    open_folder(folder.path());
    let path = folder.path().join("hdb");
    // A number of this process's own: abstract names are shared by the whole host.
    let number = 1 + std::process::id() % 65_000;
    let listen = [format!("unix:{number}"), format!("unix:{}", path.display())];
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen(listen))
        .start()
        .await;
    let dial = |name: String, hello: &str| {
        format!(
            "exec python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name}); \
             s.sendall(b'{hello}:\\\\x06\\\\0'); print(len(s.recv(1)))\""
        )
    };
    // Anybody may dial them: the account is what refuses.
    let names = [
        format!("'\\\\0/tmp/kx.{number}'"),
        format!("'{}'", path.display()),
    ];
    for (name, hello) in names
        .iter()
        .flat_map(|name| ["", "alice", "root"].map(|hello| (name, hello)))
    {
        let Some(output) = as_stranger(dial(name.clone(), hello)).await else {
            return;
        };
        assert_eq!(output.stdout, b"0\n", "{name} {hello}: {output:?}");
    }
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

/// The loopback counts for nothing on an address that others reach too.
#[tokio::test]
async fn through_an_exposed_port() {
    let tls = Tls::with(false, |hdb| hdb).await;
    for (user, password) in [
        ("", ""),
        (&*account(), ""),
        ("alice", ""),
        ("alice", "wrong"),
    ] {
        let refused = tls.open(None, user, password).await;
        assert!(matches!(refused, Err(Refused::Access)), "{user}");
    }
    assert_eq!(tls.stage.sim.live("hdb-cluster"), 0);
}

#[tokio::test]
async fn with_somebody_elses_client_certificate() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(true, |hdb| hdb).await;
    let password = tls.stage.password();
    let bob = tls.authority.client("bob");
    // With alice's password as well, should it be known.
    for (user, password) in [
        ("alice", ""),
        ("alice", &*password),
        ("", ""),
        ("alice\u{0}", ""),
    ] {
        let refused = tls.open(Some(&bob), user, password).await;
        assert!(matches!(refused, Err(Refused::Access)), "{user:?}");
    }
    log.line_with(&["its certificate, of CN=bob, does not belong to user"])
        .await;
    // A name of another kind is another name.
    let uri = tls.authority.client_of_uri("CN=alice");
    assert!(matches!(
        tls.open(Some(&uri), "", "").await,
        Err(Refused::Access)
    ));
    assert_eq!(tls.stage.sim.live("hdb-cluster"), 0);
}

/// With her own certificate she is herself: who names another user of the configuration is refused,
/// although that user may not use the endpoint either.
#[tokio::test]
async fn with_ones_own_certificate_and_somebody_elses_name() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(true, |hdb| hdb.users("alice")).await;
    let (alice, other) = (tls.authority.client("alice"), account());
    for password in ["", &tls.stage.password()] {
        let refused = tls.open(Some(&alice), &other, password).await;
        assert!(matches!(refused, Err(Refused::Access)), "{password:?}");
    }
    let said = format!("its certificate, of CN=alice, does not belong to user {other:?}");
    log.line_with(&[&said]).await;
    assert_eq!(tls.stage.sim.live("hdb-cluster"), 0);
    for name in ["", "alice", "unknown", "nobody-here"] {
        tls.open(Some(&alice), name, "").await.unwrap();
    }
}

/// Without the byte a guess counts once with the one before it, but only the very same one: another
/// password, or another user, is another guess.
#[tokio::test]
async fn by_guesses_without_a_capability_byte() {
    let stage = stage().await;
    for hello in ["alice:one\x03\0", "alice:two\0", "bob:one\0"] {
        let mut stream = TcpStream::connect(stage.address("hdb")).await.unwrap();
        stream.write_all(hello.as_bytes()).await.unwrap();
        assert!(matches!(stream.read(&mut [0]).await, Ok(0)), "{hello:?}");
    }
    let own = Peer::Local {
        uid: nix::unistd::geteuid().as_raw(),
        pid: None,
        address: None,
    };
    // Three have been counted: 100 ms, 200 ms, 400 ms.
    let penalties = &stage.app.services().penalties;
    let next = penalties.failed(&own, "alice", std::time::Instant::now());
    assert_eq!(next.as_millis(), 800);
    assert_eq!(stage.sim.live("hdb-cluster"), 0);
}

#[tokio::test]
async fn with_a_certificate_of_another_authority() {
    let tls = Tls::with(true, |hdb| hdb).await;
    // Of the same name as the right one.
    let other = Authority::new("test CA");
    for shown in [other.client("alice"), other.server()] {
        let refused = tls.open(Some(&shown), "alice", &tls.stage.password()).await;
        assert!(matches!(refused, Err(Refused::Broken(_))));
    }
    assert_eq!(tls.stage.sim.live("hdb-cluster"), 0);
}

/// Many connections to the admin address that say nothing: one account gets half of those that there
/// are, and others still see how the daemon is.
#[tokio::test]
async fn by_silence_at_the_admin_address() {
    if !is_root() {
        return;
    }
    let stage = stage().await;
    let stop = ShutdownSender::default();
    let address = crate::telemetry::admin(&stage, &stop).await;
    let script = format!(
        "import select, socket, sys\n\
         all = [socket.create_connection(('127.0.0.1', {})) for _ in range(40)]\n\
         left = list(all)\n\
         while len(left) > 16:\n\
         \x20   for one in select.select(left, [], [], 3)[0]: left.remove(one)\n\
         \x20   for one in left:\n\
         \x20       try: one.send(b'x')\n\
         \x20       except OSError: pass\n\
         print('silent', flush=True)\n\
         sys.stdin.read()",
        address.port()
    );
    let mut stranger = tokio::process::Command::new("setpriv")
        .args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"])
        .args(["python3", "-c", &script])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    let output = stranger.stdout.as_mut().unwrap();
    // A byte now and then keeps those that were let in for a minute: the others were turned away.
    let turned_away = timeout(Duration::from_secs(30), output.read_exact(&mut said));
    turned_away
        .await
        .expect("more than half were let in")
        .unwrap();
    assert_eq!(&said, b"silent");
    for path in ["/livez", "/metrics"] {
        let (head, _) = crate::telemetry::ask(address, &format!("GET {path}"), "localhost").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
}

/// A message that says it has 16 MB, and a record of another kind amid a message.
#[tokio::test]
async fn by_a_broken_tls_handshake() {
    let (log, _guard) = Log::capture();
    let tls = Tls::with(false, |hdb| hdb).await;
    let broken: [&[u8]; 2] = [
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x01\x01\x14\x03\x01\x00\x01\x01",
    ];
    for (count, bytes) in (1..).zip(broken) {
        let mut stranger = TcpStream::connect(tls.address()).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        assert!(matches!(stranger.read(&mut [0]).await, Ok(0) | Err(_)));
        log.times("session refused", count).await;
    }
    assert!(!log.text().contains("panic"), "{}", log.text());
    let password = tls.stage.password();
    tls.open(None, "alice", &password).await.unwrap();
}

/// The console is the cheapest to open. Each session would have two lines. That an account opens a hundred
/// a second at the most is a test of `limits`.
#[tokio::test]
async fn by_filling_the_disk() {
    const SESSIONS: u64 = 100;
    let (log, _guard) = Log::capture();
    let stage = Stage::start().await;
    for _ in 0..SESSIONS {
        let mut console = stage.open("console").await;
        console.ask("endpoints").await.unwrap();
        drop(console);
    }
    stage.app.stop().await;
    let text = log.text();
    let lines = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("INFO session open "), 60);
    let own = lines("INFO session ended");
    assert_eq!(own, 60, "{text}");
    let line = log.find(&["INFO short sessions ended"]).unwrap();
    let first = log.find(&["INFO session open "]).unwrap();
    let first = first.split(" session=").nth(1).unwrap();
    let first: u64 = first.split(' ').next().unwrap().parse().unwrap();
    let times = format!(" times={} first_session={} ", SESSIONS - 60, first + 60);
    assert!(line.contains(&times), "{line}");
    assert!(line.contains(" messages_up=40 messages_down=40 "), "{line}");
    assert_eq!(lines("INFO short sessions ended"), 1);
}

/// Another process of the daemon's own account, such as what a login command starts.
#[tokio::test]
async fn by_reading_the_daemons_memory() {
    let folder = tempfile::tempdir().unwrap();
    let all: fn(u32) -> Permissions = PermissionsExt::from_mode;
    std::fs::set_permissions(folder.path(), all(0o755)).unwrap();
    let (program, path) = (
        folder.path().join("hopend"),
        folder.path().join("hopend.toml"),
    );
    std::fs::copy(env!("CARGO_BIN_EXE_hopend"), &program).unwrap();
    Configuration::default()
        .add_user("a", |a| a.os_user(STRANGER))
        .add_endpoint("rdb", |rdb| rdb.connect(":127.0.0.1:1").login("client"))
        .daemon(|daemon| daemon.control("off"))
        .write(&path);
    std::fs::set_permissions(&path, all(0o644)).unwrap();
    // Root reads everything: the account of both is another one then.
    let as_account = |program: &Path| {
        let mut command = Command::new("setpriv");
        if nix::unistd::getuid().is_root() {
            command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"]);
        }
        command.arg(program);
        command
    };
    let mut command = as_account(&program);
    command.args(["run", "--config", path.to_str().unwrap()]);
    let mut daemon = Process::spawn(command.env("PASSWORD", "geheim"));
    daemon.line_with("ready");
    let mut other = as_account(Path::new("sleep"));
    let mut other = other.arg("600").env("PASSWORD", "geheim").spawn().unwrap();
    let comm = format!("/proc/{}/comm", other.id());
    while std::fs::read_to_string(&comm).unwrap() != "sleep\n" {
        tokio::task::yield_now().await;
    }
    let read = |process: u32, file: &str| {
        let mut command = as_account(Path::new("cat"));
        command
            .arg(format!("/proc/{process}/{file}"))
            .output()
            .unwrap()
    };
    let own = u32::try_from(daemon.pid().as_raw()).unwrap();
    for file in ["environ", "maps"] {
        let there = read(other.id(), file);
        assert!(
            there.status.success() && !there.stdout.is_empty(),
            "{file}: {there:?}"
        );
        let here = read(own, file);
        assert!(
            !here.status.success() && here.stdout.is_empty(),
            "{file}: {here:?}"
        );
    }
    let limits = std::fs::read_to_string(format!("/proc/{own}/limits")).unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let cores: Vec<_> = cores.unwrap().split_whitespace().collect();
    assert_eq!(cores[4..6], ["0", "0"]);
    other.kill().unwrap();
    other.wait().unwrap();
}

/// What SECURITY.md says is held by tests that exist: each is named as file and function.
#[test]
fn the_tests_that_security_md_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut rows = BTreeSet::new();
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|quoted| quoted.split_once("::"));
    for (file, test) in named.filter(|(file, _)| file.ends_with(".rs")) {
        let path = root.join(file);
        let source = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let test_of = ["#[tokio::test", "#[test]"];
        let at = source.find(&format!("fn {test}("));
        let at = at.unwrap_or_else(|| panic!("{file} has no {test}"));
        // Its attributes and what is said of it: back to the end of the item before.
        let before = source[..at].rsplit("\n\n").next().unwrap();
        assert!(
            test_of.iter().any(|mark| before.contains(mark)),
            "{test} is no test"
        );
        assert!(!before.contains("#[ignore"), "{test} is not run");
        rows.insert(test.to_owned());
    }
    assert!(rows.len() > 20, "{rows:?}");
    // And each test of this file stands there.
    let own = include_str!("attacks.rs");
    for (at, _) in own.match_indices("#[tokio::test]\nasync fn ") {
        let name = own[at..].split("fn ").nth(1).unwrap();
        let name = name.split('(').next().unwrap();
        assert!(rows.contains(name), "{name} is missing in SECURITY.md");
    }
}
