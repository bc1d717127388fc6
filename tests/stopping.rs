//! SIGTERM lets what is outstanding finish, SIGHUP reloads, systemd is told.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use q_ipc::frame::MessageType;
use q_ipc::value::Value;
use simulator::{Options, Simulator};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::configuration::{Configuration, DaemonTable};
use crate::support::{Process, QClient, process, write_configuration};

/// A daemon of its own in front of a simulator, its log up to `ready` read.
struct Daemon {
    sim: Simulator,
    folder: TempDir,
    process: Process,
    hdb: std::net::SocketAddr,
}

impl Daemon {
    /// A handle whose query the cluster has begun to compute.
    async fn busy(&self, query: &str) -> QClient {
        let mut handle = QClient::open(self.hdb, "", "").await.unwrap();
        handle.send(MessageType::Sync, query).await;
        self.sim
            .wait_until(|sim| sim.connections().iter().any(|c| c.syncs == 1))
            .await;
        handle
    }
}

async fn daemon(
    change: impl FnOnce(DaemonTable) -> DaemonTable,
    environment: &[(&str, &str)],
) -> Daemon {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), |config| config.daemon(change));
    let mut command = process::command(&["run", "--config", path.to_str().unwrap()]);
    command.envs(environment.iter().copied());
    let mut process = Process::spawn(&mut command);
    let line = process.line_with("endpoint=\"hdb\" address=127.0.0.1:");
    process.line_with("ready");
    let hdb = line.rsplit("address=").next().unwrap().parse().unwrap();
    Daemon {
        sim,
        folder,
        process,
        hdb,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_idle_sessions_and_lets_a_query_finish() {
    let daemon = daemon(|daemon| daemon, &[]).await;
    let mut idle = QClient::open(daemon.hdb, "", "").await.unwrap();
    let mut busy = daemon.busy("system\"sleep 1\"").await;
    daemon.process.signal(Signal::SIGTERM);
    assert!(idle.sees_end().await);
    assert!(
        TcpStream::connect(daemon.hdb).await.is_err(),
        "still accepting"
    );
    busy.answer().await.unwrap();
    assert!(busy.sees_end().await);
    drop((idle, busy));
    let (status, output) = daemon.process.end();
    assert!(status.success(), "{status} {output}");
    assert!(output.contains("stopped sessions=2 cut=0"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_within_the_drain_is_cut_and_counted() {
    let daemon = daemon(|daemon| daemon.drain("200ms"), &[]).await;
    let mut busy = daemon.busy("system\"sleep 600\"").await;
    daemon.process.signal(Signal::SIGTERM);
    let lost = busy.answer().await.unwrap_err();
    assert!(lost.contains("reset"), "{lost}");
    let (status, output) = daemon.process.end();
    assert!(status.success(), "{status} {output}");
    assert!(output.contains("stopped sessions=1 cut=1"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_at_once() {
    let mut daemon = daemon(|daemon| daemon.drain("1h"), &[]).await;
    let _busy = daemon.busy("system\"sleep 600\"").await;
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.line_with("stopping");
    let start = Instant::now();
    daemon.process.signal(Signal::SIGTERM);
    let (status, _) = daemon.process.end();
    assert_eq!(status.code(), Some(143));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_and_a_broken_endpoint_stays_as_it_was() {
    let mut daemon = daemon(|daemon| daemon, &[]).await;
    let path = daemon.folder.path().join("hopend.toml");
    let original = Configuration::read(&path);
    let elsewhere = original.clone();
    elsewhere
        .endpoint("hdb", |hdb| hdb.cluster("gateway-cluster"))
        .write(&path);
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("reloaded: changed hdb");
    let mut handle = QClient::open(daemon.hdb, "", "").await.unwrap();
    let gateway = Ok(Value::Symbol("gateway-cluster".into()));
    assert_eq!(handle.ask("clusterName[]").await, gateway);

    original
        .every_endpoint(|endpoint| endpoint.rename("cluster", "clutser"))
        .write(&path);
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("did you mean `cluster`?");
    daemon.process.line_with("reloaded: no endpoint changed");
    let mut handle = QClient::open(daemon.hdb, "", "").await.unwrap();
    assert_eq!(handle.ask("clusterName[]").await, gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_ready_reloading_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let told = || {
        let mut buffer = [0; 1024];
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
            // Of the listening sockets.
            if !told.starts_with("FDSTORE") {
                return told;
            }
        }
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let daemon = daemon(|daemon| daemon, &environment).await;
    assert!(told().contains("READY=1"));
    daemon.process.signal(Signal::SIGHUP);
    let reloading = told();
    assert!(reloading.contains("RELOADING=1"), "{reloading}");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(told().contains("READY=1"));
    daemon.process.signal(Signal::SIGTERM);
    assert!(told().contains("STOPPING=1"));
    assert!(daemon.process.end().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_ready_until_the_drain_and_alive_to_the_end() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = free.local_addr().unwrap();
    drop(free);
    let mut daemon = daemon(|daemon| daemon.admin(admin.to_string()), &[]).await;
    let status = async |path: &str| {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(
        (status("/livez").await, status("/readyz").await),
        ("200".into(), "200".into())
    );
    let _busy = daemon.busy("system\"sleep 600\"").await;
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.line_with("stopping");
    while status("/readyz").await != "503" {}
    assert_eq!(status("/livez").await, "200");
}
