//! The log of the process. Its lines go to standard error, which systemd passes to the journal.
//!
//! A separate thread writes the lines, so that no session waits for the program that reads them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::primitives::lines::{
    LineBatch, LineDestination, LineQueue, LineRank, LineWriter, LostLines, QueueLimits,
};
use base::mutex::locked;

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The most lines and bytes that may wait to be written.
const QUEUE_LIMITS: QueueLimits = QueueLimits {
    lines: 8192,
    bytes: 4 << 20,
};
/// How long the process waits at its end until the last lines are written.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// The log of the process. Dropping it waits for up to `FINISH_WITHIN` until the lines in the queue
/// are written. Later lines are lost.
#[derive(Debug)]
pub struct ProcessLog {
    lost: LostLines,
    /// `None` if the process has another log already.
    writer: Option<LineWriter>,
}

/// Starts to log to standard error for the whole process, panics included.
///
/// Changes nothing in a process that has a log already. The thread that writes the lines inherits the
/// caller's restrictions on files and system calls.
///
/// # Errors
/// The system grants no thread or no descriptor.
pub fn start(format: LogFormat, level: LevelFilter) -> io::Result<ProcessLog> {
    let error_stream = io::stderr();
    let style = LogStyle {
        format,
        colours: error_stream.is_terminal(),
    };
    // The log has its own descriptor, because a write that hangs must not hold the lock of `stderr`.
    let output = File::from(error_stream.as_fd().try_clone_to_owned()?);
    let lost = LostLines::default();
    let queue = Arc::new(LineQueue::new(QUEUE_LIMITS, lost.clone()));
    let started = style
        .subscriber(level, QueueWriter(Arc::clone(&queue)))
        .try_init();
    if started.is_err() {
        return Ok(ProcessLog { lost, writer: None });
    }
    // Rust's own hook would write to standard error from the thread that panics. That write may block.
    panic::set_hook(Box::new(log_panic));
    let destination = StandardError { output, style };
    let writer = LineWriter::start("log", queue, destination)?;
    Ok(ProcessLog {
        lost,
        writer: Some(writer),
    })
}

impl ProcessLog {
    /// Counts the lines that the log has lost.
    pub fn lost(&self) -> LostLines {
        self.lost.clone()
    }

    /// Prints a line without a time and a level, after the lines in the queue.
    pub fn complain(&self, line: impl Display) {
        match &self.writer {
            Some(writer) => {
                let line = format!("{line}\n").into_bytes();
                writer.queue().push(line, LineRank::Highest);
            }
            None => {
                let _ = writeln!(io::stderr().lock(), "{line}");
            }
        }
    }
}

impl Drop for ProcessLog {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // If the program that reads the log hangs, the process ends all the same.
            let _ = writer.finish(FINISH_WITHIN);
        }
    }
}

/// Reports a panic as one line of the log.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let current = thread::current();
    let backtrace = Backtrace::capture();
    let captured = backtrace.status() == BacktraceStatus::Captured;
    tracing::error!(
        thread = current.name().unwrap_or("<unnamed>"),
        location = panic.location().map(tracing::field::display),
        backtrace = captured.then(|| tracing::field::display(&backtrace)),
        "panicked: {}",
        panic.payload_as_str().unwrap_or("not with a text")
    );
}

/// The appearance of the lines.
#[derive(Debug, Clone, Copy)]
struct LogStyle {
    format: LogFormat,
    colours: bool,
}

impl LogStyle {
    fn subscriber<W>(self, level: LevelFilter, write: W) -> impl Subscriber + Send + Sync + use<W>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        subscriber(self.format, level, self.colours, write)
    }

    /// The line that reports `lost` lost lines.
    fn gap(self, lost: u64) -> Vec<u8> {
        let line = CapturedLine::default();
        let subscriber = self.subscriber(LevelFilter::ERROR, line.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(
                lines = lost,
                "{lost} log lines are lost here: standard error was not read fast enough. Fix: check the \
                 program that reads it, such as journald or a log collector."
            );
        });
        line.take()
    }
}

/// Turns each log event into a line of the queue.
#[derive(Debug)]
struct QueueWriter(Arc<LineQueue>);

/// Writes the line of one event into the queue.
#[derive(Debug)]
struct EventWriter<'q> {
    queue: &'q LineQueue,
    rank: LineRank,
}

impl<'a> MakeWriter<'a> for QueueWriter {
    type Writer = EventWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        EventWriter {
            queue: &self.0,
            rank: LineRank::Ordinary,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        let rank = match *event.level() {
            Level::ERROR => LineRank::Highest,
            Level::WARN => LineRank::Warning,
            _ => LineRank::Ordinary,
        };
        EventWriter {
            queue: &self.0,
            rank,
        }
    }
}

impl Write for EventWriter<'_> {
    /// Adds a line to the queue. The subscriber passes each event in one call. If the queue is full,
    /// the line counts as lost and the call succeeds.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line.to_vec(), self.rank);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Captures one line in the style of the log.
#[derive(Debug, Clone, Default)]
struct CapturedLine(Arc<Mutex<Vec<u8>>>);

impl CapturedLine {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut locked(&self.0))
    }
}

impl MakeWriter<'_> for CapturedLine {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for CapturedLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = locked(&self.0);
        line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The standard error stream. Only the thread of the log writes to this descriptor.
#[derive(Debug)]
struct StandardError {
    output: File,
    style: LogStyle,
}

impl LineDestination for StandardError {
    fn write(&mut self, batch: &mut LineBatch) -> io::Result<()> {
        while !batch.rest().is_empty() {
            match self.output.write(batch.rest()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => batch.wrote(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another program that shares the stream has made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn gap(&self, lost: u64) -> Vec<u8> {
        self.style.gap(lost)
    }
}

impl StandardError {
    fn wait_for_room(&self) {
        let mut output = [PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
        // If the poll fails, the next write reports the error.
        let _ = poll(&mut output, PollTimeout::NONE);
    }
}

/// A subscriber that formats the log and sends it to `write`.
///
/// `level` applies to hopend's own lines. Libraries log nothing below warnings, whatever the level, because
/// the AWS SDK traces the requests that it signs, session tokens included.
pub fn subscriber<W>(
    format: LogFormat,
    level: LevelFilter,
    colours: bool,
    write: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("hopend", level);
    let lines = match format {
        LogFormat::Text => fmt::layer()
            .with_writer(write)
            .with_target(false)
            .with_ansi(colours)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(write)
            .boxed(),
    };
    Registry::default().with(lines.with_filter(filter))
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::BufRead;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const PANICS: &str = "HOPEND_TEST_PANICS";

    /// The log belongs to the whole process, so the test runs in a process of its own.
    #[test]
    fn a_panic_is_one_json_object() {
        if env::var_os(PANICS).is_some() {
            let _log = start(LogFormat::Json, LevelFilter::INFO).unwrap();
            let panics = thread::Builder::new().name("worker".into());
            let ended = panics.spawn(|| panic!("the first line\nand \"the second\""));
            assert!(ended.unwrap().join().is_err(), "the thread ends as ever");
            return;
        }
        let test = full_name("a_panic_is_one_json_object");
        let mut itself = Command::new(env::current_exe().unwrap());
        itself.args(["--exact", &test]).env(PANICS, "1");
        let output = itself.env("RUST_BACKTRACE", "1").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let line: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["thread"], "worker");
        assert_eq!(
            line["message"],
            "panicked: the first line\nand \"the second\""
        );
        let location = line["location"].as_str().unwrap();
        assert!(location.starts_with("src/primitives/log.rs:"), "{location}");
        assert!(line["backtrace"].as_str().unwrap().contains('\n'));
    }

    const CHILD: &str = "HOPEND_TEST_LOG";

    /// The name by which the test program knows a test of this module.
    fn full_name(test: &str) -> String {
        let (_, module) = module_path!().split_once("::").unwrap();
        format!("{module}::{test}")
    }

    /// In the process of the test: starts the test program again for this one test, with its output and
    /// its log in pipes. In that child process: runs `story`.
    fn in_a_process(test: &str, story: impl FnOnce()) -> Option<Child> {
        if env::var_os(CHILD).is_some() {
            story();
            return None;
        }
        let mut itself = Command::new(env::current_exe().unwrap());
        itself.args(["--exact", &full_name(test)]).env(CHILD, "1");
        itself.env("RUST_BACKTRACE", "0");
        itself.stderr(Stdio::piped()).stdout(Stdio::piped());
        Some(itself.spawn().unwrap())
    }

    /// The lines do not fit in the pipe, so the process has to wait for its reader.
    #[test]
    fn the_last_lines_and_a_panic_are_written_before_the_process_ends() {
        let test = "the_last_lines_and_a_panic_are_written_before_the_process_ends";
        let child = in_a_process(test, || {
            let log = start(LogFormat::Text, LevelFilter::INFO).unwrap();
            for number in 0..2_000 {
                tracing::info!(number, "{}", "x".repeat(60));
            }
            let panics = thread::spawn(|| panic!("on purpose"));
            assert!(panics.join().is_err());
            log.complain("the last line");
        });
        let Some(child) = child else { return };
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.lines().count(), 2_002, "{said}");
        assert!(said.contains("panicked: on purpose"), "{said}");
        assert!(said.ends_with("the last line\n"), "{said}");
    }

    #[test]
    fn a_reader_that_takes_nothing_stops_neither_the_process_nor_its_errors() {
        let test = "a_reader_that_takes_nothing_stops_neither_the_process_nor_its_errors";
        let child = in_a_process(test, || {
            let log = start(LogFormat::Json, LevelFilter::INFO).unwrap();
            while log.lost().count() == 0 {
                tracing::info!("flood");
            }
            tracing::error!("an error amid the flood");
            let lost = log.lost().count();
            io::stdout()
                .write_all(format!("\nlost {lost}\n").as_bytes())
                .unwrap();
        });
        let Some(mut child) = child else { return };
        let output = io::BufReader::new(child.stdout.take().unwrap());
        let mut output = output.lines().map(Result::unwrap);
        let lost = output.find_map(|line| line.strip_prefix("lost ")?.parse::<u64>().ok());
        // From this line on, the test reads the log.
        let said = io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        let lines = said.lines().map(serde_json::from_str);
        let lines: Vec<serde_json::Value> = lines.map(Result::unwrap).collect();
        let errors: Vec<_> = lines
            .iter()
            .filter(|line| line["level"] == "ERROR")
            .collect();
        let [amid, gap] = &errors[..] else {
            panic!("{errors:?}");
        };
        assert_eq!(amid["message"], "an error amid the flood");
        assert_eq!(gap["lines"].as_u64(), lost, "{gap}");
        let text = gap["message"].as_str().unwrap();
        assert!(text.contains("log lines are lost here"), "{text}");
    }
}
