//! Where log lines go: standard error, which systemd takes to the journal. A thread of its own writes
//! them, so that no session waits for their reader.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};
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

use crate::config::LogFormat;
use crate::primitives::lines::{
    LineBatch, LineDestination, LineQueue, LineRank, LineWriter, LostLines, QueueLimits,
};

/// What may wait to be written.
const LIMITS: QueueLimits = QueueLimits {
    lines: 8192,
    bytes: 4 << 20,
};
/// How long the last lines may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The log of the process. When it is dropped, the lines that wait are written, for up to
/// [`LAST_LINES`]; lines that come later are lost.
#[derive(Debug)]
pub struct ProcessLog {
    lost: LostLines,
    /// None where the process has another log.
    writer: Option<LineWriter>,
}

/// Starts logging to standard error for the whole process, panics included. In a process that has a
/// log already this changes nothing. The thread that writes is confined as the caller is.
///
/// # Errors
/// The system gives no thread, or no descriptor.
pub fn start(format: LogFormat, level: LevelFilter) -> io::Result<ProcessLog> {
    let error_stream = io::stderr();
    let style = LogStyle {
        format,
        colours: error_stream.is_terminal(),
    };
    // A descriptor of its own: nobody waits for the lock of `stderr` while a write hangs.
    let output = File::from(error_stream.as_fd().try_clone_to_owned()?);
    let lost = LostLines::default();
    let queue = Arc::new(LineQueue::new(LIMITS, lost.clone()));
    let started = style
        .subscriber(level, QueuedLines(Arc::clone(&queue)))
        .try_init();
    if started.is_err() {
        return Ok(ProcessLog { lost, writer: None });
    }
    // Rust's own hook would write to standard error from the thread that panics.
    panic::set_hook(Box::new(tell_panic));
    let destination = LogDestination { output, style };
    let writer = LineWriter::start("log", queue, destination)?;
    Ok(ProcessLog {
        lost,
        writer: Some(writer),
    })
}

impl ProcessLog {
    /// Lines that were to be in the log and are not.
    pub fn lost(&self) -> LostLines {
        self.lost.clone()
    }

    /// Prints a line for people to see, behind the lines that wait.
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
            // A reader that takes nothing does not keep the process from its end.
            let _ = writer.finish(LAST_LINES);
        }
    }
}

/// Reports a panic as one line of the log.
fn tell_panic(panic: &PanicHookInfo<'_>) {
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

/// How the lines look.
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

    /// The line that reports lines that are missing in the log.
    fn gap(self, lost: u64) -> Vec<u8> {
        let line = CapturedLine::default();
        let subscriber = self.subscriber(LevelFilter::ERROR, line.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(
                lines = lost,
                "{lost} log lines are lost here: standard error was not read fast enough. Fix: look \
                 after the program that reads it, such as journald or a log collector."
            );
        });
        line.take()
    }
}

/// Makes each event a line of the queue.
#[derive(Debug)]
struct QueuedLines(Arc<LineQueue>);

/// The line of one event.
#[derive(Debug)]
struct QueuedLine<'q> {
    queue: &'q LineQueue,
    rank: LineRank,
}

impl<'a> MakeWriter<'a> for QueuedLines {
    type Writer = QueuedLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        QueuedLine {
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
        QueuedLine {
            queue: &self.0,
            rank,
        }
    }
}

impl Write for QueuedLine<'_> {
    /// The subscriber writes each event at once. One that finds no room is counted, and no error.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line.to_vec(), self.rank);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line as it would stand in the log.
#[derive(Debug, Clone, Default)]
struct CapturedLine(Arc<Mutex<Vec<u8>>>);

impl CapturedLine {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error as the log's thread has it.
#[derive(Debug)]
struct LogDestination {
    output: File,
    style: LogStyle,
}

impl LineDestination for LogDestination {
    fn write(&mut self, batch: &mut LineBatch) -> io::Result<()> {
        while !batch.rest().is_empty() {
            match self.output.write(batch.rest()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => batch.wrote(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another program that has the same stream made it non-blocking.
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

impl LogDestination {
    fn wait_for_room(&self) {
        let mut output = [PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
        // A failure shows in the next write.
        let _ = poll(&mut output, PollTimeout::NONE);
    }
}

/// The log of hopend as `write` gets it.
///
/// The level is that of hopend's own lines. Libraries never go below warnings, whatever the level:
/// the AWS SDK traces what it signs, session tokens included.
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

    /// Logs for the whole process, so it has one of its own.
    #[test]
    fn a_panic_is_one_json_object() {
        if env::var_os(PANICS).is_some() {
            let _log = start(LogFormat::Json, LevelFilter::INFO).unwrap();
            let panics = thread::Builder::new().name("worker".into());
            let ended = panics.spawn(|| panic!("the first line\nand \"the second\""));
            assert!(ended.unwrap().join().is_err(), "the thread ends as ever");
            return;
        }
        let test = "primitives::log::tests::a_panic_is_one_json_object";
        let mut itself = Command::new(env::current_exe().unwrap());
        itself.args(["--exact", test]).env(PANICS, "1");
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
        assert!(location.starts_with("src/log.rs:"), "{location}");
        assert!(line["backtrace"].as_str().unwrap().contains('\n'));
    }

    const CHILD: &str = "HOPEND_TEST_LOG";

    /// In the test's own process: starts it once more, with its output and its log in pipes. There:
    /// runs the story.
    fn in_a_process(test: &str, story: impl FnOnce()) -> Option<Child> {
        if env::var_os(CHILD).is_some() {
            story();
            return None;
        }
        let mut itself = Command::new(env::current_exe().unwrap());
        itself.args(["--exact", test]).env(CHILD, "1");
        itself.env("RUST_BACKTRACE", "0");
        itself.stderr(Stdio::piped()).stdout(Stdio::piped());
        Some(itself.spawn().unwrap())
    }

    /// The pipe holds less than the lines.
    #[test]
    fn the_last_lines_and_a_panic_are_written_before_the_process_ends() {
        let test = "primitives::log::tests::the_last_lines_and_a_panic_are_written_before_the_process_ends";
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
        let test = "primitives::log::tests::a_reader_that_takes_nothing_stops_neither_the_process_nor_its_errors";
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
        // The log is read from here on.
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
