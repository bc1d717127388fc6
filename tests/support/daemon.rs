//! A daemon in a process of its own, in front of a simulator in the test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use simulator::{Options, Simulator};
use tempfile::TempDir;

use super::{Configuration, Process, QClient, account, process, write_configuration};

/// A running daemon and its simulator. A test that uses it needs more than one thread: waiting for a log
/// line blocks the thread that waits.
pub struct Daemon {
    pub sim: Simulator,
    pub folder: TempDir,
    pub process: Process,
    addresses: HashMap<String, SocketAddr>,
}

impl Daemon {
    /// Starts a daemon with the simulator's configuration, at ports that the system chooses. Returns once
    /// it is ready.
    pub async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// Starts a daemon with a changed configuration.
    pub async fn with(change: impl FnOnce(Configuration) -> Configuration) -> Self {
        Self::under_shell("", change).await
    }

    /// Starts a daemon at the fixed ports that the simulator has chosen. After [`Daemon::start_again`] it has
    /// the same addresses.
    pub async fn at_fixed_ports(change: impl FnOnce(Configuration) -> Configuration) -> Self {
        let sim = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = sim.write_files(folder.path(), &account()).unwrap();
        change(Configuration::read(&path)).write(&path);
        Self::before(sim, folder, "")
    }

    /// Starts a daemon after a line of shell, which runs in the same process. The line may `exec` the daemon
    /// itself as `"$@"`.
    pub async fn under_shell(
        shell: &str,
        change: impl FnOnce(Configuration) -> Configuration,
    ) -> Self {
        let sim = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_configuration(&sim, folder.path(), change);
        Self::before(sim, folder, shell)
    }

    fn before(sim: Simulator, folder: TempDir, shell: &str) -> Self {
        let (process, addresses) = ready(&folder, shell);
        Self {
            sim,
            folder,
            process,
            addresses,
        }
    }

    /// Starts the next daemon with the same configuration, after this one has ended.
    pub fn start_again(&mut self) {
        (self.process, self.addresses) = ready(&self.folder, "");
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("hopend.toml")
    }

    /// The configuration as it is in the file.
    pub fn configuration(&self) -> Configuration {
        Configuration::read(&self.config_path())
    }

    /// Changes the configuration file. The daemon reads it at the next reload.
    pub fn rewrite(&self, change: impl FnOnce(Configuration) -> Configuration) {
        change(self.configuration()).write(&self.config_path());
    }

    /// The TCP address of an endpoint.
    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.addresses[endpoint]
    }

    /// Opens a handle as the account that runs the test.
    pub async fn open(&self, endpoint: &str) -> QClient {
        QClient::open(self.address(endpoint), "", "").await.unwrap()
    }
}

fn ready(folder: &TempDir, shell: &str) -> (Process, HashMap<String, SocketAddr>) {
    let path = folder.path().join("hopend.toml");
    let hopend = process::command(&["run", "--config", path.to_str().unwrap()]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}\nexec \"$@\""), "sh"]);
    command.arg(hopend.get_program()).args(hopend.get_args());
    for (name, value) in hopend.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut process = Process::spawn(&mut command);
    let mut addresses = HashMap::new();
    loop {
        // The addresses come first, then the line that says "ready".
        let line = process.line_with("");
        if line.contains("ready endpoints=") {
            return (process, addresses);
        }
        let said = |key: &str| line.split(key).nth(1)?.split(' ').next();
        if let (Some(name), Some(address)) = (said("endpoint="), said("address="))
            && let Ok(address) = address.replace("localhost", "127.0.0.1").parse()
        {
            addresses.insert(name.trim_matches('"').to_owned(), address);
        }
    }
}
