//! Where log lines go: standard error, which systemd takes to the journal.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::LogFormat;

/// Starts logging for the whole process. A second call changes nothing.
///
/// The level is that of hopend's own lines. Libraries never go below warnings, whatever the level:
/// the AWS SDK traces what it signs, session tokens included.
pub fn start(format: LogFormat, level: LevelFilter) {
    let filter = Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("hopend", level);
    let lines = match format {
        LogFormat::Text => fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    // Somebody who embeds the library may have a subscriber of their own.
    let _ = Registry::default()
        .with(lines.with_filter(filter))
        .try_init();
}
