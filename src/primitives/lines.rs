//! Queues of lines for the log and the audit file. Each queue has a thread that writes its lines.
//!
//! A session puts its line into the queue and never waits for a disk, a pipe or a journal. If the
//! thread is too slow, the queue drops lines and counts them as lost.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base::mutex::locked;

/// The pause between a failed write and the next attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The most lines and bytes that may wait in a queue. The thread may hold as many again in its current
/// batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

/// The importance of a line. The rank decides how full the queue may be when the line is added. So a
/// flood of unimportant lines leaves room for important lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineRank {
    /// The queue may be half full.
    Ordinary,
    /// The queue may be three quarters full.
    Warning,
    /// The line may take the last room.
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

/// Counts lost lines. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// The lines that were lost since the start of the process.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The destination of a queue's lines. Only the thread of the queue calls these functions, so they may
/// block.
pub(crate) trait LineDestination: fmt::Debug + Send + 'static {
    /// Writes the rest of the batch. The implementation must mark the written bytes with
    /// [`LineBatch::wrote`], even if a later write fails.
    fn write(&mut self, batch: &mut LineBatch) -> io::Result<()>;

    /// Makes the destination open its file again before the next write.
    fn reopen(&mut self) {}

    /// The line to write instead of `lost` lines that the queue has lost.
    fn gap(&self, lost: u64) -> Vec<u8>;

    /// Reports a failed write, unless the write before failed too. The thread tries again every
    /// [`RETRY_PAUSE`].
    fn failed(&self, _error: &io::Error) {}

    /// Reports a write that succeeded after failures or losses. `lost` counts lines since the start of the
    /// process.
    fn recovered(&self, _lost: u64) {}

    /// Reports that the queue ends with `lines` unwritten lines, which count as lost.
    fn gave_up(&self, _lines: u64) {}
}

/// Whole lines, of which the first `written` bytes have been written.
#[derive(Debug, Default)]
pub(crate) struct LineBatch {
    bytes: Vec<u8>,
    written: usize,
}

impl LineBatch {
    /// The bytes that are still to be written.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Marks the first `count` bytes of the rest as written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
    }

    /// How many bytes of the line in progress have been written.
    pub(crate) fn written_of_line(&self) -> usize {
        self.written - self.line_start()
    }

    /// Marks the line in progress as unwritten, so that it is written again from its first byte.
    pub(crate) fn begin_line_anew(&mut self) {
        self.written = self.line_start();
    }

    fn line_start(&self) -> usize {
        let before = self.bytes.get(..self.written).unwrap_or(&self.bytes);
        let end = before.iter().rposition(|byte| *byte == b'\n');
        end.map_or(0, |end| end + 1)
    }

    /// Lines that are not completely written.
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

/// The result of adding a line to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The line waits to be written.
    Queued,
    /// The line is lost, and is the first lost one since the thread last took lines.
    FirstLost,
    /// The line is lost, and the thread will report it with earlier lost lines. Or the queue has ended.
    Lost,
}

/// The lines that wait for the thread. All producers of lines share it.
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
    /// The queue accepts lines.
    Open,
    /// The thread writes the lines in the queue and then ends.
    Ending,
    /// The thread has ended.
    Ended,
}

impl LineQueue {
    /// An empty queue that counts its lost lines in `lost`.
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

    /// Adds a line, which must end in a line feed. Never waits for the destination. If the queue is
    /// full or has ended, the line is counted as lost.
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
            // The thread may have ended, so it would report no loss.
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
        locked(&self.state)
    }
}

/// The thread of a queue. After this value is dropped, the thread writes the lines in the queue and
/// ends.
#[derive(Debug)]
pub(crate) struct LineWriter(Arc<LineQueue>);

impl LineWriter {
    /// Starts a thread called `name` that writes the lines of `queue` to `destination`.
    ///
    /// # Errors
    /// The system grants no thread.
    pub(crate) fn start(
        name: &str,
        queue: Arc<LineQueue>,
        destination: impl LineDestination,
    ) -> io::Result<Self> {
        let mut writer = WriterThread {
            queue: Arc::clone(&queue),
            destination,
            batch: LineBatch::default(),
            health: WriteHealth::Good,
        };
        thread::Builder::new().name(name.into()).spawn(move || {
            writer.run();
            writer.queue.lock().stage = QueueStage::Ended;
            writer.queue.changed.notify_all();
        })?;
        Ok(Self(queue))
    }

    /// The queue of this thread.
    pub(crate) fn queue(&self) -> &Arc<LineQueue> {
        &self.0
    }

    /// Makes the thread open the destination again.
    pub(crate) fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.changed.notify_all();
    }

    /// Ends the queue, and waits for up to `limit` until the lines in the queue are written. Returns
    /// whether the thread ended in time. Blocks.
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

/// The state of the thread.
#[derive(Debug)]
struct WriterThread<D> {
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

/// The result of taking lines from the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TakenLines {
    /// The number of lines that were lost after the taken lines.
    lost: u64,
    stage: QueueStage,
}

impl<D: LineDestination> WriterThread<D> {
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

    /// Waits for work. Takes all lines of the queue as the next batch, unless an earlier batch is not
    /// yet written.
    fn take(&mut self) -> TakenLines {
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
            return TakenLines { lost: 0, stage };
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
        TakenLines { lost, stage }
    }

    /// Waits for [`RETRY_PAUSE`]. The end of the queue, or a request to open the destination again,
    /// ends the pause.
    fn pause(&self) {
        let goes_on = |state: &mut QueueState| state.stage == QueueStage::Open && !state.reopen;
        let state = self.queue.lock();
        let waited = self
            .queue
            .changed
            .wait_timeout_while(state, RETRY_PAUSE, goes_on);
        drop(waited);
    }

    /// Counts the remaining lines as lost, because the queue ends and the destination accepts no lines.
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

    /// Reports each write to the test, and waits for the result that the test prescribes.
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

        /// Makes the thread hang in a write.
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
        // The thread gives up lines whose write fails at the end. It may be in its pause, and tries again then.
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
