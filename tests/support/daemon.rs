//! A daemon that is a process of its own, in front of a simulator of the test's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use simulator::{Options, Simulator};
use tempfile::TempDir;

use super::{Process, QClient, account, process};

/// Needs a test of more than one thread: its lines are waited for where they are asked for.
pub struct Daemon {
    pub sim: Simulator,
    pub folder: TempDir,
    pub process: Process,
    addresses: HashMap<String, SocketAddr>,
}

impl Daemon {
    /// Comes back when it is ready. `shell` runs before it in the same process, and may `exec` it
    /// itself as `"$@"`.
    pub async fn start(shell: &str, edit: impl FnOnce(String) -> String) -> Self {
        let sim = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = sim.write_files(folder.path(), &account()).unwrap();
        let text = edit(std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, text).unwrap();
        let (process, addresses) = ready(&folder, shell);
        Self {
            sim,
            folder,
            process,
            addresses,
        }
    }

    /// The next daemon with the same configuration, in place of one that has ended.
    pub fn start_again(&mut self) {
        (self.process, self.addresses) = ready(&self.folder, "");
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("hopend.toml")
    }

    /// Where an endpoint listens.
    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.addresses[endpoint]
    }

    /// A handle as the account that runs this.
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
        // Every line: whatever comes behind the last address is no address.
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
