//! Bounds the number of audit lines, so that no client can fill a disk or displace the lines of others.
//!
//! Refusals: within a minute the first 10 of a group have lines of their own. All other refusals of the
//! group in that minute share one line.
//!
//! Sessions: within a minute the first 60 of a user have lines of their own when they open and when they end. The
//! line of a further session is withheld:
//! - If the session ends within 10 s, it shares a line with other short sessions.
//! - If the session lasts for longer, its line waits for the user's budget for lasting sessions, 60 a
//!   minute. After 10 minutes the line is written in any case.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::file::AuditFile;
use super::merged::{MergedLine, SHORT, WithheldOpen};
use super::record::{AuditRecord, SessionEnd};
use super::totals::SessionTotals;
use crate::identity::Origin;
use base::error::ErrorKind;
use base::mutex::locked;

/// How long a group lasts, from its first event.
const MINUTE: Duration = Duration::from_secs(60);
/// The refusals of a group that have lines of their own.
const REFUSALS: u64 = 10;
/// The sessions of a group that have lines of their own from their opening, and as many again that have lasted.
const SESSIONS: u64 = 60;
/// A session that lasts for this long has lines of its own in any case.
const LONG: Duration = Duration::from_secs(600);
/// How often the budget is checked again for sessions that have lasted and still have no line.
const RETRY_WAITING: Duration = Duration::from_secs(5);
/// The least time between two calls of [`Repeats::write_lasting`].
const MIN_DELAY: Duration = Duration::from_secs(1);
/// The most groups that keep their origins apart. Further events count in groups without an origin.
const MAX_GROUPS: usize = 1024;

/// Counts refusals and sessions, and decides which of them have lines of their own.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<RepeatState>);

#[derive(Debug, Default)]
struct RepeatState {
    groups: HashMap<GroupKey, RepeatGroup>,
    /// The withheld lines, by session number.
    withheld: HashMap<u64, WithheldOpen>,
    /// The numbers of sessions with a withheld line that have not lasted for [`SHORT`] yet, in the order of their
    /// opening. Some may have ended.
    young: VecDeque<u64>,
    /// The numbers of sessions with a withheld line that have lasted, oldest first. Some may have ended.
    waiting: HashMap<GroupKey, VecDeque<u64>>,
    lasting_timer: LastingTimer,
}

/// Whether a call of [`Repeats::write_lasting`] is scheduled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LastingTimer {
    #[default]
    Idle,
    Scheduled,
}

/// Events with the same key count together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct GroupKey {
    origin: Option<Origin>,
    endpoint: String,
    user: Option<String>,
    what: RepeatedEvent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum RepeatedEvent {
    Refusal(ErrorKind),
    Open,
    /// A session whose line was withheld, and that has lasted.
    Lasting,
    /// The end of a short session whose line was withheld.
    ShortSession(Option<ErrorKind>),
}

/// The events of one key within a minute.
#[derive(Debug)]
struct RepeatGroup {
    since: Instant,
    /// The number of events that have lines of their own.
    lines: u64,
    /// The line of all other events.
    merged: Option<MergedLine>,
}

/// Whether an event has a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineDecision {
    /// The caller writes the line now.
    Write,
    /// The line is withheld.
    Withhold {
        /// After which time to write withheld lines. `None` if that is scheduled already.
        delay: Option<Duration>,
    },
}

/// The state of a session's opening line when the session ends.
#[derive(Debug)]
pub(super) enum WithheldEnd {
    /// It has been written.
    Written,
    /// The session has lasted: its opening line and its end line are written now.
    Lasted(WithheldOpen),
    /// The session was short, or its line was still waiting for the budget: it is merged with others.
    Short(WithheldOpen),
}

impl Repeats {
    /// Counts a refused session.
    pub(super) fn refused(
        &self,
        record: &AuditRecord,
        kind: ErrorKind,
        reason: &str,
    ) -> LineDecision {
        let event = || MergedLine {
            times: 1,
            first_session: record.session(),
            since: Timestamp::now(),
            last: record.clone(),
            reason: reason.to_owned(),
            totals: SessionTotals::default(),
        };
        // The key has no user, because a client that is refused may have given any name.
        let key = GroupKey {
            origin: record.peer().map(Origin::of),
            endpoint: record.endpoint().to_owned(),
            user: None,
            what: RepeatedEvent::Refusal(kind),
        };
        self.lock().count(key, event)
    }

    /// Counts a session that opened `open_ms` milliseconds after its connection was accepted. If its line is
    /// withheld, the delay is for [`Self::write_lasting`].
    pub(super) fn opened(&self, record: &AuditRecord, open_ms: u64) -> LineDecision {
        let mut state = self.lock();
        if state.has_line(GroupKey::of_user(record, RepeatedEvent::Open)) {
            return LineDecision::Write;
        }
        let withheld = WithheldOpen {
            record: record.clone(),
            open_ms,
            timestamp: Timestamp::now(),
            opened: Instant::now(),
        };
        state.withheld.insert(record.session(), withheld);
        state.young.push_back(record.session());
        let before = std::mem::replace(&mut state.lasting_timer, LastingTimer::Scheduled);
        LineDecision::Withhold {
            delay: (before == LastingTimer::Idle).then_some(SHORT),
        }
    }

    /// Takes the withheld line of a session that has ended.
    pub(super) fn take_withheld(&self, session: u64) -> WithheldEnd {
        let mut state = self.lock();
        let Some(open) = state.withheld.remove(&session) else {
            return WithheldEnd::Written;
        };
        let key = GroupKey::of_user(&open.record, RepeatedEvent::Lasting);
        if open.has_lasted(Instant::now()) && state.lasting_has_line(open.opened, key) {
            WithheldEnd::Lasted(open)
        } else {
            WithheldEnd::Short(open)
        }
    }

    /// Merges a short session that has ended with others. Returns the delay after which to call
    /// [`Self::write_due`], if no call is scheduled yet.
    pub(super) fn ended_short(
        &self,
        open: &WithheldOpen,
        end: &SessionEnd<'_>,
        totals: SessionTotals,
    ) -> Option<Duration> {
        let record = &open.record;
        let event = || MergedLine {
            times: 1,
            first_session: record.session(),
            since: open.timestamp,
            last: record.clone(),
            reason: end.reason.to_owned(),
            totals,
        };
        let key = GroupKey::of_user(record, RepeatedEvent::ShortSession(end.kind));
        match self.lock().count(key, event) {
            LineDecision::Withhold { delay } => delay,
            LineDecision::Write => None,
        }
    }

    /// Writes the merged lines whose minute is over.
    pub fn write_due(&self, file: &AuditFile) {
        let now = Instant::now();
        self.write_merged(file, |group| group.is_over(now));
    }

    /// Writes the withheld lines of sessions that have lasted, oldest first, as far as their users' budgets
    /// allow. Returns the delay after which to call it again. `None` if nothing is withheld any more.
    pub fn write_lasting(&self, file: &AuditFile) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        let next_lasting = state.move_lasting(now);
        let lasting = state.take_lasting();
        let retry = (!state.waiting.is_empty()).then_some(RETRY_WAITING);
        let delay = next_lasting.into_iter().chain(retry).min();
        if delay.is_none() {
            state.lasting_timer = LastingTimer::Idle;
        }
        drop(state);
        write_opens(lasting, file);
        delay
    }

    /// Writes all withheld and merged lines, due or not, when the daemon stops.
    pub fn write_all(&self, file: &AuditFile) {
        let withheld = std::mem::take(&mut self.lock().withheld);
        write_opens(withheld.into_values().collect(), file);
        self.write_merged(file, |_| true);
    }

    fn write_merged(&self, file: &AuditFile, is_due: impl Fn(&RepeatGroup) -> bool) {
        let due: Vec<_> = self
            .lock()
            .groups
            .extract_if(|_, group| is_due(group))
            .collect();
        for (key, group) in due {
            let Some(merged) = group.merged else { continue };
            match key.what {
                RepeatedEvent::Refusal(kind) => merged.write_refusals(kind, file),
                RepeatedEvent::ShortSession(kind) => merged.write_short_sessions(kind, file),
                // `withheld` holds the lines of these sessions one by one.
                RepeatedEvent::Open | RepeatedEvent::Lasting => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, RepeatState> {
        locked(&self.0)
    }
}

impl RepeatState {
    /// The group of a key. A group whose minute is over begins again, unless its merged line is not written yet.
    fn group(&mut self, mut key: GroupKey) -> &mut RepeatGroup {
        let now = Instant::now();
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            self.groups
                .retain(|_, group| group.merged.is_some() || !group.is_over(now));
            if self.groups.len() >= MAX_GROUPS {
                key.origin = None;
            }
        }
        let group = self
            .groups
            .entry(key)
            .or_insert_with(|| RepeatGroup::new(now));
        if group.merged.is_none() && group.is_over(now) {
            *group = RepeatGroup::new(now);
        }
        group
    }

    /// Moves sessions that have lasted from `young` to `waiting`. Returns the delay until the next one will have
    /// lasted.
    fn move_lasting(&mut self, now: Instant) -> Option<Duration> {
        while let Some(session) = self.young.front() {
            if let Some(open) = self.withheld.get(session) {
                if !open.has_lasted(now) {
                    let left = SHORT.saturating_sub(now - open.opened);
                    return Some(left.max(MIN_DELAY));
                }
                let key = GroupKey::of_user(&open.record, RepeatedEvent::Lasting);
                self.waiting.entry(key).or_default().push_back(*session);
            }
            self.young.pop_front();
        }
        None
    }

    /// Takes the withheld lines of waiting sessions that get lines of their own now.
    fn take_lasting(&mut self) -> Vec<WithheldOpen> {
        let mut taken = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        for (key, sessions) in &mut waiting {
            while let Some(session) = sessions.front() {
                if let Some(opened) = self.withheld.get(session).map(|open| open.opened) {
                    if !self.lasting_has_line(opened, key.clone()) {
                        sessions.retain(|session| self.withheld.contains_key(session));
                        break;
                    }
                    taken.extend(self.withheld.remove(session));
                }
                sessions.pop_front();
            }
        }
        waiting.retain(|_, sessions| !sessions.is_empty());
        self.waiting = waiting;
        taken
    }

    /// Whether a session that has lasted gets lines of its own now. If so, this counts it.
    fn lasting_has_line(&mut self, opened: Instant, key: GroupKey) -> bool {
        opened.elapsed() >= LONG || self.has_line(key)
    }

    /// Whether one more event of the group has a line of its own. If so, this counts it.
    fn has_line(&mut self, key: GroupKey) -> bool {
        let max_lines = key.what.max_lines();
        let group = self.group(key);
        let has_line = group.lines < max_lines;
        group.lines += u64::from(has_line);
        has_line
    }

    /// Counts an event, and merges the event into the group's line if it gets no line of its own.
    fn count(&mut self, key: GroupKey, event: impl FnOnce() -> MergedLine) -> LineDecision {
        if self.has_line(key.clone()) {
            return LineDecision::Write;
        }
        let group = self.group(key);
        match &mut group.merged {
            Some(merged) => {
                merged.add(event());
                LineDecision::Withhold { delay: None }
            }
            None => {
                group.merged = Some(event());
                let left = MINUTE.saturating_sub(group.since.elapsed());
                LineDecision::Withhold { delay: Some(left) }
            }
        }
    }
}

impl GroupKey {
    /// The key for sessions of one user at one endpoint from one origin.
    fn of_user(record: &AuditRecord, what: RepeatedEvent) -> Self {
        Self {
            origin: record.peer().map(Origin::of),
            endpoint: record.endpoint().to_owned(),
            user: record.user_name().map(str::to_owned),
            what,
        }
    }
}

impl RepeatedEvent {
    /// The number of events of a group that have lines of their own.
    fn max_lines(self) -> u64 {
        match self {
            Self::Refusal(_) => REFUSALS,
            Self::Open | Self::Lasting => SESSIONS,
            Self::ShortSession(_) => 0,
        }
    }
}

impl RepeatGroup {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            merged: None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now - self.since >= MINUTE
    }
}

/// Writes the lines in the order in which the sessions opened.
fn write_opens(mut opens: Vec<WithheldOpen>, file: &AuditFile) {
    opens.sort_by_key(|open| open.opened);
    for open in opens {
        open.write(file);
    }
}

#[cfg(test)]
mod tests;
