//! What the service manager sees: messages, a watchdog that bites, sockets that it passes, units that
//! are right; and the configurations that are shipped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use simulator::{Options, Simulator};
use tempfile::TempDir;

use crate::support::{Configuration, Process, account, process, write_configuration};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a service manager would hear.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path,
            _folder: folder,
        }
    }

    fn told(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The next message with this in it; what the watchdog and the store get in between is passed over.
    fn told_next(&self, part: &str) -> String {
        loop {
            let told = self.told();
            if told.contains(part) {
                return told;
            }
            if told.starts_with("FDSTORE") {
                continue;
            }
            assert_eq!(told.trim_end(), "WATCHDOG=1", "waiting for {part}");
        }
    }

    /// Whether nothing comes for this long.
    fn is_silent(&self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let silent = self.socket.recv(&mut [0; 4096]).is_err();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    fn hear_the_rest(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }
}

/// A simulator, and a configuration for it that the listen addresses are still to be chosen of.
async fn simulator(
    change: impl FnOnce(Configuration) -> Configuration,
) -> (Simulator, TempDir, PathBuf) {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), change);
    (sim, folder, path)
}

fn run(config: &Path, manager: &Manager, watchdog: Option<Duration>) -> Process {
    let mut command = process::command(&["run", "--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &manager.path);
    if let Some(limit) = watchdog {
        command.env("WATCHDOG_USEC", limit.as_micros().to_string());
    }
    Process::spawn(&mut command)
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_reloads_and_the_end_are_told_with_a_line_of_status() {
    let (_sim, _folder, path) = simulator(|config| config).await;
    let manager = Manager::new();
    let daemon = run(&path, &manager, Some(Duration::from_secs(3)));

    let ready = manager.told_next("READY=1");
    assert!(
        ready.contains("STATUS=serving 4 endpoints at 4 addresses"),
        "{ready}"
    );
    manager.told_next("WATCHDOG=1");

    daemon.signal(Signal::SIGHUP);
    let reloading = manager.told_next("RELOADING=1");
    let since = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let since: f64 = since.unwrap().parse().unwrap();
    assert!((uptime - since / 1e6).abs() < 60.0, "{uptime} {reloading}");
    let ready = manager.told_next("READY=1");
    assert!(ready.contains("STATUS=serving 4 endpoints"), "{ready}");

    Configuration::read(&path)
        .every_endpoint(|endpoint| endpoint.rename("cluster", "clutser"))
        .write(&path);
    daemon.signal(Signal::SIGHUP);
    manager.told_next("RELOADING=1");
    let ready = manager.told_next("READY=1");
    let left_out = "2 parts of the configuration are left out or stay as they were";
    assert!(ready.contains(left_out), "{ready}");

    std::fs::write(&path, "what is not TOML").unwrap();
    daemon.signal(Signal::SIGHUP);
    manager.told_next("RELOADING=1");
    let ready = manager.told_next("READY=1");
    assert!(ready.contains("the last reload changed nothing"), "{ready}");

    daemon.signal(Signal::SIGTERM);
    let stopping = manager.told_next("STOPPING=1");
    assert!(
        stopping.contains("STATUS=draining 0 sessions"),
        "{stopping}"
    );
    assert!(daemon.end().0.success());
}

/// A thread of a process that is held still, as if it hung. Ptrace is for the thread that began it.
struct Held(Pid);

impl Held {
    fn still(thread: Pid) -> Self {
        ptrace::attach(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_hangs_keeps_nothing_from_the_watchdog_and_a_stop_wins() {
    let manager = Manager::new();
    let (_sim, _folder, path) = simulator(|config| config).await;
    let process = run(&path, &manager, Some(Duration::from_secs(1)));
    manager.told_next("READY=1");
    std::fs::remove_file(&path).unwrap();
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::unistd::mkfifo(&path, mode).unwrap();
    process.signal(Signal::SIGHUP);
    manager.told_next("RELOADING=1");
    for _ in 0..3 {
        manager.told_next("WATCHDOG=1");
    }
    process.signal(Signal::SIGTERM);
    manager.told_next("STOPPING=1");
    assert!(process.end().0.success());
}

fn threads(process: Pid) -> Vec<(Pid, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .map(|task| {
            let task = task.unwrap().path();
            let name = std::fs::read_to_string(task.join("comm")).unwrap();
            let number = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (Pid::from_raw(number), name.trim_end().to_owned())
        })
        .collect()
}

/// One thread for all of it, as ptrace wants.
#[test]
fn the_watchdog_gets_nothing_while_one_loop_hangs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_sim, _folder, path) = runtime.block_on(simulator(|config| config));
    let manager = Manager::new();
    let limit = Duration::from_millis(600);
    let mut daemon = run(&path, &manager, Some(limit));
    manager.told_next("READY=1");
    manager.told_next("WATCHDOG=1");

    let workers: Vec<Pid> = threads(daemon.pid())
        .into_iter()
        .filter(|(_, name)| name.starts_with("sessions-"))
        .map(|(thread, _)| thread)
        .collect();
    assert!(!workers.is_empty());
    for worker in workers {
        let held = Held::still(worker);
        daemon.line_with("a loop has not turned");
        manager.hear_the_rest();
        assert!(manager.is_silent(3 * limit), "{worker} hangs");
        drop(held);
        daemon.line_with("all loops turn again");
        manager.told_next("WATCHDOG=1");
    }

    // The thread that takes orders.
    let held = Held::still(daemon.pid());
    // One may be on its way.
    while !manager.is_silent(2 * limit) {}
    assert!(manager.is_silent(3 * limit));
    drop(held);
    manager.told_next("WATCHDOG=1");
}

/// A port that nobody has: of TCP, and as a name of q's sockets that no other test has.
fn free_ports() -> (u16, u16) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = free.local_addr().unwrap().port();
    let mut name = tcp;
    while UnixStream::connect_addr(&abstract_address(name)).is_ok() {
        name -= 1;
    }
    (tcp, name)
}

fn abstract_address(port: u16) -> UnixAddress {
    UnixAddress::from_abstract_name(format!("/tmp/kx.{port}")).unwrap()
}

/// Logs in, and gives the stream back with the capability read.
pub fn log_in<S: Read + Write>(mut stream: S) -> S {
    stream.write_all(b":\x03\0").unwrap();
    let mut capability = [0];
    stream.read_exact(&mut capability).unwrap();
    assert_eq!(capability, [3]);
    stream
}

/// `systemd-socket-activate` in front of a shell that starts the daemon twice, and holds the sockets
/// as the service manager does.
#[tokio::test(flavor = "multi_thread")]
async fn with_passed_sockets_a_restart_refuses_nobody() {
    let (tcp, name) = free_ports();
    let listen = [format!("127.0.0.1:{tcp}"), format!("unix:{name}")];
    let (_sim, folder, path) =
        simulator(|config| config.endpoint("hdb", |hdb| hdb.listen(listen))).await;
    let script = folder.path().join("twice");
    let hopend = env!("CARGO_BIN_EXE_hopend");
    let once = format!(
        "LISTEN_PID=$$ exec {hopend} run --config {}",
        path.display()
    );
    std::fs::write(&script, format!("sh -c '{once}'\nsh -c '{once}'\n")).unwrap();
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg(format!("--listen=127.0.0.1:{tcp}"))
        .arg(format!("--listen=@/tmp/kx.{name}"))
        .arg("--fdname=hdb:rdb")
        .arg("sh")
        .arg(&script);
    let mut activated = Process::spawn(&mut command);
    activated.line_with("Listening on");
    activated.line_with("Listening on");

    // The first connection starts it, and is served.
    let first = log_in(TcpStream::connect(("127.0.0.1", tcp)).unwrap());
    activated.line_with(&format!("unix:{name} was passed as \"rdb\""));
    activated.line_with("ready");
    let second = log_in(UnixStream::connect_addr(&abstract_address(name)).unwrap());
    let pid = activated.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let daemon = Pid::from_raw(children.trim().parse().unwrap());
    nix::sys::signal::kill(daemon, Signal::SIGTERM).unwrap();

    // It drains, ends and starts again meanwhile.
    activated.line_with("stopping");
    let waiting: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(("127.0.0.1", tcp)).unwrap())
        .collect();
    let by_name = UnixStream::connect_addr(&abstract_address(name)).unwrap();
    activated.line_with("stopped");
    for stream in waiting {
        log_in(stream);
    }
    log_in(by_name);
    activated.line_with("ready");
    drop((first, second));
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let daemon = Pid::from_raw(children.trim().parse().unwrap());
    nix::sys::signal::kill(daemon, Signal::SIGTERM).unwrap();
    let (status, output) = activated.end();
    assert!(status.success(), "{output}");
    assert!(!output.contains("goes on trying"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_socket_that_no_endpoint_has_is_told_until_a_reload_wants_it() {
    let (tcp, _) = free_ports();
    let (_sim, _folder, path) = simulator(|config| config).await;
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg(format!("--listen=127.0.0.1:{tcp}"))
        .args([env!("CARGO_BIN_EXE_hopend"), "run", "--config"])
        .arg(&path);
    let mut activated = Process::spawn(&mut command);
    activated.line_with("Listening on");
    let client = TcpStream::connect(("127.0.0.1", tcp)).unwrap();
    activated.line_with(&format!("no endpoint listens at 127.0.0.1:{tcp}"));
    activated.line_with("ready");

    Configuration::read(&path)
        .endpoint("hdb", |hdb| hdb.listen(format!("127.0.0.1:{tcp}")))
        .write(&path);
    activated.signal(Signal::SIGHUP);
    activated.line_with("reloaded");
    log_in(client);
}

/// The units with the program where it is.
fn units() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in ["hopend.service", "hopend.socket"] {
        let text = std::fs::read_to_string(format!("systemd/{unit}")).unwrap();
        let text = text.replace("/usr/bin/hopend", env!("CARGO_BIN_EXE_hopend"));
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    folder
}

fn systemd_analyze(arguments: &[&str], files: &[PathBuf]) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .args(files)
        .output()
        .expect("systemd-analyze, of Debian's package systemd");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = units();
    let files = ["hopend.service", "hopend.socket"].map(|unit| folder.path().join(unit));
    let (fine, said) = systemd_analyze(&["verify", "--man=no"], &files);
    assert!(fine && said.trim().is_empty(), "{said}");
}

#[test]
fn the_service_is_exposed_by_no_more_than_one_and_a_half_of_ten() {
    let folder = units();
    let service = [folder.path().join("hopend.service")];
    let (fine, said) = systemd_analyze(
        &["security", "--offline=true", "--threshold=15", "--no-pager"],
        &service,
    );
    assert!(fine, "{said}");
    assert!(said.contains("Overall exposure level"), "{said}");
}

/// The examples name accounts and files that are not here.
#[test]
fn every_example_is_what_check_takes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rdb.password"), "secret\n").unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(folder.path().join("rdb.password"), closed).unwrap();
    let kubernetes = std::fs::read_to_string("config/examples/kubernetes.yaml").unwrap();
    let (_, within) = kubernetes.split_once("hopend.toml: |\n").unwrap();
    let (within, _) = within.split_once("\n---\n").unwrap();
    let unindented: Vec<_> = within
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let mut examples = vec![("kubernetes.yaml".to_owned(), unindented.join("\n"))];
    for file in std::fs::read_dir("config/examples").unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name != "kubernetes.yaml" {
            examples.push((name, std::fs::read_to_string(file.path()).unwrap()));
        }
    }
    assert!(examples.len() >= 3);
    for (name, text) in examples {
        let mut here = text.clone();
        for (at, other) in ["alice", "feed"].into_iter().enumerate() {
            let account = if at == 0 { account() } else { "daemon".into() };
            here = here.replace(
                &format!("os_user = \"{other}\""),
                &format!("os_user = \"{account}\""),
            );
        }
        let path = folder.path().join("hopend.toml");
        std::fs::write(&path, here).unwrap();
        let check = |credentials: bool| {
            let mut command = process::command(&["check", "--config", path.to_str().unwrap()]);
            if credentials {
                command.env("CREDENTIALS_DIRECTORY", folder.path());
            }
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        };
        let (code, said) = check(true);
        assert_eq!(code, Some(0), "{name}: {said}");
        if text.contains("= \"$CREDENTIALS_DIRECTORY/") {
            let (code, said) = check(false);
            assert_eq!(code, Some(78), "{name}");
            assert!(said.contains("LoadCredential="), "{said}");
        }
    }
}
