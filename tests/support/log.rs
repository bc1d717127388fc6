//! Captures the log lines of a daemon in the test. The daemon must run on the thread of the test, as it does
//! under `#[tokio::test]`.

use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use hopend::config::LogFormat;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

/// The captured lines, as the journal would show them, at hopend's finest level.
#[derive(Clone, Default)]
pub struct Log {
    text: Arc<Mutex<String>>,
    more: Arc<Notify>,
}

impl Log {
    /// Captures from now until the guard is dropped. The subscriber of a thread stays, as tasks hold spans of
    /// it for longer than a log is wanted: `tracing` panics where such a span ends under another subscriber.
    pub fn capture() -> (Self, Capture) {
        // Where no subscriber is interested a place in the code is marked so, and that can come in
        // the way of one that begins at the same moment: this one always is, and does nothing.
        static INTERESTED: Once = Once::new();
        INTERESTED.call_once(|| {
            let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        });
        thread_local! {
            static SINK: Sink = {
                let sink = Sink::default();
                let level = tracing::level_filters::LevelFilter::TRACE;
                let subscriber = hopend::primitives::log::subscriber(LogFormat::Text, level, false, sink.clone());
                std::mem::forget(tracing::subscriber::set_default(subscriber));
                sink
            };
        }
        let (log, sink) = (Self::default(), SINK.with(Clone::clone));
        let before = sink.0.lock().unwrap().replace(log.clone());
        (log, Capture { sink, before })
    }

    /// Returns the first line that contains all parts. Waits up to 30 s for it, then the test fails.
    pub async fn line_with(&self, parts: &[&str]) -> String {
        let found = self.until(|| self.find(parts)).await;
        found.unwrap_or_else(|| panic!("no line with {parts:?} in\n{}", self.text()))
    }

    /// Returns once the log contains `part` `count` times. After 30 s the test fails.
    pub async fn times(&self, part: &str, count: usize) {
        let found = || self.text.lock().unwrap().matches(part).count();
        let enough = self.until(|| (found() >= count).then_some(())).await;
        assert!(
            enough.is_some(),
            "{} of {count} in\n{}",
            found(),
            self.text()
        );
    }

    async fn until<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        let found = timeout(Duration::from_secs(30), async {
            loop {
                let more = self.more.notified();
                if let Some(found) = look() {
                    return found;
                }
                more.await;
            }
        });
        found.await.ok()
    }

    pub fn find(&self, parts: &[&str]) -> Option<String> {
        let text = self.text.lock().unwrap();
        let mut lines = text.lines();
        lines
            .find(|line| parts.iter().all(|part| line.contains(part)))
            .map(str::to_owned)
    }

    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }
}

/// The writer for the lines of a thread: into the log that is being captured, if any.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Option<Log>>>);

/// Ends the capture when it is dropped.
pub struct Capture {
    sink: Sink,
    /// The log that was captured before, and is captured again afterwards.
    before: Option<Log>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        *self.sink.0.lock().unwrap() = self.before.take();
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(log) = &*self.0.lock().unwrap() {
            let text = String::from_utf8_lossy(bytes);
            log.text.lock().unwrap().push_str(&text);
            log.more.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
