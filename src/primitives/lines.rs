//! Queues of lines that a thread of their own writes: the log, and the audit file. A session never
//! waits for a disk, a pipe or a journal.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The pause between a failed write and the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// What may wait in a queue. As much again may be in the hands of its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

/// How much of a queue a line may fill. A flood of lines of a lower rank leaves room for those of a
/// higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineRank {
    /// Half of it.
    Ordinary,
    /// Three quarters of it.
    Warning,
    /// All of it.
    Highest,
}

impl LineRank {
    fn share_of(self, whole: usize) -> usize {
        match self {
            Self::Ordinary => whole / 2,
            Self::Warning => whole - whole / 4,
            Self::Highest => whole,
        }
    }
}

/// How many lines were lost so far. All clones count together.
#[derive(Debug, Clone, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// Lines since the start of the process.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Where the lines of a queue go. Only the queue's thread calls it, so it may block.
pub(crate) trait LineDestination: fmt::Debug + Send + 'static {
    /// Writes the rest of the batch, and marks what it has written also where it fails.
    fn write(&mut self, batch: &mut LineBatch) -> io::Result<()>;

    /// Opens the destination anew before the next write.
    fn reopen(&mut self) {}

    /// The line that stands where `lost` lines are missing.
    fn gap(&self, lost: u64) -> Vec<u8>;

    /// The first of several writes that fail. The thread tries again every [`RETRY`].
    fn failed(&self, _error: &io::Error) {}

    /// A write succeeded after failures or losses; `lost` counts since the start of the process.
    fn recovered(&self, _lost: u64) {}

    /// The queue ends and these lines could not be written. They are counted as lost.
    fn gave_up(&self, _lines: u64) {}
}

/// Whole lines, of which a part has been written.
#[derive(Debug, Default)]
pub(crate) struct LineBatch {
    bytes: Vec<u8>,
    written: usize,
}

impl LineBatch {
    /// What is still to be written.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// The first `count` bytes of the rest have been written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
    }

    /// How many bytes have been written of the line that is not complete.
    pub(crate) fn written_of_line(&self) -> usize {
        self.written - self.line_start()
    }

    /// Writes the line that is not complete from its first byte.
    pub(crate) fn begin_line_anew(&mut self) {
        self.written = self.line_start();
    }

    fn line_start(&self) -> usize {
        let before = self.bytes.get(..self.written).unwrap_or(&self.bytes);
        let end = before.iter().rposition(|byte| *byte == b'\n');
        end.map_or(0, |end| end + 1)
    }

    /// Lines that are not complete or not begun.
    fn lines_left(&self) -> u64 {
        let left = self.bytes.iter().skip(self.line_start());
        left.filter(|byte| **byte == b'\n').count() as u64
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl From<Vec<u8>> for LineBatch {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, written: 0 }
    }
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits to be written.
    Queued,
    /// It is lost, as the first one since the thread last took lines.
    FirstLost,
    /// It is lost like the one before.
    Lost,
}

/// Lines that wait for their thread. Shared by all that write lines.
#[derive(Debug)]
pub(crate) struct LineQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    limits: QueueLimits,
    lost: LostLines,
}

#[derive(Debug)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost since the thread last took lines.
    lost: u64,
    reopen: bool,
    stage: QueueStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueStage {
    /// Lines are taken in.
    Open,
    /// The thread writes what there is, and ends.
    Ending,
    /// The thread has ended.
    Ended,
}

impl LineQueue {
    /// An empty queue that counts what it loses in `lost`.
    pub(crate) fn new(limits: QueueLimits, lost: LostLines) -> Self {
        Self {
            state: Mutex::new(QueueState {
                lines: VecDeque::new(),
                bytes: 0,
                lost: 0,
                reopen: false,
                stage: QueueStage::Open,
            }),
            changed: Condvar::new(),
            limits,
            lost,
        }
    }

    /// Has a line written that ends in a line feed. Never waits for the destination: where the queue
    /// is full, or at its end, the line is lost and counted.
    pub(crate) fn push(&self, line: Vec<u8>, rank: LineRank) -> Pushed {
        let mut state = self.lock();
        let has_room = state.lines.len() < rank.share_of(self.limits.lines)
            && state.bytes + line.len() <= rank.share_of(self.limits.bytes);
        if state.stage == QueueStage::Open && has_room {
            state.bytes += line.len();
            state.lines.push_back(line);
            drop(state);
            self.changed.notify_one();
            return Pushed::Queued;
        }
        self.lost.add(1);
        if state.stage != QueueStage::Open {
            // The thread may be gone.
            return Pushed::Lost;
        }
        state.lost += 1;
        if state.lost == 1 {
            Pushed::FirstLost
        } else {
            Pushed::Lost
        }
    }

    fn end(&self) {
        let mut state = self.lock();
        if state.stage == QueueStage::Open {
            state.stage = QueueStage::Ending;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of a queue. When this is dropped, the thread writes what there is, and ends.
#[derive(Debug)]
pub(crate) struct LineWriter(Arc<LineQueue>);

impl LineWriter {
    /// Starts a thread called `name` that writes the lines of `queue` to `destination`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        name: &str,
        queue: Arc<LineQueue>,
        destination: impl LineDestination,
    ) -> io::Result<Self> {
        let mut writing = Writing {
            queue: Arc::clone(&queue),
            destination,
            batch: LineBatch::default(),
            health: WriteHealth::Good,
        };
        thread::Builder::new().name(name.into()).spawn(move || {
            writing.run();
            writing.queue.lock().stage = QueueStage::Ended;
            writing.queue.changed.notify_all();
        })?;
        Ok(Self(queue))
    }

    /// The queue whose lines are written.
    pub(crate) fn queue(&self) -> &Arc<LineQueue> {
        &self.0
    }

    /// Has the destination opened anew.
    pub(crate) fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.changed.notify_all();
    }

    /// Takes in no more lines, and waits until those that there are have been written. Returns whether
    /// the thread ended within `limit`. Blocks.
    pub(crate) fn finish(self, limit: Duration) -> bool {
        self.0.end();
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        while state.stage != QueueStage::Ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What the thread has in hand.
#[derive(Debug)]
struct Writing<D> {
    queue: Arc<LineQueue>,
    destination: D,
    batch: LineBatch,
    health: WriteHealth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteHealth {
    Good,
    Failing,
}

/// What the thread took from the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    /// Lines that are missing behind those that were taken.
    lost: u64,
    stage: QueueStage,
}

impl<D: LineDestination> Writing<D> {
    fn run(&mut self) {
        loop {
            let taken = self.take();
            let is_last = taken.stage == QueueStage::Ending;
            if let Err(error) = self.destination.write(&mut self.batch) {
                if self.health == WriteHealth::Good {
                    self.destination.failed(&error);
                }
                self.health = WriteHealth::Failing;
                if is_last {
                    return self.give_up();
                }
                self.pause();
                continue;
            }
            self.batch = LineBatch::default();
            if self.health == WriteHealth::Failing || taken.lost > 0 {
                self.destination.recovered(self.queue.lost.count());
            }
            self.health = WriteHealth::Good;
            if is_last && self.queue.lock().lines.is_empty() {
                return;
            }
        }
    }

    /// Waits for something to do, and takes all lines in hand, unless there are some already.
    fn take(&mut self) -> Taken {
        let idle = self.batch.is_empty();
        let nothing = |state: &mut QueueState| {
            idle && state.lines.is_empty() && !state.reopen && state.stage == QueueStage::Open
        };
        let state = self.queue.changed.wait_while(self.queue.lock(), nothing);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.reopen) {
            self.destination.reopen();
        }
        let stage = state.stage;
        if !idle {
            return Taken { lost: 0, stage };
        }
        let lines = std::mem::take(&mut state.lines);
        let lost = std::mem::take(&mut state.lost);
        state.bytes = 0;
        drop(state);
        let mut bytes: Vec<u8> = lines.into_iter().flatten().collect();
        if lost > 0 {
            bytes.extend(self.destination.gap(lost));
        }
        self.batch = bytes.into();
        Taken { lost, stage }
    }

    /// Until the next attempt. The end or a fresh destination comes first.
    fn pause(&self) {
        let goes_on = |state: &mut QueueState| state.stage == QueueStage::Open && !state.reopen;
        let state = self.queue.lock();
        let waited = self.queue.changed.wait_timeout_while(state, RETRY, goes_on);
        drop(waited);
    }

    /// The end has come, and the destination takes no lines.
    fn give_up(&self) {
        let left = self.batch.lines_left() + self.queue.lock().lines.len() as u64;
        if left > 0 {
            self.queue.lost.add(left);
            self.destination.gave_up(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Each write is told to the test, and waits for what the test has it return.
    #[derive(Debug)]
    struct Scripted {
        written: mpsc::Sender<String>,
        results: mpsc::Receiver<io::Result<()>>,
    }

    impl LineDestination for Scripted {
        fn write(&mut self, batch: &mut LineBatch) -> io::Result<()> {
            if batch.rest().is_empty() {
                return Ok(());
            }
            let text = String::from_utf8(batch.rest().to_vec()).unwrap();
            // The test may be over.
            let _ = self.written.send(text);
            self.results.recv().unwrap_or(Ok(()))?;
            batch.wrote(batch.rest().len());
            Ok(())
        }

        fn gap(&self, lost: u64) -> Vec<u8> {
            format!("{lost} lost\n").into()
        }
    }

    struct Case {
        writer: LineWriter,
        lost: LostLines,
        written: mpsc::Receiver<String>,
        results: mpsc::Sender<io::Result<()>>,
    }

    fn case(lines: usize, bytes: usize) -> Case {
        let (told, written) = mpsc::channel();
        let (results, wanted) = mpsc::channel();
        let lost = LostLines::default();
        let queue = LineQueue::new(QueueLimits { lines, bytes }, lost.clone());
        let destination = Scripted {
            written: told,
            results: wanted,
        };
        let writer = LineWriter::start("lines", Arc::new(queue), destination).unwrap();
        Case {
            writer,
            lost,
            written,
            results,
        }
    }

    impl Case {
        fn push(&self, line: &str, rank: LineRank) -> Pushed {
            self.writer.queue().push(line.into(), rank)
        }

        /// The thread hangs in a write from here on.
        fn stall(&self) {
            assert_eq!(self.push("stall\n", LineRank::Highest), Pushed::Queued);
            assert_eq!(self.written.recv().unwrap(), "stall\n");
        }

        fn resume(&self) -> String {
            self.results.send(Ok(())).unwrap();
            self.written.recv().unwrap()
        }
    }

    #[test]
    fn nobody_waits_for_a_destination_that_hangs_and_what_is_lost_is_told_in_its_place() {
        let case = case(4, 1_000);
        case.stall();
        let highest = |line| case.push(line, LineRank::Highest);
        for line in ["1\n", "2\n", "3\n", "4\n"] {
            assert_eq!(highest(line), Pushed::Queued);
        }
        assert_eq!(highest("5\n"), Pushed::FirstLost);
        assert_eq!(highest("6\n"), Pushed::Lost);
        assert_eq!(case.lost.count(), 2);
        assert_eq!(case.resume(), "1\n2\n3\n4\n2 lost\n");
        assert_eq!(highest("7\n"), Pushed::Queued);
        assert_eq!(case.resume(), "7\n");
        case.results.send(Ok(())).unwrap();
        assert!(case.writer.finish(Duration::from_secs(60)));
    }

    #[test]
    fn bytes_are_bounded_as_lines_are() {
        let case = case(1_000, 8);
        case.stall();
        assert_eq!(case.push("123456\n", LineRank::Highest), Pushed::Queued);
        assert_eq!(case.push("1\n", LineRank::Highest), Pushed::FirstLost);
        assert_eq!(case.push("\n", LineRank::Highest), Pushed::Queued);
        assert_eq!(case.resume(), "123456\n\n1 lost\n");
        case.results.send(Ok(())).unwrap();
    }

    #[test]
    fn a_flood_leaves_room_for_warnings_and_errors() {
        let case = case(8, 1_000);
        case.stall();
        let fill = |rank| {
            let mut taken = 0;
            while case.push("x\n", rank) == Pushed::Queued {
                taken += 1;
            }
            taken
        };
        assert_eq!(fill(LineRank::Ordinary), 4);
        assert_eq!(fill(LineRank::Warning), 2);
        assert_eq!(fill(LineRank::Highest), 2);
        case.resume();
        case.results.send(Ok(())).unwrap();
    }

    #[test]
    fn the_end_waits_for_the_last_lines_until_its_deadline() {
        let hangs = case(8, 1_000);
        hangs.stall();
        assert!(!hangs.writer.finish(Duration::from_millis(1)));
        let fails = case(8, 1_000);
        fails.stall();
        fails.push("last\n", LineRank::Highest);
        let error = Err(io::ErrorKind::BrokenPipe.into());
        fails.results.send(error).unwrap();
        // What fails at the end is given up. The thread may be in its pause, and begins anew then.
        fails.writer.queue().end();
        while let Ok(text) = fails.written.recv() {
            assert_eq!(text, "stall\n");
            fails
                .results
                .send(Err(io::ErrorKind::BrokenPipe.into()))
                .unwrap();
        }
        assert!(fails.writer.finish(Duration::from_secs(60)));
        assert_eq!(fails.lost.count(), 2);
    }
}
