//! Clients written in Python, in a virtual environment of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Long enough for 100 MB each way on a busy machine, short enough to fail in good time.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running script of `tests/clients`. It is killed when this is dropped.
pub struct Script {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<String>,
    errors: JoinHandle<String>,
}

impl Script {
    /// Starts a script with these arguments and environment variables. It inherits `PATH` only.
    pub async fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let python = tokio::task::spawn_blocking(interpreter).await.unwrap();
        let mut child = tokio::process::Command::new(python)
            // Unbuffered: a line is read when it is written.
            .arg("-u")
            .arg(scripts().join(name))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home())
            // The scripts' folder is the repository's: leave nothing there.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let errors = tokio::spawn(async move {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).await.unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            name: name.to_owned(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
            seen: Vec::new(),
            errors,
        }
    }

    /// Returns once the script has printed this line.
    pub async fn says(&mut self, expected: &str) {
        while let Some(line) = self.line().await {
            if line == expected {
                return;
            }
        }
        self.fail(&format!("ended without {expected:?}")).await;
    }

    /// Waits until the script ends with success. Returns the lines that it printed.
    pub async fn succeeds(mut self) -> Vec<String> {
        while self.line().await.is_some() {}
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            self.fail("goes on with its output closed").await
        };
        let status = status.unwrap();
        if !status.success() {
            self.fail(&status.to_string()).await;
        }
        self.seen
    }

    async fn line(&mut self) -> Option<String> {
        let Ok(line) = timeout(PATIENCE, self.lines.next_line()).await else {
            self.fail("has been silent for too long").await
        };
        let line = line.unwrap()?;
        self.seen.push(line.clone());
        Some(line)
    }

    async fn fail(&mut self, why: &str) -> ! {
        // It may have ended by itself.
        let _ = self.child.kill().await;
        let errors = (&mut self.errors).await.unwrap();
        let said = self.seen.join("\n");
        panic!("{}: {why}\n{said}\n{errors}", self.name);
    }
}

/// Runs a script until it ends with success. Returns the lines that it printed.
pub async fn run(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let script = Script::start(name, arguments, variables).await;
    script.succeeds().await
}

/// The interpreter of the virtual environment. If it is missing, incomplete or has other requirements, this
/// call builds it, or waits for another process that does.
pub fn interpreter() -> PathBuf {
    let folder = home();
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();

    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    let stamp = folder.join("installed");
    let path = scripts().join("requirements.txt");
    let requirements = fs::read_to_string(&path).unwrap();
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == requirements) {
        return python;
    }
    // Gone before anything is touched: what is interrupted here must not look whole.
    if stamp.exists() {
        fs::remove_file(&stamp).unwrap();
    }
    let venv = Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&environment)
        .output();
    finished("python3 -m venv", venv);
    let pip = Command::new(&python)
        .args(["-m", "pip", "install", "--disable-pip-version-check", "-q"])
        .args(["--require-hashes", "-r"])
        .arg(&path)
        .output();
    finished("pip install -r tests/clients/requirements.txt", pip);
    fs::write(&stamp, requirements).unwrap();
    python
}

fn finished(what: &str, output: std::io::Result<std::process::Output>) {
    let need =
        "the tests with clients in Python need python3 with venv and pip, and a package index";
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{what}: {}\n{}{}\n{need}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ),
        Err(error) => panic!("{what}: {error}\n{need}"),
    }
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-clients")
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}
