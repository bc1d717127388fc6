//! A reload that hangs, as on a mount that does not answer, delays nothing else.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use q_ipc::value::Value;

use crate::support::{Configuration, Daemon, QClient};

/// Puts a pipe in the place of the configuration: to read it waits until somebody writes.
pub fn hang(daemon: &Daemon) {
    fs::remove_file(daemon.config_path()).unwrap();
    mkfifo(&daemon.config_path(), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
}

/// Opens the pipe for writing. Returns once the daemon reads from it: the system holds the call back
/// until then.
pub fn writer(pipe: &Path) -> File {
    File::options().write(true).open(pipe).unwrap()
}

/// Puts a file in the place of the pipe.
fn write(daemon: &Daemon, config: &Configuration) {
    let fresh = daemon.folder.path().join("fresh");
    config.write(&fresh);
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&fresh, daemon.config_path()).unwrap();
}

/// Has an endpoint lead to the gateway cluster.
pub fn to_gateway(config: Configuration, endpoint: &str) -> Configuration {
    config.endpoint(endpoint, |endpoint| endpoint.cluster("gateway-cluster"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_reload_that_hangs_wins() {
    let mut daemon = Daemon::start().await;
    let mut live = daemon.open("hdb").await;
    hang(&daemon);
    daemon.process.signal(Signal::SIGHUP);
    let _writer = writer(&daemon.config_path());
    daemon.process.signal(Signal::SIGHUP);
    // The second order has been taken while the first one hangs.
    daemon.process.line_with("a reload is under way");
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    daemon.open("hdb").await;
    drop(live);
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.line_with("stopping");
    let (status, output) = daemon.process.end();
    assert!(status.success(), "{status} {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_behind_one_that_hangs_is_begun_beside_it() {
    let mut daemon = Daemon::start().await;
    let config = daemon.configuration();
    hang(&daemon);
    daemon.process.signal(Signal::SIGHUP);
    daemon
        .process
        .line_with("the reload has not finished after 10 s");
    write(&daemon, &to_gateway(config, "hdb"));
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("reloaded: changed hdb");
    let mut handle = QClient::open(daemon.address("hdb"), "", "").await.unwrap();
    let gateway = Ok(Value::Symbol("gateway-cluster".into()));
    assert_eq!(handle.ask("clusterName[]").await, gateway);
}

/// The pipe is written to at last: the reload that hung comes to its end, and the one that was asked for
/// meanwhile reads the file that is there by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_says_last_is_served() {
    let mut daemon = Daemon::start().await;
    let config = daemon.configuration();
    let pipe = daemon.folder.path().join("pipe");
    hang(&daemon);
    fs::hard_link(daemon.config_path(), &pipe).unwrap();
    daemon.process.signal(Signal::SIGHUP);
    let mut writer = writer(&pipe);
    let first = to_gateway(config.clone(), "rdb").to_string();
    for _ in 0..3 {
        daemon.process.signal(Signal::SIGHUP);
        daemon.process.line_with("a reload is under way");
    }
    write(&daemon, &to_gateway(config, "hdb"));
    std::io::Write::write_all(&mut writer, first.as_bytes()).unwrap();
    drop(writer);
    daemon.process.line_with("reloaded: changed rdb");
    daemon.process.line_with("reloaded: changed hdb rdb");
    for (endpoint, cluster) in [("hdb", "gateway-cluster"), ("rdb", "rdb-cluster")] {
        let mut handle = daemon.open(endpoint).await;
        let cluster = Ok(Value::Symbol(cluster.into()));
        assert_eq!(handle.ask("clusterName[]").await, cluster);
    }
}
