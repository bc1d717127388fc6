//! Where log lines go: standard error, which systemd takes to the journal.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::{self, PanicHookInfo};
use std::thread;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::LogFormat;

/// Starts logging to standard error for the whole process. A second call changes nothing. As JSON
/// panics, too, are told in one object: who reads the log as JSON can read nothing else.
pub fn start(format: LogFormat, level: LevelFilter) {
    let colours = std::io::stderr().is_terminal();
    // Somebody who embeds the library may have a subscriber of their own.
    let started = subscriber(format, level, colours, std::io::stderr).try_init();
    if started.is_ok() && format == LogFormat::Json {
        panic::set_hook(Box::new(tell_panic));
    }
}

/// What Rust's own hook writes, as a line of the log.
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
    use std::process::Command;

    use super::*;

    const PANICS: &str = "HOPEND_TEST_PANICS";

    /// Logs for the whole process, so it has one of its own.
    #[test]
    fn a_panic_is_one_json_object() {
        if env::var_os(PANICS).is_some() {
            start(LogFormat::Json, LevelFilter::INFO);
            let panics = thread::Builder::new().name("worker".into());
            let ended = panics.spawn(|| panic!("the first line\nand \"the second\""));
            assert!(ended.unwrap().join().is_err(), "the thread ends as ever");
            return;
        }
        let test = "log::tests::a_panic_is_one_json_object";
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
}
