//! Refusals and sessions that repeat. The first few of a minute have lines of their own; short sessions
//! that follow have one line together, and long ones have lines of their own later. So nobody can fill a
//! disk, or push the lines of others out of a log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{AuditFile, Record, SessionTotals};
use crate::identity::Origin;
use base::error::ErrorKind;

/// From the first line of a group to the line of all that had none.
const MINUTE: Duration = Duration::from_secs(60);
/// Refusals that have lines of their own in that time.
const REFUSALS: u64 = 10;
/// Sessions that have lines of their own in that time from the moment they open; and as many again that have
/// lasted.
const SESSIONS: u64 = 60;
/// A session that lasts as long has lines of its own when it is its turn, unless it ends before.
const SHORT: Duration = Duration::from_secs(10);
/// A session that lasts as long has lines of its own in any case, without a turn.
const LONG: Duration = Duration::from_secs(600);
/// How long a session that has lasted waits for its turn, before it is asked for once more.
const NEXT_TURN: Duration = Duration::from_secs(5);
/// Sessions that have lasted are looked for this often at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of how many origins, endpoints and kinds it is known; the others count as one origin.
const MOST: usize = 1024;

/// What counts together: whose, where and what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct GroupKey {
    origin: Option<Origin>,
    endpoint: String,
    user: Option<String>,
    what: Repeated,
}

impl GroupKey {
    /// What a user's sessions at an endpoint have in common.
    fn of_user(record: &Record, what: Repeated) -> Self {
        Self {
            origin: record.met().map(Origin::of),
            endpoint: record.endpoint.clone(),
            user: record.user.clone(),
            what,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Repeated {
    Refusal(ErrorKind),
    Open,
    /// The line of a session that has lasted.
    Lasting,
    /// Of a session whose line was withheld when it opened.
    ShortSession(Option<ErrorKind>),
}

impl Repeated {
    /// How many have lines of their own in a minute.
    fn each(self) -> u64 {
        match self {
            Self::Refusal(_) => REFUSALS,
            Self::Open | Self::Lasting => SESSIONS,
            Self::ShortSession(_) => 0,
        }
    }
}

#[derive(Debug)]
struct Group {
    since: Instant,
    lines: u64,
    together: Option<Together>,
}

impl Group {
    fn since(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            together: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now - self.since >= MINUTE
    }
}

/// Those of a group that have no line of their own.
#[derive(Debug, Clone)]
pub(super) struct Together {
    pub(super) times: u64,
    pub(super) first_session: u64,
    /// When the first of them happened, or opened.
    pub(super) since: Timestamp,
    /// The last of them.
    pub(super) last: Record,
    /// Why the last of them was refused, or ended.
    pub(super) reason: String,
    /// None of refusals.
    pub(super) totals: Option<SessionTotals>,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// It is written.
    Now,
    /// It has none of its own: one is written with the others. Where it is the first of them, after
    /// this time.
    Together(Option<Duration>),
}

/// The line of a session that has opened, until it is known whether the session is a short one.
#[derive(Debug, Clone)]
pub(super) struct WithheldOpen {
    pub(super) record: Record,
    pub(super) open_ms: u64,
    pub(super) timestamp: Timestamp,
    opened: Instant,
}

impl WithheldOpen {
    fn lasts(&self, now: Instant) -> bool {
        now - self.opened >= SHORT
    }
}

/// How a session ended whose line was withheld.
#[derive(Debug)]
pub(super) enum WithheldEnd {
    /// It was not withheld, or it has been written since.
    Written,
    /// The session lasted, and it is its turn: both its lines are to be written.
    Lasted(WithheldOpen),
    /// It was a short one, or ended before it was its turn.
    Short(WithheldOpen),
}

/// What happened in the last minute.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    groups: HashMap<GroupKey, Group>,
    /// By session.
    withheld: HashMap<u64, WithheldOpen>,
    /// Sessions whose line was withheld, in the order in which they opened, until they have lasted. Some are
    /// over by now.
    young: VecDeque<u64>,
    /// Sessions that have lasted and wait for their turn, the oldest first. Some are over by now.
    waiting: HashMap<GroupKey, VecDeque<u64>>,
    lasting: LastingTeller,
}

/// Whether [`Repeats::tell_lasting`] will be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LastingTeller {
    #[default]
    Idle,
    Due,
}

impl Repeats {
    /// A refusal.
    pub(super) fn count(&self, record: &Record, kind: ErrorKind, reason: &str) -> Said {
        let together = |together: Option<Together>| Together {
            times: together.as_ref().map_or(0, |before| before.times) + 1,
            first_session: first_session(together.as_ref(), record),
            since: together.map_or_else(Timestamp::now, |before| before.since),
            last: record.clone(),
            reason: reason.to_owned(),
            totals: None,
        };
        // Whoever is refused may have given any name.
        let key = GroupKey {
            origin: record.met().map(Origin::of),
            endpoint: record.endpoint.clone(),
            user: None,
            what: Repeated::Refusal(kind),
        };
        self.lock().add(key, together)
    }

    /// A session that opened `open_ms` after its connection. Its line is written now, or when the
    /// session has lasted: then comes back, unless it was asked for already, after which time to call
    /// [`Self::tell_lasting`].
    pub(super) fn opened(&self, record: &Record, open_ms: u64) -> Said {
        let mut state = self.lock();
        if state.has_line(GroupKey::of_user(record, Repeated::Open)) {
            return Said::Now;
        }
        let withheld = WithheldOpen {
            record: record.clone(),
            open_ms,
            timestamp: Timestamp::now(),
            opened: Instant::now(),
        };
        state.withheld.insert(record.session, withheld);
        state.young.push_back(record.session);
        let before = std::mem::replace(&mut state.lasting, LastingTeller::Due);
        Said::Together((before == LastingTeller::Idle).then_some(SHORT))
    }

    /// A session that has opened is over: what has become of its line.
    pub(super) fn take_withheld(&self, session: u64) -> WithheldEnd {
        let mut state = self.lock();
        let Some(open) = state.withheld.remove(&session) else {
            return WithheldEnd::Written;
        };
        let key = GroupKey::of_user(&open.record, Repeated::Lasting);
        if open.lasts(Instant::now()) && state.is_turn_of(open.opened, key) {
            WithheldEnd::Lasted(open)
        } else {
            WithheldEnd::Short(open)
        }
    }

    /// A session without a line of its own is over. Returns after which time to call [`Self::tell`], if the
    /// session is the first of its group.
    pub(super) fn short(
        &self,
        open: &WithheldOpen,
        kind: Option<ErrorKind>,
        reason: &str,
        totals: SessionTotals,
    ) -> Option<Duration> {
        let record = &open.record;
        let together = |together: Option<Together>| Together {
            times: together.as_ref().map_or(0, |before| before.times) + 1,
            first_session: first_session(together.as_ref(), record),
            since: together
                .as_ref()
                .map_or(open.timestamp, |before| before.since),
            last: record.clone(),
            reason: reason.to_owned(),
            totals: Some(
                totals
                    + together
                        .and_then(|before| before.totals)
                        .unwrap_or_default(),
            ),
        };
        let key = GroupKey::of_user(record, Repeated::ShortSession(kind));
        match self.lock().add(key, together) {
            Said::Together(after) => after,
            Said::Now => None,
        }
    }

    /// Writes the lines of groups that are due.
    pub fn tell(&self, file: &AuditFile) {
        let now = Instant::now();
        self.write(file, |group| group.is_due(now));
    }

    /// Writes the withheld lines of sessions that have lasted and whose turn it is, the oldest first.
    /// Returns when to call it again, if there are others.
    pub fn tell_lasting(&self, file: &AuditFile) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        let next = state.come_of_age(now);
        let lasting = state.take_turns();
        let next_turn = (!state.waiting.is_empty()).then_some(NEXT_TURN);
        let next = next.into_iter().chain(next_turn).min();
        if next.is_none() {
            state.lasting = LastingTeller::Idle;
        }
        drop(state);
        write_opens(lasting, file);
        next
    }

    /// Writes all that there are, due or not.
    pub fn tell_all(&self, file: &AuditFile) {
        let withheld = std::mem::take(&mut self.lock().withheld);
        write_opens(withheld.into_values().collect(), file);
        self.write(file, |_| true);
    }

    fn write(&self, file: &AuditFile, is_due: impl Fn(&Group) -> bool) {
        let due: Vec<_> = self
            .lock()
            .groups
            .extract_if(|_, group| is_due(group))
            .collect();
        for (key, group) in due {
            match (key.what, group.together) {
                (Repeated::Refusal(kind), Some(together)) => together.write_refusals(kind, file),
                (Repeated::ShortSession(kind), Some(together)) => {
                    together.write_short_sessions(kind, file);
                }
                (Repeated::Open | Repeated::Lasting, _) | (_, None) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The group of the key as it is now.
    fn group(&mut self, mut key: GroupKey) -> &mut Group {
        let now = Instant::now();
        if self.groups.len() >= MOST && !self.groups.contains_key(&key) {
            self.groups
                .retain(|_, group| group.together.is_some() || !group.is_due(now));
            if self.groups.len() >= MOST {
                key.origin = None;
            }
        }
        let group = self.groups.entry(key).or_insert_with(|| Group::since(now));
        if group.together.is_none() && group.is_due(now) {
            *group = Group::since(now);
        }
        group
    }

    /// Has sessions that have lasted wait for their turn. Returns when the next one will have lasted.
    fn come_of_age(&mut self, now: Instant) -> Option<Duration> {
        while let Some(session) = self.young.front() {
            if let Some(open) = self.withheld.get(session) {
                if !open.lasts(now) {
                    let left = SHORT.saturating_sub(now - open.opened);
                    return Some(left.max(LOOK_EVERY));
                }
                let key = GroupKey::of_user(&open.record, Repeated::Lasting);
                self.waiting.entry(key).or_default().push_back(*session);
            }
            self.young.pop_front();
        }
        None
    }

    /// The sessions whose turn it is.
    fn take_turns(&mut self) -> Vec<WithheldOpen> {
        let mut taken = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        for (key, sessions) in &mut waiting {
            while let Some(session) = sessions.front() {
                if let Some(opened) = self.withheld.get(session).map(|open| open.opened) {
                    if !self.is_turn_of(opened, key.clone()) {
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

    /// Whether a session that has lasted gets lines of its own now, which counts then.
    fn is_turn_of(&mut self, opened: Instant, key: GroupKey) -> bool {
        opened.elapsed() >= LONG || self.has_line(key)
    }

    /// Whether one more of the group has a line of its own, which counts then.
    fn has_line(&mut self, key: GroupKey) -> bool {
        let each = key.what.each();
        let group = self.group(key);
        let has_line = group.lines < each;
        group.lines += u64::from(has_line);
        has_line
    }

    fn add(&mut self, key: GroupKey, together: impl FnOnce(Option<Together>) -> Together) -> Said {
        if self.has_line(key.clone()) {
            return Said::Now;
        }
        let group = self.group(key);
        let first = group.together.is_none();
        group.together = Some(together(group.together.take()));
        let left = || MINUTE.saturating_sub(group.since.elapsed());
        Said::Together(first.then(left))
    }
}

fn first_session(together: Option<&Together>, record: &Record) -> u64 {
    together.map_or(record.session, |before| before.first_session)
}

/// In the order in which they opened.
fn write_opens(mut opens: Vec<WithheldOpen>, file: &AuditFile) {
    opens.sort_by_key(|open| open.opened);
    for open in opens {
        open.write(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Peer;

    fn record(uid: u32) -> Record {
        let mut record = Record::new(1, "hdb", &"127.0.0.1:5010".parse().unwrap());
        let peer = Peer::Local {
            uid,
            pid: None,
            address: None,
        };
        record.peer(&peer, None, None);
        record
    }

    fn more(repeats: &Repeats) -> u64 {
        let state = repeats.lock();
        let together = state
            .groups
            .values()
            .filter_map(|group| group.together.as_ref());
        together.map(|together| together.times).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_a_minute_have_a_line_each_and_the_others_one() {
        let refusals = Repeats::default();
        let count = |uid, kind| refusals.count(&record(uid), kind, "no");
        for _ in 0..REFUSALS {
            assert_eq!(count(7, ErrorKind::Denied), Said::Now);
        }
        tokio::time::advance(Duration::from_secs(20)).await;
        let first = Some(Duration::from_secs(40));
        assert_eq!(count(7, ErrorKind::Denied), Said::Together(first));
        assert_eq!(count(7, ErrorKind::Denied), Said::Together(None));
        // Neither others nor other reasons.
        assert_eq!(count(8, ErrorKind::Denied), Said::Now);
        assert_eq!(count(7, ErrorKind::Limit), Said::Now);
        let more = || more(&refusals);
        refusals.tell(&AuditFile::default());
        assert_eq!(more(), 2, "told too early");
        tokio::time::advance(Duration::from_secs(40)).await;
        refusals.tell(&AuditFile::default());
        assert_eq!(more(), 0);
        assert_eq!(count(7, ErrorKind::Denied), Said::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_without_a_flood_begins_anew() {
        let refusals = Repeats::default();
        let count = || refusals.count(&record(7), ErrorKind::Denied, "no");
        for _ in 0..REFUSALS {
            assert_eq!(count(), Said::Now);
        }
        tokio::time::advance(MINUTE).await;
        assert_eq!(count(), Said::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn of_very_many_those_beyond_count_as_one() {
        let refusals = Repeats::default();
        for uid in 0..100_000 {
            refusals.count(&record(uid), ErrorKind::Denied, "no");
        }
        let known = refusals.lock().groups.len();
        assert!(known <= MOST + 1, "{known}");
        assert_eq!(more(&refusals), 100_000 - MOST as u64 - REFUSALS);
    }

    /// A session of this number and user that has opened.
    fn session(number: u64, user: &str) -> Record {
        let mut record = record(7);
        record.session = number;
        record.user = Some(user.into());
        record
    }

    fn totals(bytes_up: u64) -> SessionTotals {
        SessionTotals {
            bytes_up,
            messages_up: 1,
            ..SessionTotals::default()
        }
    }

    /// Its line comes at once, or not.
    fn end_short(repeats: &Repeats, number: u64, kind: Option<ErrorKind>) -> bool {
        match repeats.take_withheld(number) {
            WithheldEnd::Short(open) => {
                repeats.short(&open, kind, "closed", totals(number));
                true
            }
            WithheldEnd::Written | WithheldEnd::Lasted(_) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn short_sessions_beyond_sixty_a_minute_have_one_line_with_their_totals() {
        let repeats = Repeats::default();
        for number in 1..=SESSIONS {
            assert_eq!(repeats.opened(&session(number, "alice"), 1), Said::Now);
            assert!(!end_short(&repeats, number, None));
        }
        for (number, kind) in [(61, None), (62, Some(ErrorKind::Upstream)), (63, None)] {
            assert_ne!(repeats.opened(&session(number, "alice"), 1), Said::Now);
            assert!(end_short(&repeats, number, kind));
        }
        // Another user of the same account has lines of their own.
        assert_eq!(repeats.opened(&session(64, "bob"), 1), Said::Now);
        let state = repeats.lock();
        let group = |kind| {
            let mut groups = state.groups.iter();
            let what = Repeated::ShortSession(kind);
            let found = groups.find(|(key, _)| key.what == what).unwrap();
            let together = found.1.together.as_ref().unwrap();
            let totals = together.totals.unwrap();
            (
                together.times,
                together.first_session,
                together.last.session,
                totals.bytes_up,
                totals.messages_up,
            )
        };
        assert_eq!(group(None), (2, 61, 63, 124, 2));
        assert_eq!(group(Some(ErrorKind::Upstream)), (1, 62, 62, 62, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_last_have_their_own_lines() {
        let (repeats, file) = (Repeats::default(), AuditFile::default());
        for number in 1..=SESSIONS {
            repeats.opened(&session(number, "alice"), 1);
        }
        let opened = |number| repeats.opened(&session(number, "alice"), 1);
        assert_eq!(opened(61), Said::Together(Some(SHORT)));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(opened(62), Said::Together(None), "it is asked for already");
        tokio::time::advance(Duration::from_secs(6)).await;
        let left = Some(Duration::from_secs(4));
        assert_eq!(
            repeats.tell_lasting(&file),
            left,
            "the second is a short one still"
        );
        assert!(matches!(repeats.take_withheld(61), WithheldEnd::Written));
        // It has lasted, and nobody has written its line yet.
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(matches!(repeats.take_withheld(62), WithheldEnd::Lasted(_)));
        assert_eq!(repeats.tell_lasting(&file), None);
        assert_eq!(opened(63), Said::Together(Some(SHORT)));
    }

    /// Somebody opens sessions all the time and holds each for a little longer than a short one.
    #[tokio::test(start_paused = true)]
    async fn sessions_that_last_have_their_lines_one_after_the_other() {
        let (repeats, file) = (Repeats::default(), AuditFile::default());
        for number in 1..=SESSIONS + 200 {
            repeats.opened(&session(number, "alice"), 1);
        }
        repeats.opened(&session(1_000, "bob"), 1);
        let withheld = || repeats.lock().withheld.len() as u64;
        assert_eq!(withheld(), 200);
        tokio::time::advance(SHORT).await;
        assert_eq!(repeats.tell_lasting(&file), Some(NEXT_TURN));
        assert_eq!(withheld(), 200 - SESSIONS);
        assert!(matches!(repeats.take_withheld(61), WithheldEnd::Written));
        // It ends before it is its turn.
        assert!(matches!(repeats.take_withheld(260), WithheldEnd::Short(_)));
        tokio::time::advance(NEXT_TURN).await;
        assert_eq!(repeats.tell_lasting(&file), Some(NEXT_TURN));
        assert_eq!(withheld(), 139, "another minute has not begun");
        tokio::time::advance(MINUTE).await;
        repeats.tell_lasting(&file);
        assert_eq!(withheld(), 139 - SESSIONS);
        // Those that last for long need no turn.
        for number in 1_001..=1_001 + 2 * SESSIONS {
            repeats.opened(&session(number, "alice"), 1);
        }
        assert!(withheld() > 2 * SESSIONS);
        tokio::time::advance(LONG).await;
        assert_eq!(repeats.tell_lasting(&file), None);
        assert_eq!(withheld(), 0);
    }
}
