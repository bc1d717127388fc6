//! What README shows is what happens: every transcript in it is typed into a shell beside a
//! simulator and a daemon, and its output compared.
//!
//! Numbers stand for themselves or for any other, blanks for any width, `…` for any text.
//! `README=write cargo test readme` writes what really came out into README.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use simulator::{Options, Simulator};

use crate::support::process::command;
use crate::support::{Process, account, python};

/// README's names of the ports of endpoints.
const PORTS: [(&str, &str); 2] = [("hdb", "26735"), ("console", "26737")];
/// README's name of the folder with the configuration.
const FOLDER: &str = "/etc/hopend";
/// README's name of the account that runs it all.
const ACCOUNT: &str = "root";

/// A block that is a transcript: commands, each with the output that README shows.
struct Transcript {
    /// Byte range of the block in README.
    range: std::ops::Range<usize>,
    steps: Vec<(String, String)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_what_really_happens() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = sim.write_files(folder.path(), &account()).unwrap();
    let ports = PORTS.map(|(endpoint, shown)| (port_of(&config, endpoint), shown));
    let (log, shown) = tokio::task::spawn_blocking(move || {
        let python = python::interpreter();
        let mut daemon = Process::start(&["run", "--config", config.to_str().unwrap()]);
        daemon.line_with("ready");
        let shell = Shell::new(&config, &python, ports);
        let shown = compare(&shell);
        daemon.signal(Signal::SIGTERM);
        (daemon.end().1, shown)
    })
    .await
    .unwrap();
    let mut wrong = shown;
    for line in log_lines() {
        if !log.lines().any(|said| fits(&line, said)) {
            let _ = writeln!(
                wrong,
                "no line of the daemon's log is like:\n  {line}\n{log}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Types every transcript; what does not fit.
fn compare(shell: &Shell) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let transcripts = transcripts(&readme);
    assert!(transcripts.len() >= 3, "README has transcripts");
    let mut wrong = String::new();
    let mut written = readme.clone();
    for transcript in transcripts.iter().rev() {
        let outputs = shell.type_in(transcript);
        let mut block = String::new();
        let mut fit = true;
        for ((command, expected), output) in transcript.steps.iter().zip(&outputs) {
            let _ = writeln!(block, "$ {command}");
            if !output.trim().is_empty() {
                let _ = writeln!(block, "{}", output.trim_end());
            }
            if !fits_all(expected, output) {
                fit = false;
                let _ = writeln!(
                    wrong,
                    "README shows\n$ {command}\n{expected}and it really is\n{output}"
                );
            }
        }
        if !fit {
            written.replace_range(transcript.range.clone(), &block);
        }
    }
    if std::env::var_os("README").is_some_and(|what| what == "write") && written != readme {
        std::fs::write(&path, written).unwrap();
    }
    wrong
}

/// A shell in which README's commands can be typed.
struct Shell {
    preamble: String,
    /// Each port as it is, and as README names it.
    ports: [(String, &'static str); 2],
    /// Where the shell is.
    folder: PathBuf,
    /// Where the configuration is.
    config: String,
}

impl Shell {
    fn new(config: &Path, python: &Path, ports: [(String, &'static str); 2]) -> Self {
        let program = PathBuf::from(command(&[]).get_program());
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readme");
        let preamble = format!(
            r#"export PATH={bin}:{venv}:$PATH
# Where a configuration is read, it is the simulator's; the demo ends when its lines were read.
hopend() {{
  case "$*" in
    demo) exec 9< <(exec hopend demo 2>/dev/null); head -n "$lines" <&9; kill $!; wait $!; exec 9<&- ;;
    *--config*|*--help*|completions*|man*|hash-password*) command hopend "$@" ;;
    *) command hopend "$@" --config {config} ;;
  esac
}}
"#,
            bin = program.parent().unwrap().display(),
            venv = python.parent().unwrap().display(),
            config = config.display(),
        );
        Self {
            preamble,
            ports,
            folder: here,
            config: config.parent().unwrap().display().to_string(),
        }
    }

    /// The output of each step, as README would name things.
    fn type_in(&self, transcript: &Transcript) -> Vec<String> {
        let mut script = self.preamble.clone();
        for (command, expected) in &transcript.steps {
            let lines = expected.lines().filter(|line| line.trim() != "…").count();
            let mut command = command.clone();
            for (real, shown) in &self.ports {
                command = command.replace(shown, real);
            }
            command = command.replace(FOLDER, &self.config);
            let _ = write!(script, "lines={lines}\n{command}\nprintf '\\001'\n");
        }
        let output = std::process::Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(&self.folder)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).replace(&account(), ACCOUNT);
        text = text.replace(&self.config, FOLDER);
        for (real, shown) in &self.ports {
            text = text.replace(real, shown);
        }
        let mut outputs: Vec<String> = text.split('\u{1}').map(ToOwned::to_owned).collect();
        outputs.truncate(transcript.steps.len());
        outputs
    }
}

fn transcripts(readme: &str) -> Vec<Transcript> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut inside: Option<usize> = None;
    for line in readme.split_inclusive('\n') {
        let end = at + line.len();
        match (line.trim_end(), inside) {
            ("```text", None) => inside = Some(end),
            ("```", Some(start)) => {
                let block = &readme[start..at];
                if block.starts_with("$ ") {
                    found.push(Transcript {
                        range: start..at,
                        steps: steps(block),
                    });
                }
                inside = None;
            }
            _ => {}
        }
        at = end;
    }
    found
}

fn steps(block: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => {
                let _ = writeln!(output, "{line}");
            }
            (None, None) => panic!("output without a command: {line}"),
        }
    }
    steps
}

/// The lines of README that the daemon's log has.
fn log_lines() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let levels = ["INFO ", "WARN ", "ERROR "];
    let lines = readme.lines();
    let lines = lines.filter(|line| levels.iter().any(|level| line.starts_with(level)));
    let lines: Vec<_> = lines.map(ToOwned::to_owned).collect();
    assert!(lines.len() >= 3, "README shows the log");
    lines
}

fn fits_all(expected: &str, output: &str) -> bool {
    let (expected, output) = (expected.trim_end(), output.trim_end());
    let mut output = output.lines();
    for line in expected.lines() {
        if line.trim() == "…" {
            return true;
        }
        if !output.next().is_some_and(|said| fits(line, said)) {
            return false;
        }
    }
    output.next().is_none()
}

/// Whether a line is as README shows it.
fn fits(shown: &str, said: &str) -> bool {
    let said = plain(said);
    let shown = plain(shown);
    let mut pieces = shown.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = said.strip_prefix(first) else {
        return false;
    };
    let pieces: Vec<_> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else {
        return rest.is_empty();
    };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Every number as `0`, every run of blanks as one, without time stamps before the level.
fn plain(line: &str) -> String {
    let line = match line.find(" INFO ").or_else(|| line.find(" WARN ")) {
        Some(at) => &line[at..],
        None => line,
    };
    let mut plain = String::new();
    for c in line.trim().chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        let repeated = plain.ends_with(c) && (c == '0' || c == ' ');
        if !repeated {
            plain.push(c);
        }
    }
    plain
}

fn port_of(config: &Path, endpoint: &str) -> String {
    let text = std::fs::read_to_string(config).unwrap();
    let (_, rest) = text.split_once(&format!("name = \"{endpoint}\"")).unwrap();
    let (_, rest) = rest.split_once("localhost:").unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect()
}
