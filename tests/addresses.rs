//! Addresses that another account may bind: hopend has both families of `localhost` or neither, and
//! tells everywhere which account has an address that it does not have.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hopend::primitives::shutdown::ShutdownSender;
use nix::sys::signal::Signal;
use q_ipc::value::Value;

use crate::attacks::STRANGER;
use crate::support::configuration::{Configuration, Texts};
use crate::support::{Log, Process, QClient, Stage, account, process, root};
use crate::telemetry::{admin, ask};

/// A port that is free in both families, held by nobody. Below those that the system gives away, and
/// apart from the simulator's.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..15_000);
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        if v4.is_ok() && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A stage whose endpoint `hdb` listens on these addresses.
async fn listening(addresses: impl Into<Texts>) -> Stage {
    Stage::builder()
        .endpoint("hdb", |hdb| hdb.listen(addresses))
        .start()
        .await
}

async fn open(ip: impl Into<std::net::IpAddr>, port: u16) -> QClient {
    let address = SocketAddr::new(ip.into(), port);
    QClient::open(address, "", "").await.unwrap()
}

#[tokio::test]
async fn localhost_is_both_families_at_one_port_that_nobody_else_can_bind() {
    let fixed = free_port().to_string();
    for port in ["0", fixed.as_str()] {
        let stage = listening(format!("localhost:{port}")).await;
        let port = stage.address("hdb").port();
        let mut v4 = open(Ipv4Addr::LOCALHOST, port).await;
        let mut v6 = open(Ipv6Addr::LOCALHOST, port).await;
        for handle in [&mut v4, &mut v6] {
            assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
        }
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_err());
    }
}

#[tokio::test]
async fn of_localhost_hopend_has_both_or_neither() {
    let (log, _guard) = Log::capture();
    for taken in [
        Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        let port = free_port();
        let other = TcpListener::bind((taken, port)).unwrap();
        let stage = listening(port.to_string()).await;
        let free: std::net::IpAddr = match taken {
            std::net::IpAddr::V4(_) => Ipv6Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
        };
        let refused = std::net::TcpStream::connect((free, port)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let socket = other.local_addr().unwrap().to_string();
        log.line_with(&["ERROR", "endpoint=\"hdb\"", "localhost:", &socket, "uid "])
            .await;
        // Other endpoints serve, and this one once it can.
        stage.open("rdb").await;
        drop(other);
        log.line_with(&["listening at last", &format!("localhost:{port}")])
            .await;
        while stage.app.addresses().len() < 4 {
            tokio::task::yield_now().await;
        }
        open(taken, port).await;
        open(free, port).await;
    }
}

#[tokio::test]
async fn a_reload_from_one_family_to_localhost_and_back_keeps_the_port() {
    let port = free_port();
    let one = format!("127.0.0.1:{port}");
    let both = format!("localhost:{port}");
    let mut stage = listening(&one).await;
    stage.reload(|config| config.endpoint("hdb", |hdb| hdb.listen(&both)));
    open(Ipv4Addr::LOCALHOST, port).await;
    open(Ipv6Addr::LOCALHOST, port).await;
    stage.reload(|config| config.endpoint("hdb", |hdb| hdb.listen(&one)));
    open(Ipv4Addr::LOCALHOST, port).await;
    // The listener of the other family ends with its task.
    while TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_err() {
        tokio::task::yield_now().await;
    }
}

/// Another account's process that listens at an address until it is dropped. Takes root.
pub struct Squatter {
    child: Child,
    pub uid: u32,
}

impl Squatter {
    /// The family and the address are Python's.
    pub fn at(address: &str) -> Self {
        let script = format!(
            "import socket, sys\n\
             family, address = {address}\n\
             s = socket.socket(family)\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
             s.bind(address)\n\
             s.listen()\n\
             print('listening', flush=True)\n\
             sys.stdin.read()\n"
        );
        let mut command = Command::new("setpriv");
        command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"]);
        command.arg("python3");
        let mut child = command
            // Of the system's programs: those of this account may be closed to others.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 9];
        let out = child.stdout.as_mut().unwrap();
        std::io::Read::read_exact(out, &mut line).unwrap();
        assert_eq!(&line, b"listening");
        let uid = STRANGER.parse().unwrap();
        Self { child, uid }
    }

    pub fn at_v6(port: u16) -> Self {
        Self::at(&format!("socket.AF_INET6, ('::1', {port})"))
    }

    pub fn at_name(port: u16) -> Self {
        Self::at(&format!("socket.AF_UNIX, '\\0/tmp/kx.{port}'"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every place that tells of an address tells of this one, and nothing of other endpoints suffers.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_another_account_has_is_told_everywhere() {
    if !root::is_root() {
        return;
    }
    let (log, _guard) = Log::capture();
    let port = free_port();
    let squatter = Squatter::at_v6(port);
    let mut name = port;
    let at_name = loop {
        let address = UnixAddress::from_abstract_name(format!("/tmp/kx.{name}")).unwrap();
        match UnixListener::bind_addr(&address) {
            Ok(free) => {
                drop(free);
                break Squatter::at_name(name);
            }
            Err(_) => name -= 1,
        }
    };
    let (uid, pid) = (squatter.uid, squatter.pid());
    let stage = listening([format!("localhost:{port}"), format!("unix:{name}")]).await;
    let told = format!("uid {uid} (python3[{pid}]) holds [::1]:{port}");
    let told_name = format!("uid {uid} (python3[{}]) holds unix:{name}", at_name.pid());
    log.line_with(&["ERROR", "endpoint=\"hdb\"", &told]).await;
    log.line_with(&["ERROR", "endpoint=\"hdb\"", &told_name])
        .await;

    let stop = ShutdownSender::default();
    let address = admin(&stage, &stop).await;
    let (head, body) = ask(address, "GET /readyz", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "degraded: hdb\n");
    let (head, body) = ask(address, "GET /readyz/hdb", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, format!("not bound: localhost:{port} unix:{name}\n"));
    let (head, _) = ask(address, "GET /readyz/rdb", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (head, _) = ask(address, "GET /readyz/nowhere", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (_, metrics) = ask(address, "GET /metrics", "localhost").await;
    for line in [
        "hopend_listen_addresses{endpoint=\"hdb\"} 2",
        "hopend_listen_addresses_bound{endpoint=\"hdb\"} 0",
        "hopend_listen_addresses_bound{endpoint=\"rdb\"} 1",
    ] {
        assert!(metrics.lines().any(|said| said == line), "{metrics}");
    }
    let (_, page) = ask(address, "GET /status", "localhost").await;
    let unbound = page.find("id=\"problems\"").unwrap();
    assert!(unbound < page.find("id=\"endpoints\"").unwrap());
    assert!(page.contains(&told), "{page}");

    let status = stage.app.status();
    let rows = &status.endpoints[0].unbound;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!((rows[0].uid, rows[0].pid), (Some(uid), Some(pid)));
    assert_eq!(rows[0].program.as_deref(), Some("python3"));
    assert!(rows[0].since >= status.started);
    assert_eq!(rows[1].uid, Some(uid));
    assert!(status.endpoints[1].unbound.is_empty());

    let mut console = stage.open("console").await;
    let Ok(Value::Table(table)) = console.ask("endpoints").await else {
        panic!("no table");
    };
    let column = table.columns.iter().find(|(name, _)| name == "unbound");
    let text = format!("{:?}", column.unwrap().1.clone());
    let first = match &column.unwrap().1 {
        Value::List(items) => items[0].as_text().unwrap(),
        _ => panic!("{text}"),
    };
    assert_eq!(
        first,
        format!("localhost:{port}: {told}; unix:{name}: {told_name}")
    );

    // The rest serves, and so does this endpoint once the other process has ended.
    let mut handle = stage.open("rdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    drop((squatter, at_name));
    loop {
        let (_, body) = ask(address, "GET /readyz", "localhost").await;
        if body == "ready\n" {
            break;
        }
        assert_eq!(body, "degraded: hdb\n");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    open(Ipv6Addr::LOCALHOST, port).await;
}

/// A console that listens on this address: nothing lies behind it that `hopend doctor` would ask.
fn console(folder: &Path, listen: impl Into<Texts>) -> PathBuf {
    let config = folder.join("hopend.toml");
    Configuration::default()
        .add_user("me", |me| me.os_user(account()))
        .add_endpoint("console", |console| {
            console.key("kind", "console").listen(listen)
        })
        .daemon(|daemon| daemon.control(folder.join("control").to_str().unwrap()))
        .write(&config);
    config
}

/// What `hopend doctor` says, and its exit code.
fn doctor(config: &Path) -> (Option<i32>, String) {
    let output = process::hopend(&["doctor", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), said)
}

/// Another account that takes the only address of a daemon does not keep it from running: it would give
/// up, and nobody would be told.
#[test]
fn a_daemon_whose_every_address_another_account_has_runs_and_tells() {
    if !root::is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let squatter = Squatter::at_v6(port);
    let config = console(folder.path(), port.to_string());
    let mut daemon = Process::start(&["run", "--config", config.to_str().unwrap()]);
    daemon.line_with(&format!("uid {STRANGER}"));
    daemon.line_with("ready");

    // Nobody takes the other account's listener for hopend, with a daemon that runs or without.
    let told = format!(
        "uid {STRANGER} (python3[{}]) holds [::1]:{port}",
        squatter.pid()
    );
    let (code, said) = doctor(&config);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("✗ listen") && said.contains(&told), "{said}");
    let status = process::hopend(&["status", "--config", config.to_str().unwrap()]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.contains("NOT BOUND") && status.contains(&told),
        "{status}"
    );

    drop(squatter);
    daemon.line_with("listening at last");
    let (code, said) = doctor(&config);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("localhost:{port} answers")),
        "{said}"
    );
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.end();
    assert!(status.success(), "{log}");
    let (code, said) = doctor(&config);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is free: no daemon runs"), "{said}");
}

#[test]
fn at_the_abstract_name_of_an_endpoint_doctor_finds_another_account() {
    if !root::is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A name of this process's own: abstract names are shared by the whole host.
    let name = 1 + u16::try_from(std::process::id() % 60_000).unwrap();
    let squatter = Squatter::at_name(name);
    let config = console(folder.path(), format!("unix:{name}"));
    let (code, said) = doctor(&config);
    assert_eq!(code, Some(69), "{said}");
    let told = format!(
        "uid {STRANGER} (python3[{}]) holds unix:{name}",
        squatter.pid()
    );
    assert!(said.contains("✗ listen") && said.contains(&told), "{said}");
}

/// hopend has 127.0.0.1 as configured; clients that dial `localhost` may reach the other account.
#[test]
fn at_the_other_family_of_a_single_address_doctor_finds_another_account() {
    if !root::is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = console(folder.path(), format!("127.0.0.1:{port}"));
    let mut daemon = Process::start(&["run", "--config", config.to_str().unwrap()]);
    daemon.line_with("ready");
    let (code, said) = doctor(&config);
    assert_eq!(code, Some(0), "{said}");
    let _squatter = Squatter::at_v6(port);
    let (code, said) = doctor(&config);
    assert_eq!(code, Some(78), "{said}");
    let told = format!("clients that dial localhost may reach [::1]:{port}, which uid {STRANGER}");
    assert!(said.contains(&told), "{said}");
}
