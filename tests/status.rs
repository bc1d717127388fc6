//! What the daemon does is one command away, for root and its own account; and a session can be ended
//! by its number.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hopend::surface::control::{self, ControlRequest, ControlResponse};
use hopend::telemetry::status::{SessionRow, Status};
use nix::sys::signal::Signal;
use q_ipc::frame::MessageType;
use simulator::{ClusterFault, Options, Simulator, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::configuration::EndpointTable;
use crate::support::{
    Configuration, Process, QClient, Stage, account, process, write_configuration,
};

/// As somebody types it, with the configuration of a stage.
async fn command(path: &Path, arguments: &[&str]) -> Output {
    let path = path.to_str().unwrap();
    let arguments = [arguments, &["--config", path]].concat();
    let mut command = process::command(&arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// What a command printed that has to succeed.
async fn shown(path: &Path, arguments: &[&str]) -> String {
    let output = command(path, arguments).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

async fn status(stage: &Stage) -> Status {
    let json = shown(&stage.config_path(), &["status", "--json"]).await;
    serde_json::from_str(&json).unwrap()
}

async fn stage() -> Stage {
    Stage::start().await
}

/// The only session.
fn only(status: &Status) -> &SessionRow {
    match &status.sessions[..] {
        [row] => row,
        rows => panic!("{rows:?}"),
    }
}

/// A client in a process of its own that has been answered once; its handle is open until the end.
struct Shell(Child);

impl Shell {
    fn open(port: u16) -> Self {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf ':\\6\\0' >&3; head -c 1 <&3 >/dev/null; \
             printf '\\1\\1\\0\\0\\21\\0\\0\\0\\12\\0\\3\\0\\0\\0001+1' >&3; \
             head -c 17 <&3 >/dev/null; echo answered; read"
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "answered\n");
        Self(child)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_with_the_process_and_the_program_of_its_client() {
    let stage = stage().await;
    let port = stage.address("hdb").port();
    let shell = tokio::task::spawn_blocking(move || Shell::open(port))
        .await
        .unwrap();
    let status = status(&stage).await;
    let row = only(&status);
    let numbers = &stage.app.services().sessions;
    assert_eq!((numbers.count(), &*row.endpoint), (1, "hdb"));
    assert!(!numbers.is_earlier(row.session), "{}", row.session);
    assert_eq!(
        (&*row.user, row.account.as_deref()),
        (&*account(), Some(&*account()))
    );
    assert_eq!(
        (row.pid, row.program.as_deref()),
        (Some(shell.0.id()), Some("bash"))
    );
    // So far it may have been the command that found it; the daemon itself does as well.
    assert_eq!(only(&stage.app.status()).pid, row.pid);
    assert!(row.client.starts_with("127.0.0.1:"), "{row:?}");
    assert_eq!(
        row.target,
        format!("127.0.0.1:{}", stage.sim.port("hdb-cluster").unwrap())
    );
    assert_eq!((row.bytes_up, row.messages_up), (17, 1));
    assert_eq!((row.bytes_down, row.messages_down), (17, 1));
    assert_eq!((row.outstanding, row.pings), (0, 0));
    assert!(
        status.started <= row.since && row.since <= status.now,
        "{status:?}"
    );

    let [hdb, rdb, plain, _console] = &status.endpoints[..] else {
        panic!("{status:?}");
    };
    assert_eq!(hdb.listen, [stage.address("hdb").to_string()]);
    assert_eq!(hdb.target, "cluster hdb-cluster in sim");
    assert_eq!((hdb.sessions, hdb.opened, hdb.refused), (1, 1, 0));
    assert_eq!((rdb.sessions, rdb.opened, rdb.refused), (0, 0, 0));
    assert_eq!((&*plain.name, plain.max_sessions), ("plain", 4096));

    let mine = &status.credentials[0];
    assert_eq!(
        (&*mine.user, &mine.endpoints[..]),
        (&*account(), &["hdb".to_owned()][..])
    );
    let (age, left) = (mine.age_s.unwrap(), mine.left_s.unwrap());
    // 15 minutes less the margin; the string itself counts whole seconds.
    assert!((867.0..=870.0).contains(&(age + left)), "{mine:?}");
    let refresh = age + mine.refresh_s.unwrap();
    assert!((629.0..=721.0).contains(&refresh), "{mine:?}");
    assert_eq!((mine.fetches, &mine.last_error), (1, &None));
    assert_eq!(status.errors, []);

    let text = shown(&stage.config_path(), &["status"]).await;
    let client = format!("bash[{}] {}", shell.0.id(), row.client);
    for part in ["1 session, ", &client, "cluster hdb-cluster in sim", "17 B"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    drop(shell);
    stage
        .sim
        .wait_until(|sim| sim.live("hdb-cluster") == 0)
        .await;
    let text = shown(&stage.config_path(), &["status"]).await;
    assert!(text.contains("0 sessions, "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_unix_socket_the_kernel_names_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hdb");
    let listen = ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen(listen))
        .start()
        .await;
    let stream = UnixStream::connect(&path).await.unwrap();
    let _handle = QClient::log_in(stream, "", "").await.unwrap();
    let status = status(&stage).await;
    let row = only(&status);
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(row.pid, Some(std::process::id()));
    assert_eq!(row.program.as_deref(), Some(program.trim_end()));
    assert_eq!(row.client, "unix");
    assert_eq!(status.endpoints[0].listen.len(), 2, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_move_and_a_query_that_waits_is_seen() {
    let stage = stage().await;
    let mut handle = stage.open("hdb").await;
    let first = status(&stage).await;
    let row = only(&first);
    assert_eq!((row.messages_up, row.bytes_up, row.outstanding), (0, 0, 0));
    let second = status(&stage).await;
    assert!(only(&second).idle_s > row.idle_s, "idle, it grows");

    handle.send(MessageType::Async, "a:1").await;
    handle.send(MessageType::Sync, "system\"sleep 600\"").await;
    stage
        .sim
        .wait_until(|sim| sim.connections()[0].syncs == 1)
        .await;
    let waiting = status(&stage).await;
    let row = only(&waiting);
    assert_eq!(
        (row.outstanding, row.messages_up, row.messages_down),
        (1, 2, 0)
    );
    assert_eq!(row.bytes_up, 17 + 14 + 17);
    let open = waiting.now.duration_since(row.since).as_secs_f64();
    assert!(row.idle_s < open, "idle {} of {open}", row.idle_s);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_just_that_session_and_the_audit_says_by_whom() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), |config| config);
    let mut daemon = Process::start(&["run", "--config", path.to_str().unwrap()]);
    let line = daemon.line_with("endpoint=\"hdb\" address=127.0.0.1:");
    let address = line.rsplit("address=").next().unwrap().parse().unwrap();
    daemon.line_with("ready");
    let mut spared = QClient::open(address, "", "").await.unwrap();
    let mut killed = QClient::open(address, "", "").await.unwrap();
    killed.send(MessageType::Sync, "system\"sleep 600\"").await;

    let json = shown(&path, &["status", "--json"]).await;
    let status: Status = serde_json::from_str(&json).unwrap();
    let first = status.sessions[0].session;
    let second = (first + 1).to_string();
    let said = shown(&path, &["kill", &second]).await;
    assert_eq!(said, format!("session {second} has ended\n"));
    let lost = killed.answer().await.unwrap_err();
    assert!(lost.contains("reset"), "{lost}");
    spared.ask("1+1").await.unwrap();
    let uid = nix::unistd::getuid();
    let ended = daemon.line_with("session ended: killed by `hopend kill`");
    for part in [
        &*format!("which uid {uid} ran"),
        &*format!("session={second}"),
        "kind=\"none\"",
    ] {
        assert!(ended.contains(part), "{part} in {ended}");
    }
    let json = shown(&path, &["status", "--json"]).await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(only(&status).session, first);
    assert_eq!(status.errors, [], "it was meant");

    let again = command(&path, &["kill", &second]).await;
    assert_eq!(again.status.code(), Some(69));
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(
        error.contains(&format!(
            "no session {second} is open. Fix: take a number from `hopend status`."
        )),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_last_with_its_remedy_and_how_often() {
    let stage = stage().await;
    let faults = stage.sim.faults();
    faults.cluster("hdb-cluster", ClusterFault::Plaintext, Times::Always);
    for _ in 0..2 {
        let refused = QClient::open(stage.address("hdb"), "", "").await;
        assert!(refused.is_err());
    }
    let refused = QClient::open(stage.address("rdb"), "nobody-here", "").await;
    assert!(refused.is_err());
    faults.clear();
    let mut lost = stage.open("hdb").await;
    stage.sim.cut("hdb-cluster", simulator::Cut::Fin);
    assert!(lost.sees_end().await);
    drop(lost);

    let mut status = status(&stage).await;
    // The session is over when the client has gone as well.
    while !status.sessions.is_empty() || status.errors.len() < 3 {
        status = self::status(&stage).await;
    }
    let [closed, nobody, tls] = &status.errors[..] else {
        panic!("{:?}", status.errors);
    };
    assert_eq!(
        (&*tls.endpoint, tls.user.as_deref()),
        ("hdb", Some(&*account()))
    );
    assert_eq!((&*tls.side, tls.count), ("upstream", 2));
    assert!(
        tls.message.contains("check that the port speaks TLS"),
        "{tls:?}"
    );
    assert_eq!(
        (&*nobody.side, &nobody.user, nobody.count),
        ("denied", &None, 1)
    );
    assert!(
        nobody.message.contains("add a [[user]] of that name"),
        "{nobody:?}"
    );
    assert!(
        closed.message.contains("the cluster closed the connection"),
        "{closed:?}"
    );
    assert!(closed.message.contains("the log of kdb+"), "{closed:?}");
    assert_eq!(status.endpoints[0].refused, 2);
    let text = shown(&stage.config_path(), &["status"]).await;
    assert!(
        text.contains("LAST ERRORS") && text.contains(&tls.message),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_can_not_be_had_says_why() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let action = "finspace:GetKxConnectionString";
    sim.faults().deny("*", action, "*");
    let stage = Stage::builder().simulator(sim).start().await;
    assert!(QClient::open(stage.address("hdb"), "", "").await.is_err());
    let status = status(&stage).await;
    let row = &status.credentials[0];
    assert_eq!((row.fetches, row.left_s, row.age_s), (0, None, None));
    let error = row.last_error.as_deref().unwrap();
    assert!(
        error.contains(action) && error.contains("allow "),
        "{error}"
    );
    assert!(row.refresh_s.unwrap() <= 30.0, "{row:?}");
}

/// Needs root, as becoming somebody else does; CI has it.
#[tokio::test(flavor = "multi_thread")]
async fn another_account_may_neither_look_nor_kill() {
    if !crate::support::root::is_root() {
        return;
    }
    let stage = stage().await;
    let mut handle = stage.open("hdb").await;
    let socket = stage.folder.path().join("control");
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    // A configuration of the other account's own that names the socket, in a folder it may enter.
    fs::set_permissions(stage.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let theirs = stage.folder.path().join("theirs.toml");
    fs::write(
        &theirs,
        format!("[daemon]\ncontrol = \"{}\"\n", socket.display()),
    )
    .unwrap();
    let ask = async |mode: u32, arguments: &'static [&'static str]| {
        fs::set_permissions(&socket, Permissions::from_mode(mode)).unwrap();
        let theirs = theirs.clone();
        let asked = tokio::task::spawn_blocking(move || {
            Command::new("setpriv")
                .args(["--reuid=65534", "--clear-groups"])
                .arg(env!("CARGO_BIN_EXE_hopend"))
                .args(arguments)
                .arg("--config")
                .arg(theirs)
                .output()
                .unwrap()
        });
        asked.await.unwrap()
    };
    for (mode, reason) in [
        (0o600, "Permission denied"),
        // Somebody has opened the file to all: the daemon asks the kernel who it is.
        (0o666, "uid 65534 is neither root nor the daemon's account"),
    ] {
        for arguments in [&["status"][..], &["kill", "1"]] {
            let output = ask(mode, arguments).await;
            assert_eq!(output.status.code(), Some(77), "{output:?}");
            assert_eq!(output.stdout, b"");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                error.contains(reason) && error.contains("run this as root"),
                "{error}"
            );
        }
    }
    handle.ask("1+1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_brings_back_a_socket_file_that_somebody_removed() {
    let mut stage = stage().await;
    fs::remove_file(stage.folder.path().join("control")).unwrap();
    let lost = command(&stage.config_path(), &["status"]).await;
    assert_eq!(lost.status.code(), Some(69));
    stage.reload(|config| config);
    status(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_daemon_left_is_replaced_and_a_live_ones_is_not() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), |config| config);
    let socket = folder.path().join("control");
    let start = || {
        let mut daemon = Process::start(&["run", "--config", path.to_str().unwrap()]);
        let output = daemon.line_with(" ready");
        (daemon, output)
    };
    let (first, _) = start();
    first.signal(Signal::SIGKILL);
    first.end();
    assert!(socket.exists(), "nobody was there to remove it");
    let nobody = command(&path, &["status"]).await;
    assert_eq!(nobody.status.code(), Some(69));
    let error = String::from_utf8_lossy(&nobody.stderr);
    assert!(
        error.contains("no hopend answers") && error.contains("start the daemon"),
        "{error}"
    );

    let (second, _) = start();
    let started = async || {
        let json = shown(&path, &["status", "--json"]).await;
        serde_json::from_str::<Status>(&json).unwrap().started
    };
    let seconds = started().await;
    let (third, _) = start();
    assert_eq!(started().await, seconds, "the second daemon was pushed out");
    third.signal(Signal::SIGTERM);
    let (ended, output) = third.end();
    assert!(ended.success(), "{output}");
    assert!(
        output.contains("can't be bound") && output.contains("hopend status"),
        "{output}"
    );
    assert_eq!(started().await, seconds);
    second.signal(Signal::SIGTERM);
    assert!(second.end().0.success());
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_nonsense_disturbs_nobody() {
    let stage = stage().await;
    let socket = stage.folder.path().join("control");
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    for nonsense in [&b"{}\n"[..], b"\xff\n", b"\"kill\"\n", &[b'['; 5_000]] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        // It closes when it has read enough.
        let _ = stream.write_all(nonsense).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let said = String::from_utf8_lossy(&answer);
        assert!(said.contains("no request") || answer.is_empty(), "{said}");
    }
    status(&stage).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_moves_with_a_reload_and_a_file_that_is_wrong_now_is_no_reason_not_to_answer() {
    let mut stage = stage().await;
    let (old, new) = (
        stage.folder.path().join("control"),
        stage.folder.path().join("moved"),
    );
    let control = new.to_str().unwrap();
    stage.reload(|config| config.daemon(|daemon| daemon.control(control)));
    status(&stage).await;
    let ask = |path: PathBuf| {
        tokio::task::spawn_blocking(move || control::request(&path, &ControlRequest::Status))
    };
    assert!(matches!(
        ask(new.clone()).await.unwrap(),
        Ok(ControlResponse::Status(_))
    ));
    assert!(ask(old).await.unwrap().is_err());

    let path = stage.config_path();
    let config = stage.configuration();
    let misspelt = |endpoint: EndpointTable| endpoint.rename("cluster", "clutser");
    config.clone().every_endpoint(misspelt).write(&path);
    status(&stage).await;
    config.write(&path);

    stage.reload(|config| config.daemon(|daemon| daemon.control("off")));
    let off = command(&path, &["status"]).await;
    assert_eq!(off.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&off.stderr).contains("control is \"off\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown() {
    let stage = stage().await;
    let _mine = stage.open("hdb").await;
    let _plain = stage.open("plain").await;
    let password = stage.password();
    let hers = QClient::open(stage.address("hdb"), "alice", &password).await;
    let mistyped = QClient::open(stage.address("rdb"), "alice", "mistyped-password").await;
    assert!(hers.is_ok() && mistyped.is_err());
    for fault in [ClusterFault::RefuseLogin, ClusterFault::ResetAfterLogin] {
        stage.sim.faults().cluster("*", fault, Times::Next(2));
        let _ = QClient::open(stage.address("rdb"), "", "").await;
        stage.sim.faults().clear();
    }
    let path = stage.config_path();
    let text = shown(&path, &["status"]).await;
    let json = shown(&path, &["status", "--json"]).await;
    let secrets = stage.sim.issued_secrets();
    assert!(secrets.len() >= 10, "{} secrets were issued", secrets.len());
    assert!(
        text.contains("LAST ERRORS") && text.contains("CREDENTIAL"),
        "{text}"
    );
    for secret in secrets
        .iter()
        .chain([&"mistyped-password".to_owned(), &password])
    {
        let head: String = secret.chars().take(16).collect();
        assert!(
            !text.contains(&head) && !json.contains(&head),
            "{head} is shown"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_without_a_terminal_prints_one_look_after_the_other() {
    let stage = stage().await;
    let path = stage.config_path();
    let watching = tokio::task::spawn_blocking(move || {
        let arguments = ["status", "--watch", "--config", path.to_str().unwrap()];
        let mut watch = Process::start(&arguments);
        watch.line_with("0 sessions");
        watch.line_with("0 sessions");
    });
    watching.await.unwrap();
}

/// On a terminal of its own, made by script(1).
#[tokio::test(flavor = "multi_thread")]
async fn watching_on_a_terminal_takes_the_screen_and_gives_it_back() {
    let stage = stage().await;
    let watch = format!(
        "stty rows 10 cols 50; timeout --foreground 60 {} status --watch --config {}",
        env!("CARGO_BIN_EXE_hopend"),
        stage.config_path().display()
    );
    for key in [b"q", b"\x03"] {
        let mut script = Command::new("script")
            .args(["-qec", &watch, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = script.stdin.take().unwrap();
        let mut out = script.stdout.take().unwrap();
        let screen = tokio::task::spawn_blocking(move || {
            let mut screen = Vec::new();
            let mut chunk = [0; 4096];
            while !String::from_utf8_lossy(&screen).contains("more lines") {
                let count = out.read(&mut chunk).unwrap();
                assert!(count > 0, "{}", String::from_utf8_lossy(&screen));
                screen.extend_from_slice(&chunk[..count]);
            }
            keys.write_all(key).unwrap();
            out.read_to_end(&mut screen).unwrap();
            assert!(script.wait().unwrap().success());
            String::from_utf8(screen).unwrap()
        });
        let screen = screen.await.unwrap();
        let (entered, left) = ("\x1b[?1049h", "\x1b[?1049l");
        assert!(
            screen.contains(entered) && screen.contains(left),
            "{screen:?}"
        );
        // Lines are cut to the width: none shows the last column.
        assert!(
            screen.contains("SESSIONS") && !screen.contains("TARGET"),
            "{screen:?}"
        );
    }
}

/// Ctrl-C is a signal where the keys are not read.
#[tokio::test(flavor = "multi_thread")]
async fn watching_with_input_from_elsewhere_ends_at_ctrl_c() {
    let stage = stage().await;
    let watch = format!(
        "stty rows 10 cols 50; timeout --foreground 20 {} status --watch --config {} </dev/null; \
         echo ended $?",
        env!("CARGO_BIN_EXE_hopend"),
        stage.config_path().display()
    );
    let mut script = Command::new("script")
        .args(["-qec", &watch, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = script.stdin.take().unwrap();
    let mut out = script.stdout.take().unwrap();
    let screen = tokio::task::spawn_blocking(move || {
        let mut screen = Vec::new();
        let mut chunk = [0; 4096];
        while !String::from_utf8_lossy(&screen).contains("more lines") {
            let count = out.read(&mut chunk).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&screen));
            screen.extend_from_slice(&chunk[..count]);
        }
        keys.write_all(b"\x03").unwrap();
        out.read_to_end(&mut screen).unwrap();
        script.wait().unwrap();
        String::from_utf8(screen).unwrap()
    });
    let screen = screen.await.unwrap();
    assert!(!screen.contains("ended 124"), "{screen:?}");
    assert!(screen.contains("\x1b[?1049l"), "{screen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_too_deep_for_a_socket_is_told_and_no_reason_not_to_serve() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    let path = sim.write_files(&deep, &account()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("at most 107 bytes"), "{text}");
    hopend::config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    let control = deep.join("control");
    Configuration::read(&path)
        .daemon(|daemon| daemon.control(control.to_str().unwrap()))
        .write(&path);
    let problems = hopend::config::load(&path).unwrap_err().to_string();
    assert!(problems.contains("too long for a socket"), "{problems}");
}
