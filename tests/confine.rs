//! The daemon gives up what it does not need, and says so when a reload asks for more.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use hopend::config;
use hopend::daemon::confine::Confinement;
use nix::sys::signal::Signal;
use q_ipc::value::Value;
use simulator::{Options, Simulator};
use tempfile::TempDir;

use crate::support::configuration::{Configuration, EndpointTable, table};
use crate::support::{Process, QClient, write_configuration};

/// Names the configuration for the half of a test that runs in a process of its own.
const CONFIG: &str = "HOPEND_TEST_CONFINED_TO";
/// Names a file that the configuration has nothing to do with.
const OUTSIDE: &str = "HOPEND_TEST_OUTSIDE";

struct Daemon {
    sim: Simulator,
    folder: TempDir,
    path: PathBuf,
}

async fn simulator(change: impl FnOnce(Configuration) -> Configuration) -> Daemon {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), change);
    Daemon { sim, folder, path }
}

fn run(path: &Path) -> Process {
    Process::start(&["run", "--config", path.to_str().unwrap()])
}

/// This program once more, running one of its tests that is ignored otherwise.
fn half(test: &str, config: &Path, outside: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(CONFIG, config)
        .env(OUTSIDE, outside)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("1 passed"), "{said}");
    said
}

fn enter() -> Option<(Confinement, PathBuf, PathBuf)> {
    let path = PathBuf::from(std::env::var_os(CONFIG)?);
    let outside = PathBuf::from(std::env::var_os(OUTSIDE)?);
    let config = config::load(&path).unwrap();
    let confinement = Confinement::enter(&config, &path).unwrap();
    Some((confinement, path, outside))
}

fn refused<T>(what: io::Result<T>) {
    let error = what.err().expect("it was done");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
}

#[test]
#[ignore = "half of `what_is_not_needed_is_refused`"]
fn confined_without_programs() {
    let Some((confinement, path, outside)) = enter() else {
        return;
    };
    let shown = confinement.to_string();
    assert!(shown.contains("files (Landlock)"), "{shown}");
    assert!(shown.contains("system calls (seccomp)"), "{shown}");
    assert!(shown.contains("no programs"), "{shown}");
    let folder = path.parent().unwrap();

    // Files: read where the configuration names some, and written nowhere.
    config::load(&path).unwrap();
    refused(std::fs::read(&outside));
    refused(std::fs::read_dir(outside.parent().unwrap()));
    refused(std::fs::write(&outside, "x"));
    refused(std::fs::write(&path, "x"));
    refused(std::fs::write(folder.join("new"), "x"));
    refused(std::os::unix::net::UnixListener::bind(
        outside.with_extension("socket"),
    ));

    // What a daemon does all day.
    let socket = folder.join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    std::fs::remove_file(&socket).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    nix::unistd::User::from_name("root").unwrap().unwrap();
    std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    std::thread::spawn(|| ()).join().unwrap();

    // Programs, other processes, other kinds of sockets.
    refused(Command::new("/bin/true").status());
    let parent = nix::unistd::getppid();
    refused(nix::sys::ptrace::attach(parent).map_err(io::Error::from));
    let packet = socket2::Domain::from(nix::libc::AF_PACKET);
    refused(socket2::Socket::new(packet, socket2::Type::DGRAM, None));
    refused(std::os::unix::fs::chroot(folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_needed_is_refused() {
    let daemon = simulator(|config| config.daemon(|daemon| daemon.confine("strict"))).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("file");
    std::fs::write(&outside, "not hopend's").unwrap();
    half("confine::confined_without_programs", &daemon.path, &outside);
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "not hopend's");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_of_the_daemon_is_confined_and_serves() {
    let daemon = simulator(|config| config).await;
    let mut process = run(&daemon.path);
    process.line_with("confined: files (Landlock), system calls (seccomp), no programs");
    let line = process.line_with("endpoint=\"hdb\" address=");
    process.line_with("ready");
    let address = line.rsplit("address=").next().unwrap().parse().unwrap();
    let mut handle = QClient::open(address, "", "").await.unwrap();
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));

    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        threads += 1;
    }
    assert!(threads > 2, "{threads}");
    drop(daemon.sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_needs_more_is_told_to_restart_and_others_work() {
    let daemon = simulator(|config| config).await;
    let mut process = run(&daemon.path);
    process.line_with("ready");
    let original = Configuration::read(&daemon.path);
    let reload = |process: &Process, config: Configuration| {
        // As editors do: another file in its place.
        let fresh = daemon.folder.path().join("hopend.toml.new");
        std::fs::copy(&daemon.path, &fresh).unwrap();
        config.write(&fresh);
        std::fs::rename(&fresh, &daemon.path).unwrap();
        process.signal(Signal::SIGHUP);
    };

    let elsewhere = tempfile::tempdir().unwrap();
    let password = elsewhere.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&password, closed).unwrap();
    let endpoint = |change: &dyn Fn(EndpointTable) -> EndpointTable| {
        let original = original.clone();
        original.add_endpoint("new", |new| change(new.connect(":localhost:1")))
    };
    let login = |file: &str| table([("user", "u"), ("password_file", file)]);
    let file = login(password.to_str().unwrap());
    reload(&process, endpoint(&|new| new.login(file.clone())));
    let said = process.line_with("reload changed nothing");
    assert!(said.contains(password.to_str().unwrap()), "{said}");
    assert!(said.contains("systemctl restart hopend"), "{said}");

    let command = Path::new("/bin/true");
    reload(&process, endpoint(&|new| new.login_command(command)));
    let said = process.line_with("reload changed nothing");
    assert!(said.contains("a login command can't be run"), "{said}");
    assert!(said.contains("systemctl restart hopend"), "{said}");

    let socket = elsewhere.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let elsewhere = original.clone();
    reload(
        &process,
        elsewhere.endpoint("hdb", |hdb| hdb.listen(listen)),
    );
    let said = process.line_with("reload changed nothing");
    assert!(said.contains("a socket can't be made at"), "{said}");

    // A file beside the configuration, and another port, are no more than it had.
    let beside = daemon.folder.path().join("beside");
    std::fs::copy(&password, &beside).unwrap();
    reload(&process, endpoint(&|new| new.login(login("beside"))));
    process.line_with("reloaded: added new");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_login_command_programs_can_be_run() {
    let daemon = simulator(|config| config).await;
    let program = daemon.folder.path().join("login");
    let script = "#!/bin/sh\nprintf '{\"user\": \"%s\", \"password\": \"x\"}' \"$(id -un)\"\n";
    std::fs::write(&program, script).unwrap();
    let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, may_run).unwrap();
    Configuration::read(&daemon.path)
        .add_endpoint("new", |new| {
            new.connect(":localhost:1").login_command(&program)
        })
        .write(&daemon.path);
    let mut process = run(&daemon.path);
    process.line_with("confined: files (Landlock), system calls (seccomp)");
    let line = process.line_with("endpoint=\"new\" address=");
    process.line_with("ready");
    // The command's login is had, and only then kdb+ is dialled, where nobody is.
    let address = line.rsplit("address=").next().unwrap().parse().unwrap();
    assert!(QClient::open(address, "", "").await.is_err());
    let said = process.line_with("WARN session");
    assert!(said.contains("localhost:1"), "{said}");
    assert!(!said.contains("can't be run"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn off_is_off() {
    let daemon = simulator(|config| config.daemon(|daemon| daemon.confine("off"))).await;
    let mut process = run(&daemon.path);
    process.line_with("not confined");
    process.line_with("ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    assert!(status.contains("Seccomp:\t0\n"), "{status}");
}
