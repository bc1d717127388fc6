//! Listening sockets outlive the process: the service manager's store holds them while hopend restarts,
//! so that no client is refused and no other process can bind an address meanwhile.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use simulator::{Options, Simulator};
use tempfile::TempDir;

use crate::addresses::free_port;
use crate::service::log_in;
use crate::support::configuration::{Configuration, Texts};
use crate::support::{Process, process, write_configuration};

/// hopend under a service manager that keeps descriptors: `tests/clients/fd_store.py`.
struct Managed {
    process: Process,
    orders: ChildStdin,
    folder: TempDir,
    config: PathBuf,
    _sim: Simulator,
}

impl Managed {
    /// Starts hopend with its first endpoint at these addresses.
    async fn start<L: Into<Texts>>(listen: impl FnOnce(&Path) -> L) -> Self {
        let sim = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = write_configuration(&sim, folder.path(), |config| {
            config.endpoint("hdb", |hdb| hdb.listen(listen(folder.path())))
        });
        let hopend = process::command(&["run", "--config", config.to_str().unwrap()]);
        let mut command = Command::new("python3");
        command.arg("tests/clients/fd_store.py");
        command.arg(folder.path().join("notify"));
        command.arg(hopend.get_program()).args(hopend.get_args());
        for (name, value) in hopend.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let (process, orders) = Process::spawn_with_input(&mut command);
        let mut managed = Self {
            process,
            orders,
            folder,
            config,
            _sim: sim,
        };
        managed.order("start");
        managed.process.line_with("READY=1");
        managed
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// What the store holds.
    fn held(&mut self) -> String {
        self.order("list");
        self.process.line_with("held ")
    }

    /// Sends a signal and goes on, where the manager's `kill` waits for the end.
    fn signal_daemon(&self, name: &str) {
        let seen = self.process.seen();
        let started = seen.lines().rfind(|line| line.starts_with("started "));
        let pid = started.unwrap().split(' ').nth(1).unwrap();
        let signal: nix::sys::signal::Signal = name.parse().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Changes the configuration file.
    fn rewrite(&self, change: impl FnOnce(Configuration) -> Configuration) {
        change(Configuration::read(&self.config)).write(&self.config);
    }
}

/// A process that wants an address: tries to bind it until it is told to stop, or has it.
struct Wanting {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    thread: JoinHandle<bool>,
}

impl Wanting {
    fn of(addresses: Vec<SocketAddr>) -> Self {
        let (stop, tries) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, tried) = (Arc::clone(&stop), Arc::clone(&tries));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if addresses.iter().any(|at| TcpListener::bind(at).is_ok()) {
                    return true;
                }
                tried.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            false
        });
        Self {
            stop,
            tries,
            thread,
        }
    }

    /// Whether it got one.
    fn stop(self) -> bool {
        // At least one try after everything.
        let seen = self.tries.load(Ordering::SeqCst);
        while self.tries.load(Ordering::SeqCst) < seen + 2 && !self.thread.is_finished() {
            std::thread::yield_now();
        }
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// A client that connects all the time, to either family in turn.
struct Dialling {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<std::io::Result<()>>>,
}

impl Dialling {
    fn at(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut made = Vec::new();
            // The queue of a listener holds 1,024.
            while !stopped.load(Ordering::SeqCst) {
                made.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop));
                made.push(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).map(drop));
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            made
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<std::io::Result<()>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

async fn survives(signal: &str) {
    let (port, second) = (free_port(), free_port());
    let file = |folder: &Path| folder.join("hdb.socket");
    let mut managed = Managed::start(|folder| {
        [
            format!("localhost:{port}"),
            format!("127.0.0.1:{second}"),
            format!("unix:{}", file(folder).display()),
        ]
    })
    .await;
    let uid = nix::unistd::geteuid();
    let seen = managed.process.seen();
    for name in [
        format!("stored listen/127.0.0.1_{port} of uid {uid}"),
        format!("stored listen/[__1]_{port} of uid {uid}"),
        format!("stored listen/127.0.0.1_{second} of uid {uid}"),
    ] {
        assert!(seen.contains(&name), "{name} in {seen}");
    }
    let path = file(managed.folder.path());
    log_in(UnixStream::connect(&path).unwrap());

    let wanting = Wanting::of(vec![
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
        (Ipv4Addr::LOCALHOST, second).into(),
    ]);
    let dialling = Dialling::at(port);
    for _ in 0..3 {
        managed.order(&format!("kill {signal}"));
        managed.process.line_with("ended ");
        // Nobody accepts now.
        let waiting = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        let at_file = UnixStream::connect(&path).unwrap();
        managed.order("start");
        managed.process.line_with("started ");
        managed.process.line_with("READY=1");
        log_in(waiting);
        log_in(at_file);
        log_in(TcpStream::connect((Ipv4Addr::LOCALHOST, second)).unwrap());
    }
    let made = dialling.stop();
    let refused: Vec<_> = made.iter().filter_map(|made| made.as_ref().err()).collect();
    assert!(refused.is_empty() && !made.is_empty(), "{refused:?}");
    assert!(!wanting.stop(), "another process has got an address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_nobody_and_leaves_no_address_to_others() {
    survives("SIGTERM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_refuses_nobody_and_leaves_no_address_to_others() {
    survives("SIGKILL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_holds_what_the_configuration_names_and_nothing_else() {
    let (port, second) = (free_port(), free_port());
    let (one, other) = (format!("localhost:{port}"), format!("localhost:{second}"));
    let mut managed = Managed::start(|_| [one.clone(), other.clone()]).await;
    let held = managed.held();
    assert!(
        held.contains(&format!("listen/127.0.0.1_{second}")),
        "{held}"
    );

    // A reload gives one of them up.
    managed.rewrite(|config| config.endpoint("hdb", |hdb| hdb.listen(&one)));
    managed.signal_daemon("SIGHUP");
    managed
        .process
        .line_with(&format!("removed listen/[__1]_{second}"));
    let held = managed.held();
    assert!(held.contains(&format!("listen/[__1]_{port}")), "{held}");
    assert!(!held.contains(&format!("_{second}")), "{held}");

    // The next start has another file.
    managed.order("kill SIGKILL");
    managed.process.line_with("ended ");
    managed.rewrite(|config| config.endpoint("hdb", |hdb| hdb.listen(&other)));
    managed.order("start");
    managed.process.line_with("READY=1");
    let held = managed.held();
    assert!(!held.contains(&format!("_{port}")), "{held}");
    assert!(held.contains(&format!("listen/[__1]_{second}")), "{held}");
    for ip in [
        std::net::IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        TcpListener::bind((ip, port)).unwrap();
        log_in(TcpStream::connect((ip, second)).unwrap());
    }
}

/// Somebody removes a socket file while hopend is down: the socket behind it leads nowhere any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_without_its_file_is_replaced_in_the_store() {
    let file = |folder: &Path| folder.join("hdb.socket");
    let mut managed = Managed::start(|folder| format!("unix:{}", file(folder).display())).await;
    let path = file(managed.folder.path());
    for removed in [true, false] {
        managed.order("kill SIGKILL");
        managed.process.line_with("ended ");
        if removed {
            std::fs::remove_file(&path).unwrap();
        }
        managed.order("start");
        managed.process.line_with("started ");
        managed.process.line_with("READY=1");
        log_in(UnixStream::connect(&path).unwrap());
        let held = managed.held();
        assert_eq!(held.matches("hdb.socket").count(), 1, "{held}");
    }
}
