//! The host runs out of something, the administrator slips, the daemon is told to end or is killed.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use q_ipc::frame::MessageType;
use q_ipc::value::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Row, Sees, keeps_secrets};
use crate::hanging_reload::{hang, to_gateway, writer};
use crate::support::qclient::Refused;
use crate::support::root::is_root;
use crate::support::{Configuration, Daemon, QClient};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const UNTOUCHED: &str = "nothing to recover: the old configuration serves on, live sessions stay";

async fn hopen(daemon: &Daemon) -> Result<QClient, Refused> {
    QClient::open(daemon.address("hdb"), "", "").await
}

/// A disk of its own for the audit file: the folder as the daemon is told, and as the test sees it.
async fn with_a_small_disk() -> Option<(Daemon, tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().display().to_string();
    let mount = format!("mount -t tmpfs -o size=64k none {disk}");
    if !is_root() {
        return None;
    }
    let mount = format!("exec unshare -m sh -c '{mount} && exec \"$@\"' sh \"$@\"");
    let audited =
        |config: Configuration| config.daemon(|daemon| daemon.audit(format!("{disk}/audit.log")));
    let daemon = Daemon::under_shell(&mount, audited).await;
    let seen = format!("/proc/{}/root{disk}", daemon.process.pid()).into();
    Some((daemon, folder, seen))
}

/// All that is in the audit file; each line is whole.
fn audited(disk: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(disk.join("audit.log")).unwrap();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "half a line: {text}"
    );
    let lines = text.lines().map(serde_json::from_str);
    lines.map(|line| line.unwrap()).collect()
}

async fn disk_full(row: &Row) {
    const SESSIONS: usize = 24;
    let Some((mut daemon, _folder, disk)) = with_a_small_disk().await else {
        return;
    };
    let mut live = daemon.open("hdb").await;
    // The file has a page of its own, so that the disk is full in the middle of a line.
    while audited(&disk).is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    let filler = disk.join("filler");
    let filled = fs::write(&filler, vec![0; 1 << 20]);
    assert_eq!(filled.unwrap_err().kind(), ErrorKind::StorageFull);
    // What is left of the file's last page takes a few lines.
    for _ in 0..SESSIONS {
        row.saw(Sees::of(hopen(&daemon).await));
    }
    row.logged_by(&mut daemon.process);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    assert!(audited(&disk).len() < 2 * SESSIONS);
    fs::remove_file(&filler).unwrap();
    let said = daemon.process.line_with("written again");
    assert!(said.contains("0 lines were lost"), "{said}");
    drop(live);
    while audited(&disk).len() < 2 * (SESSIONS + 1) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

/// As an editor does it: whoever reads meanwhile has the old file or the new one.
fn rewrite(daemon: &Daemon, content: &dyn std::fmt::Display) {
    let fresh = daemon.folder.path().join("fresh");
    fs::write(&fresh, content.to_string()).unwrap();
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&fresh, daemon.config_path()).unwrap();
}

fn descriptors(daemon: &Daemon) -> usize {
    let folder = format!("/proc/{}/fd", daemon.process.pid());
    fs::read_dir(folder).unwrap().count()
}

async fn no_descriptors(row: &Row) {
    let mut daemon =
        Daemon::with(|config| config.endpoint("hdb", |hdb| hdb.handshake_timeout("10m"))).await;
    daemon.open("hdb").await;
    daemon.sim.wait_for_connections("hdb-cluster", 0).await;
    let before = descriptors(&daemon);
    // Fewer than it has counted on: else it lets in no more than it has descriptors for.
    let limited = std::process::Command::new("prlimit")
        .args(["--nofile=64", "--pid", &daemon.process.pid().to_string()])
        .status();
    assert!(limited.unwrap().success(), "install util-linux");
    // One that holds a descriptor of hopend's and no more.
    let mut silent = Some(TcpStream::connect(daemon.address("hdb")).await.unwrap());
    let mut handles = Vec::new();
    let refused = loop {
        assert!(handles.len() < 64, "never refused");
        let mut opening = Box::pin(hopen(&daemon));
        let opened = match timeout(Duration::from_secs(3), &mut opening).await {
            Ok(opened) => opened,
            // Not even accepted: the last descriptor is in use. The one that becomes free now leads
            // no farther than that.
            Err(_) => {
                drop(silent.take().unwrap());
                opening.await
            }
        };
        match opened {
            Ok(handle) => handles.push(handle),
            refused => break Sees::of(refused),
        }
    };
    drop(silent);
    row.saw(refused);
    row.logged_by(&mut daemon.process);
    for handle in &mut handles {
        assert_eq!(
            handle.ask("1+1").await,
            Ok(Value::Long(2)),
            "live sessions stay"
        );
    }
    drop(handles);
    daemon.sim.wait_for_connections("hdb-cluster", 0).await;
    // Also what waited to be accepted comes to its end.
    daemon.open("hdb").await;
    daemon.sim.wait_for_connections("hdb-cluster", 0).await;
    // The simulator may see an end before hopend has closed the client's side; of another process's
    // descriptors nobody calls.
    let closed = timeout(Duration::from_secs(10), async {
        while descriptors(&daemon) > before + 2 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    let closed = closed.await.is_ok();
    let after = descriptors(&daemon);
    assert!(closed, "{before} descriptors before, {after} after");
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

async fn broken_endpoint(row: &Row) {
    let mut daemon = Daemon::start().await;
    let mut live = daemon.open("hdb").await;
    let changed = to_gateway(daemon.configuration(), "rdb");
    let misspelt = changed.clone();
    rewrite(
        &daemon,
        &misspelt.endpoint("hdb", |hdb| hdb.rename("cluster", "clutser")),
    );
    daemon.process.signal(Signal::SIGHUP);
    row.logged_by(&mut daemon.process);
    daemon.process.line_with("reloaded: changed rdb");
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    row.saw(Sees::of(hopen(&daemon).await));
    let gateway = Ok(Value::Symbol("gateway-cluster".into()));
    assert_eq!(daemon.open("rdb").await.ask("clusterName[]").await, gateway);
    rewrite(&daemon, &to_gateway(changed, "hdb"));
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("reloaded: changed hdb");
    assert_eq!(daemon.open("hdb").await.ask("clusterName[]").await, gateway);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

/// The user of an account that does not resolve, who has the right password as well. The account appears
/// in an `/etc/passwd` of the daemon's own, in a mount namespace.
async fn unknown_account(row: &Row) {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let accounts = folder.path().join("passwd");
    fs::copy("/etc/passwd", &accounts).unwrap();
    let shell = format!(
        "exec unshare --mount sh -c 'mount --bind {} /etc/passwd && exec \"$@\"' sh \"$@\"",
        accounts.display()
    );
    let mut daemon = Daemon::under_shell(&shell, |config| {
        config.user("alice", |alice| alice.os_user(crate::left_out::NOBODY))
    })
    .await;
    let said = daemon.process.seen();
    assert!(row.log.iter().all(|part| said.contains(part)), "{said}");
    let password = fs::read_to_string(daemon.folder.path().join("alice.password")).unwrap();
    let address = daemon.address("hdb");
    row.saw(Sees::of(
        QClient::open(address, "alice", password.trim_end()).await,
    ));
    let mut handle = daemon.open("hdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    let mut accounts = fs::OpenOptions::new().append(true).open(&accounts).unwrap();
    let account = crate::left_out::NOBODY;
    writeln!(accounts, "{account}:x:1999999999:1999999999::/:/bin/false").unwrap();
    let known = "user \"alice\" is served: its account is known by now";
    daemon.process.line_with(known);
    let opened = QClient::open(address, "alice", password.trim_end()).await;
    assert_eq!(Sees::of(opened), Sees::Nothing);
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

/// A pipe that nobody writes to is read in place of the file: as on a mount that hangs.
async fn hanging_reload(row: &Row) {
    let mut daemon = Daemon::start().await;
    let mut live = daemon.open("hdb").await;
    fs::remove_file(daemon.config_path()).unwrap();
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::unistd::mkfifo(&daemon.config_path(), mode).unwrap();
    daemon.process.signal(Signal::SIGHUP);
    row.logged_by(&mut daemon.process);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    row.saw(Sees::of(hopen(&daemon).await));
    drop(live);
    daemon.process.signal(Signal::SIGTERM);
    let (status, output) = daemon.process.end();
    assert!(status.success(), "{status} {output}");
    keeps_secrets(&output, &daemon.sim.issued_secrets());
}

async fn broken_file(row: &Row) {
    let mut daemon = Daemon::start().await;
    let mut live = daemon.open("hdb").await;
    let config = daemon.configuration();
    let text = config.to_string();
    for broken in [
        text.replace('"', ""),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ] {
        rewrite(&daemon, &broken);
        daemon.process.signal(Signal::SIGHUP);
        row.logged_by(&mut daemon.process);
        assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
        row.saw(Sees::of(hopen(&daemon).await));
    }
    fs::remove_file(daemon.config_path()).unwrap();
    daemon.process.signal(Signal::SIGHUP);
    row.logged_by(&mut daemon.process);
    row.saw(Sees::of(hopen(&daemon).await));
    rewrite(&daemon, &to_gateway(config, "rdb"));
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("reloaded: changed rdb");
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

/// Orders may come faster than they are carried out: what the file says last counts.
async fn twice_at_once(row: &Row) {
    let mut daemon = Daemon::start().await;
    let original = daemon.configuration();
    let other = to_gateway(original.clone(), "hdb");
    let mut live = daemon.open("hdb").await;
    // The first reload reads a pipe, and is under way until that is written to.
    let pipe = daemon.folder.path().join("pipe");
    hang(&daemon);
    fs::hard_link(daemon.config_path(), &pipe).unwrap();
    daemon.process.signal(Signal::SIGHUP);
    let mut writer = writer(&pipe);
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("a reload is under way");
    rewrite(&daemon, &other);
    writer.write_all(original.to_string().as_bytes()).unwrap();
    drop(writer);
    daemon.process.line_with("reloaded: no endpoint changed");
    row.logged_by(&mut daemon.process);
    rewrite(&daemon, &original);
    daemon.process.signal(Signal::SIGHUP);
    row.logged_by(&mut daemon.process);

    for round in 0..10 {
        let (first, last, name) = match round % 2 {
            0 => (&original, &other, "gateway-cluster"),
            _ => (&other, &original, "hdb-cluster"),
        };
        for content in [first, last] {
            rewrite(&daemon, content);
            daemon.process.signal(Signal::SIGHUP);
        }
        row.logged_by(&mut daemon.process);
        let mut handle = daemon.open("hdb").await;
        let served = handle.ask("clusterName[]").await;
        assert_eq!(served, Ok(Value::Symbol(name.into())), "round {round}");
    }
    row.saw(Sees::Nothing);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    daemon.process.signal(Signal::SIGTERM);
    assert!(live.sees_end().await);
    let (status, log) = daemon.process.end();
    assert!(status.success(), "{status}");
    keeps_secrets(&log, &daemon.sim.issued_secrets());
}

/// Sessions that ask all the time and others that come and go, while the file changes.
async fn under_load(row: &Row) {
    let mut daemon = Daemon::start().await;
    let original = daemon.configuration();
    let other = to_gateway(original.clone(), "rdb");
    let stop = Arc::new(AtomicBool::new(false));
    let asked = watch::Sender::new(0_u64);
    let mut tasks = Vec::new();
    for (number, endpoint) in ["hdb", "rdb", "plain"].repeat(4).into_iter().enumerate() {
        let address = daemon.address(endpoint);
        let (stop, asked) = (Arc::clone(&stop), asked.clone());
        tasks.push(tokio::spawn(async move {
            let mut handle = QClient::open(address, "", "").await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
                asked.send_modify(|count| *count += 1);
                if number % 2 == 0 {
                    handle = QClient::open(address, "", "").await.unwrap();
                }
            }
        }));
    }
    for round in 0..10 {
        let before = *asked.borrow();
        let content = if round % 2 == 0 { &other } else { &original };
        rewrite(&daemon, content);
        daemon.process.signal(Signal::SIGHUP);
        row.logged_by(&mut daemon.process);
        let mut asking = asked.subscribe();
        asking
            .wait_for(|count| *count >= before + 24)
            .await
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    row.saw(Sees::Nothing);
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

/// A client at each stage of its session.
async fn sigterm(row: &Row) {
    let mut daemon = Daemon::with(|config| {
        config
            .daemon(|daemon| daemon.drain("60s"))
            .endpoint("hdb", |hdb| hdb.handshake_timeout("10m"))
            .endpoint("rdb", |rdb| rdb.handshake_timeout("10m"))
    })
    .await;
    let silent = TcpStream::connect(daemon.address("hdb")).await.unwrap();
    let mut half = TcpStream::connect(daemon.address("hdb")).await.unwrap();
    half.write_all(b"half a na").await.unwrap();
    let idle = daemon.open("hdb").await;
    let console = daemon.open("console").await;
    let mut busy = daemon.open("hdb").await;
    busy.send(MessageType::Sync, "system\"sleep 2\"").await;
    let asks = |sim: &simulator::Simulator| sim.connections().iter().any(|c| c.syncs == 1);
    daemon.sim.wait_until(asks).await;
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.line_with("stopping");
    for stream in [silent, half] {
        // It has been told already, or is accepted only to be told.
        let ended = Sees::end_of(QClient { stream }).await;
        assert!(matches!(ended, Sees::Reset | Sees::End), "{ended:?}");
    }
    row.saw(Sees::end_of(idle).await);
    row.saw(Sees::end_of(console).await);
    busy.answer().await.unwrap();
    row.saw(Sees::end_of(busy).await);
    assert!(TcpStream::connect(daemon.address("hdb")).await.is_err());
    let (status, log) = daemon.process.end();
    assert!(status.success(), "{status} {log}");
    let line = log
        .lines()
        .find(|line| row.log.iter().all(|part| line.contains(part)));
    assert!(line.is_some(), "{log}");
    keeps_secrets(&log, &daemon.sim.issued_secrets());
}

/// Killed with sessions of each kind, and started again at the same addresses at once.
async fn sigkill(row: &Row) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hdb");
    let mut daemon = Daemon::at_fixed_ports(|config| {
        config.endpoint("hdb", |hdb| {
            let mut listen = hdb
                .texts("listen")
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>();
            listen.push(format!("unix:{}", socket.display()));
            hdb.listen(listen)
        })
    })
    .await;
    let idle = daemon.open("hdb").await;
    let mut busy = daemon.open("hdb").await;
    busy.send(MessageType::Sync, "system\"sleep 600\"").await;
    let asks = |sim: &simulator::Simulator| sim.connections().iter().any(|c| c.syncs == 1);
    daemon.sim.wait_until(asks).await;
    daemon.process.signal(Signal::SIGKILL);
    row.saw(Sees::end_of(idle).await);
    row.saw(Sees::end_of(busy).await);
    // The listener may be the last that the kernel closes.
    while Sees::of(hopen(&daemon).await) != Sees::Nobody {}
    assert!(socket.exists() && daemon.folder.path().join("control").exists());
    let before = daemon.address("hdb");
    daemon.start_again();
    assert!(
        row.log
            .iter()
            .all(|part| daemon.process.seen().contains(part)),
        "{}",
        daemon.process.seen()
    );
    assert!(
        !daemon.process.seen().contains("ERROR"),
        "{}",
        daemon.process.seen()
    );
    assert_eq!(daemon.address("hdb"), before);
    let mut handle = daemon.open("hdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    let stream = UnixStream::connect(&socket).await.unwrap();
    let mut handle = QClient::log_in(stream, "", "").await.unwrap();
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    let asked = crate::support::process::hopend(&[
        "status",
        "--config",
        daemon.config_path().to_str().unwrap(),
    ]);
    assert!(asked.status.success(), "{asked:?}");
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

/// The program that reads the log. It can be stopped.
struct LogReader {
    pid: Pid,
    pipe: PathBuf,
}

impl LogReader {
    /// What a shell does before hopend so that its log goes through `folder/log`.
    fn shell(folder: &Path) -> String {
        let folder = folder.display();
        format!(
            "mkfifo {folder}/log; cat {folder}/log >&2 & echo $! >{folder}/reader; exec 2>{folder}/log"
        )
    }

    fn of(folder: &Path) -> Self {
        let pid = fs::read_to_string(folder.join("reader")).unwrap();
        Self {
            pid: Pid::from_raw(pid.trim().parse().unwrap()),
            pipe: folder.join("log"),
        }
    }

    /// Reads no more, and the pipe is full.
    async fn stop(&self) {
        kill(self.pid, Signal::SIGSTOP).unwrap();
        let state = format!("/proc/{}/stat", self.pid);
        while !fs::read_to_string(&state).unwrap().contains(") T ") {
            tokio::task::yield_now().await;
        }
        let mut options = fs::OpenOptions::new();
        let pipe = options.write(true).custom_flags(libc::O_NONBLOCK);
        let mut pipe = pipe.open(&self.pipe).unwrap();
        // So much is written as a whole or not at all.
        for lines in [512, 1] {
            while pipe.write(&b"filler.\n".repeat(lines)).is_ok() {}
        }
    }

    fn resume(&self) {
        kill(self.pid, Signal::SIGCONT).unwrap();
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.resume();
    }
}

/// Four sessions of live handles, on all threads.
async fn log_unread(row: &Row) {
    let folder = tempfile::tempdir().unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let shell = format!(
        "{}; export NOTIFY_SOCKET={}/notify WATCHDOG_USEC=3000000; set -- \"$@\" --log-level debug",
        LogReader::shell(folder.path()),
        folder.path().display()
    );
    let mut daemon = Daemon::under_shell(&shell, |config| {
        config.daemon(|daemon| daemon.admin("127.0.0.1:0"))
    })
    .await;
    let reader = LogReader::of(folder.path());
    let seen = daemon.process.seen();
    let admin = seen.split("admin address=").nth(1).unwrap();
    let admin = admin.lines().next().unwrap().parse().unwrap();
    let mut live = Vec::new();
    for _ in 0..4 {
        live.push(daemon.open("hdb").await);
    }
    reader.stop().await;

    // Each of them has lines of its own.
    for _ in 0..8 {
        let opened = timeout(PATIENCE, hopen(&daemon)).await;
        row.saw(Sees::of(opened.expect("a hopen waits for the log")));
    }
    for handle in &mut live {
        let answer = timeout(PATIENCE, handle.ask("1+1")).await;
        assert_eq!(answer, Ok(Ok(Value::Long(2))), "a live handle stops");
    }
    let lost = async || {
        let (_, metrics) = crate::telemetry::ask(admin, "GET /metrics", "localhost").await;
        let of = |line: &str| {
            line.strip_prefix("hopend_log_lines_lost_total{} ")?
                .parse()
                .ok()
        };
        let lost: Option<u64> = metrics.lines().find_map(of);
        lost.unwrap_or_else(|| panic!("{metrics}"))
    };
    // Each leaves a line.
    while lost().await == 0 {
        for _ in 0..500 {
            drop(TcpStream::connect(daemon.address("hdb")).await.unwrap());
        }
    }
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    rewrite(&daemon, &text.replace('"', ""));
    daemon.process.signal(Signal::SIGHUP);
    while !told().contains("the last reload changed nothing") {}
    for _ in 0..3 {
        while !told().contains("WATCHDOG=1") {}
    }
    let (livez, _) = crate::telemetry::ask(admin, "GET /livez", "localhost").await;
    assert!(livez.starts_with("HTTP/1.1 200"), "{livez}");
    for handle in &mut live {
        let answer = timeout(PATIENCE, handle.ask("1+1")).await;
        assert_eq!(answer, Ok(Ok(Value::Long(2))), "a live handle stops");
    }

    reader.resume();
    // The flood has left room for errors.
    daemon.process.line_with("reload changed nothing");
    let gap = daemon.process.line_with_all(row.log);
    let told: u64 = gap.split("lines=").nth(1).unwrap().trim().parse().unwrap();
    assert_eq!(told, lost().await, "{gap}");
    assert!(told > 0);
    drop(daemon.open("hdb").await);
    daemon.process.line_with("session open");
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

faults! {
    #[tokio::test(flavor = "multi_thread")]
    nobody_reads_the_log {
        fault: "standard error is a pipe that is full and that nobody reads",
        sees: Sees::Nothing,
        log: &["log lines are lost here", "standard error was not read fast enough", "Fix: check the program that reads it"],
        recovers: "when it is read again: the lines that waited (4 MiB at most; a quarter has room for errors only), then one that counts those lost; sessions, `/livez` and the watchdog never wait",
        test(row): log_unread(row),
    }
    no_file_descriptor_is_left {
        fault: "hopend has no file descriptor left",
        sees: Sees::Reset,
        log: &["session refused", "raise LimitNOFILE", "kind=\"internal\""],
        recovers: "the next hopen, within a second of a session's end; live sessions stay; kdb+ is not blamed for it",
        test(row): no_descriptors(row),
    }
    no_room_for_the_audit_file {
        fault: "the disk of the audit file is full",
        sees: Sees::Nothing,
        log: &["audit file", "No space left on device", "lines wait until it can be written", "make room on its disk"],
        recovers: "within a second of there being room: lines that waited are written, up to 4,096 of them, no half line is left",
        test(row): disk_full(row),
    }
    reload_of_a_broken_file {
        fault: "reload of a file that is no TOML, torn, empty or gone",
        sees: Sees::Nothing,
        log: &["reload changed nothing"],
        recovers: UNTOUCHED,
        test(row): broken_file(row),
    }
    reload_of_a_broken_endpoint {
        fault: "reload of a file with an endpoint that is mistyped",
        sees: Sees::Nothing,
        log: &["endpoint \"hdb\" stays as it was", "did you mean `cluster`?"],
        recovers: "the endpoint goes on as it was, live sessions stay, and every other part of the file is served; the next reload with the endpoint mended",
        test(row): broken_endpoint(row),
    }
    account_that_does_not_resolve {
        fault: "a start while the account of a user does not resolve",
        sees: Sees::Access,
        log: &["user \"alice\" is left out until the account is known", "there is no such local account"],
        recovers: "within 30 s of the account's appearing, without a reload; everybody else is served meanwhile",
        test(row): unknown_account(row),
    }
    reload_that_hangs {
        fault: "a reload whose file, or account database, does not answer; then SIGTERM",
        sees: Sees::Nothing,
        log: &["the reload has not finished after 10 s", "repair it, or reload again"],
        recovers: "the old configuration serves on; the watchdog is fed; another reload is begun beside the one that hangs; a stop wins",
        test(row): hanging_reload(row),
    }
    two_reloads_at_once {
        fault: "a reload while another is carried out",
        sees: Sees::Nothing,
        log: &["reloaded: changed hdb"],
        recovers: "what the file says last is served; live sessions stay",
        test(row): twice_at_once(row),
    }
    reload_under_load {
        fault: "ten reloads while twelve clients ask and half of them reconnect all the time",
        sees: Sees::Nothing,
        log: &["reloaded: changed rdb"],
        recovers: "nothing to recover: no call and no hopen fails",
        test(row): under_load(row),
    }
    sigterm_in_the_middle {
        fault: "SIGTERM with clients before their login, idle, in the console and waiting for an answer",
        sees: Sees::End,
        log: &["stopped", "cut=0"],
        recovers: "ends when the last answer has arrived; who had not logged in is not waited for",
        test(row): sigterm(row),
    }
    sigkill_and_restart {
        fault: "SIGKILL, and a start with the same file",
        sees: Sees::End,
        log: &["ready endpoints="],
        recovers: "at once: TCP ports, abstract and file sockets and the control socket are taken over",
        test(row): sigkill(row),
    }
}
