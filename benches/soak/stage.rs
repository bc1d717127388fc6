//! The simulator, the daemon in front of it, and what the daemon has said.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hopend::sim::{Options, Simulator};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::At;
use crate::figures::{Figures, Process};
use crate::{PATIENCE, Result};

/// Connection strings live so long: they are renewed all along.
const STRING_LIFE: Duration = Duration::from_secs(120);
/// Often enough that every session is pinged between two requests.
const KEEPALIVE: &str = "5s";
/// The endpoint that has all the faults, its cluster, and those that have none.
pub(crate) const TROUBLED: &str = "hdb";
pub(crate) const TROUBLED_CLUSTER: &str = "hdb-cluster";
const STEADY: [&str; 2] = ["rdb", "plain"];

/// Where the daemon's log is kept, for whoever looks into a failure.
pub(crate) const LOG: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/soak.log");

/// Everything but the clients.
pub(crate) struct Stage {
    pub(crate) simulator: Simulator,
    pub(crate) daemon: Daemon,
    pub(crate) random: fastrand::Rng,
    pub(crate) config: PathBuf,
    /// The configuration as it was at the start.
    pub(crate) text: String,
    endpoints: Vec<At>,
    _folder: tempfile::TempDir,
}

/// The daemon's process. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Log>>,
}

/// What is remembered of the daemon's log.
#[derive(Default)]
struct Log {
    reloads: u64,
    refused_reloads: u64,
    /// Lines that there should be none of.
    bad: Vec<String>,
}

impl Stage {
    pub(crate) async fn set(sessions: usize) -> Result<Self> {
        let options = Options {
            string_life: STRING_LIFE,
            nodes: 3,
            ..Options::default()
        };
        let simulator = Simulator::start(options).await?;
        let folder = tempfile::tempdir()?;
        let account = nix::unistd::User::from_uid(nix::unistd::getuid())?;
        let account = account.ok_or("the account that runs this has no name")?;
        let config = simulator.write_files(folder.path(), &account.name)?;
        let text = std::fs::read_to_string(&config)?;
        let more = format!(
            "keepalive = \"{KEEPALIVE}\"\nmax_sessions = {}\nlisten = ",
            2 * sessions + 100
        );
        let text = text.replace("\nlisten = ", &format!("\n{more}"));
        // The console answers by itself and has nothing to keep alive.
        let (before, console) = text.split_once("name = \"console\"").ok_or("no console")?;
        let console = console.replace(&format!("keepalive = \"{KEEPALIVE}\"\n"), "");
        let text = format!("{before}name = \"console\"{console}");
        std::fs::write(&config, &text)?;
        let loaded = hopend::config::load(&config).map_err(|problems| problems.to_string())?;
        let at = |name: &str| -> Result<SocketAddr> {
            let mut endpoints = loaded.endpoints.iter();
            let endpoint = endpoints.find(|endpoint| endpoint.name == name);
            let listen = endpoint.and_then(|endpoint| endpoint.listen.first());
            let listen = listen.ok_or("an endpoint is missing")?.to_string();
            Ok(listen.parse()?)
        };
        let troubled = At {
            address: at(TROUBLED)?,
            troubled: true,
        };
        let mut endpoints = Vec::new();
        for name in STEADY {
            endpoints.push(troubled);
            endpoints.push(At {
                address: at(name)?,
                troubled: false,
            });
        }
        let daemon = Daemon::start(&config)?;
        Ok(Self {
            simulator,
            daemon,
            random: fastrand::Rng::with_seed(7),
            config,
            text,
            endpoints,
            _folder: folder,
        })
    }

    /// Where the client of this number goes.
    pub(crate) fn endpoint(&self, number: usize) -> At {
        self.endpoints[number % self.endpoints.len()]
    }

    /// Waits until the daemon has let go of every session; how many it has not.
    pub(crate) async fn let_go(&self, figures: &Figures, before: Option<Process>) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.sessions()?;
            let now = self.daemon.measure()?;
            let back = before.is_none_or(|before| now.is_back(&before));
            if left == 0 && back {
                return Ok(0);
            }
            if Instant::now() > deadline {
                figures.judge(left == 0, || format!("{left} sessions do not end"));
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Open sessions, as the daemon tells them.
    fn sessions(&self) -> Result<usize> {
        let output = Command::new(env!("CARGO_BIN_EXE_hopend"))
            .args(["status", "--json", "--config"])
            .arg(&self.config)
            .output()?;
        let status: hopend::status::Status = serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(status.sessions.len())
    }

    /// Whether hopen works at each endpoint still, or does so soon.
    pub(crate) async fn still_serves(&self, figures: &Figures) {
        for at in &self.endpoints {
            let opening = async {
                while open(at.address).await.is_err() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let opened = tokio::time::timeout(PATIENCE, opening).await;
            figures.judge(opened.is_ok(), || {
                format!("{} does not serve any more", at.address)
            });
        }
    }

    /// Whether the daemon did all that it was told, and nothing that it should not.
    pub(crate) fn check_log(&self, figures: &Figures) {
        let log = self
            .daemon
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        figures.judge(log.bad.is_empty(), || {
            format!("{} lines such as {}", log.bad.len(), log.bad[0])
        });
        let ordered = figures.reloads.load(std::sync::atomic::Ordering::Relaxed);
        let done = log.reloads + log.refused_reloads;
        figures.judge(done > 0 || ordered == 0, || "no reload was done".to_owned());
    }
}

async fn open(address: SocketAddr) -> std::io::Result<u8> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b":\x06\0").await?;
    stream.read_u8().await
}

impl Daemon {
    fn start(config: &std::path::Path) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hopend"));
        command.args(["run", "--config"]).arg(config);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = child.stderr.take().ok_or("no log")?;
        let log = Arc::new(Mutex::new(Log::default()));
        let (ready, is_ready) = mpsc::channel();
        let kept = Arc::clone(&log);
        let mut file = std::fs::File::create(LOG)?;
        std::thread::spawn(move || {
            for line in BufReader::new(errors)
                .lines()
                .map_while(std::result::Result::ok)
            {
                if line.contains(" ready") {
                    // Nobody waits for a second one.
                    let _ = ready.send(());
                }
                // Without it the run is still worth its time.
                let _ = writeln!(file, "{line}");
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(line);
            }
        });
        is_ready
            .recv_timeout(PATIENCE)
            .map_err(|_| "the daemon did not become ready")?;
        Ok(Self { child, log })
    }

    pub(crate) fn measure(&self) -> Result<Process> {
        Process::of(self.child.id())
    }

    pub(crate) fn reload(&self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(kill(pid, Signal::SIGHUP)?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    fn add(&mut self, line: String) {
        if line.contains("reloaded: ") {
            self.reloads += 1;
        } else if line.contains("reload changed nothing") {
            self.refused_reloads += 1;
        } else if line.contains("panicked") || line.contains("report this") {
            self.bad.push(line);
        }
    }
}
