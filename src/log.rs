//! Where log lines go: standard error, which systemd takes to the journal.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::LogFormat;

/// Starts logging to standard error for the whole process. A second call changes nothing.
pub fn start(format: LogFormat, level: LevelFilter) {
    let colours = std::io::stderr().is_terminal();
    // Somebody who embeds the library may have a subscriber of their own.
    let _ = subscriber(format, level, colours, std::io::stderr).try_init();
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
