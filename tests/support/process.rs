//! The program `hopend`, started as a process.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Long enough for a busy machine, short enough to fail in good time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `hopend`, whose output is read line by line. It is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

/// Runs `hopend` with these arguments until it ends.
pub fn hopend(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hopend"));
    command.args(arguments).stdin(Stdio::null());
    // As under systemd: nothing of the caller's own AWS set-up.
    for (name, _) in std::env::vars() {
        if name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent");
    command
}

impl Process {
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::of(child.spawn().unwrap())
    }

    /// Spawns a program that reads its standard input.
    pub fn spawn_with_input(command: &mut Command) -> (Self, ChildStdin) {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        (Self::of(child), input)
    }

    fn of(mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        forward(out, sender.clone());
        forward(err, sender);
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for the next line of output that contains `part`, after the lines that were waited for before.
    pub fn line_with(&mut self, part: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no line with {part:?} in\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Waits for the next line of output that contains all parts.
    pub fn line_with_all(&mut self, parts: &[&str]) -> String {
        loop {
            let line = self.line_with(parts[0]);
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// The lines that were read while waiting.
    pub fn seen(&self) -> String {
        self.seen.join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits for the end of the process. Returns its status and its whole output.
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        (status, self.seen.join("\n"))
    }

    /// The peak of the process's resident memory, in KiB.
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The process's resident memory without mapped files, in KiB.
    pub fn own_memory(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name));
        let digits: String = line.unwrap().chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(from: impl Read + Send + 'static, to: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}
