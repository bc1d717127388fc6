//! The simulator, the daemon in front of it, and what the daemon has said.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hopend::telemetry::status::Status;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use q_ipc::frame::MessageType;
use q_ipc::value::Value;
use simulator::{Options, Simulator};
use tokio::io::AsyncWriteExt;
use toml::Table;

use crate::feed::Feed;
use crate::figures::{Figures, Process};
use crate::ways::{At, Way, Ways, listens};
use crate::{PATIENCE, Result, client};

/// Connection strings live so long: they are renewed all along.
const STRING_LIFE: Duration = Duration::from_secs(120);
/// The cluster that has all the faults.
pub(crate) const TROUBLED_CLUSTER: &str = "hdb-cluster";

/// The user whom a reload removes now and then.
pub(crate) const VISITOR: &str = "visitor";
/// What `hopen` of that user says.
pub(crate) const VISITOR_LOGIN: &[u8] = b"visitor:soaked\x06\0";
/// Bytes of the pipe that takes the daemon's log: a reader that stalls fills it within a moment.
const LOG_PIPE: i32 = 4096;
/// Between two looks of a reader that stalls.
const STALL: Duration = Duration::from_millis(10);

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
    /// The same without [`VISITOR`].
    pub(crate) text_without_visitor: String,
    pub(crate) feed: Feed,
    endpoints: Vec<At>,
    console: SocketAddr,
    _folder: tempfile::TempDir,
}

/// The daemon's process. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Log>>,
    /// While it is set, nobody reads the daemon's log.
    log_stalls: Arc<AtomicBool>,
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
        let ways = Ways::new(folder.path())?;
        let mut file: Table = std::fs::read_to_string(&config)?.parse()?;
        let endpoints = ways.add_to(&mut file, sessions)?;
        let feed = Feed::add_to(&mut file, folder.path()).await?;
        let console = listens(&file, "console")?;
        let text_without_visitor = file.to_string();
        simulator.add_user(VISITOR);
        add_visitor(&mut file, folder.path())?;
        let text = file.to_string();
        std::fs::write(&config, &text)?;
        let daemon = Daemon::start(&config)?;
        Ok(Self {
            simulator,
            daemon,
            random: fastrand::Rng::with_seed(7),
            config,
            text,
            text_without_visitor,
            feed,
            endpoints,
            console,
            _folder: folder,
        })
    }

    /// Where the client of this number goes.
    pub(crate) fn endpoint(&self, number: usize) -> At {
        self.endpoints[number % self.endpoints.len()].clone()
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
        Ok(self.status()?.sessions.len())
    }

    pub(crate) fn status(&self) -> Result<Status> {
        let output = self.command(&["status", "--json"])?;
        let told = serde_json::from_slice(&output.stdout);
        Ok(told.map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?)
    }

    /// What an administrator types.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hopend"));
        let command = command.args(arguments).arg("--config").arg(&self.config);
        Ok(command.output()?)
    }

    /// What the console tells of the sessions: as many as there are, or nearly.
    pub(crate) async fn ask_console(&self, figures: &Figures) -> Result<()> {
        let at = At {
            way: Way::Tcp(self.console),
            hello: Vec::from(b":\x06\0"),
            troubled: false,
        };
        let mut handle = at.open().await?;
        let request = q_ipc::message::text(MessageType::Sync, "sessions");
        handle.write_all(&request).await?;
        let answer = tokio::time::timeout(PATIENCE, client::answer(&mut *handle, false)).await;
        let rows = match answer {
            Ok(Ok(Value::Table(table))) => table.rows(),
            _ => 0,
        };
        // Steady ones are there in any case.
        let least = figures.open.load(std::sync::atomic::Ordering::Relaxed) / 4;
        figures.judge(rows as u64 >= least, || {
            format!("the console tells of {rows} sessions")
        });
        figures.count(&figures.consoles);
        Ok(())
    }

    /// Whether hopen works at each endpoint still, or does so soon.
    pub(crate) async fn still_serves(&self, figures: &Figures) {
        for at in &self.endpoints {
            let opening = async {
                while at.open().await.is_err() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let opened = tokio::time::timeout(PATIENCE, opening).await;
            figures.judge(opened.is_ok(), || format!("{at:?} does not serve any more"));
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

/// Adds [`VISITOR`], who is known by a password.
fn add_visitor(file: &mut Table, folder: &Path) -> Result<()> {
    let path = folder.join("visitor.password");
    std::fs::write(&path, "visitor:soaked\n")?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    let users = file.get_mut("user").and_then(toml::Value::as_array_mut);
    let user = format!(
        "name = \"{VISITOR}\"\npassword_file = \"{}\"\n",
        path.display()
    );
    let user: Table = user.parse()?;
    users.ok_or("no users")?.push(user.into());
    Ok(())
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
        fcntl(&errors, FcntlArg::F_SETPIPE_SZ(LOG_PIPE))?;
        let log = Arc::new(Mutex::new(Log::default()));
        let (ready, is_ready) = mpsc::channel();
        let kept = Arc::clone(&log);
        let log_stalls = Arc::new(AtomicBool::new(false));
        let stalls = Arc::clone(&log_stalls);
        let mut file = std::fs::File::create(LOG)?;
        std::thread::spawn(move || {
            for line in BufReader::new(errors)
                .lines()
                .map_while(std::result::Result::ok)
            {
                while stalls.load(Ordering::Relaxed) {
                    std::thread::sleep(STALL);
                }
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
        Ok(Self {
            child,
            log,
            log_stalls,
        })
    }

    /// Whether anybody reads the daemon's log.
    pub(crate) fn stall_log(&self, stalls: bool) {
        self.log_stalls.store(stalls, Ordering::Relaxed);
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
