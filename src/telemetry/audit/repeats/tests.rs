use super::*;
use crate::identity::Peer;
use q_relay::relay::Meters;

fn record(uid: u32) -> AuditRecord {
    numbered_record(1, uid)
}

fn numbered_record(number: u64, uid: u32) -> AuditRecord {
    let mut record = AuditRecord::new(number, "hdb", &"127.0.0.1:5010".parse().unwrap());
    let peer = Peer::Local {
        uid,
        pid: None,
        address: None,
    };
    record.set_peer(&peer, None, None);
    record
}

/// The number of events in merged lines.
fn merged(repeats: &Repeats) -> u64 {
    let state = repeats.lock();
    let merged = state
        .groups
        .values()
        .filter_map(|group| group.merged.as_ref());
    merged.map(|merged| merged.times).sum()
}

fn withhold(delay: Option<Duration>) -> LineDecision {
    LineDecision::Withhold { delay }
}

#[tokio::test(start_paused = true)]
async fn ten_a_minute_have_a_line_each_and_the_others_one() {
    let refusals = Repeats::default();
    let count = |uid, kind| refusals.refused(&record(uid), kind, "no");
    for _ in 0..REFUSALS {
        assert_eq!(count(7, ErrorKind::Denied), LineDecision::Write);
    }
    tokio::time::advance(Duration::from_secs(20)).await;
    let first = Some(Duration::from_secs(40));
    assert_eq!(count(7, ErrorKind::Denied), withhold(first));
    assert_eq!(count(7, ErrorKind::Denied), withhold(None));
    // Neither others nor other reasons.
    assert_eq!(count(8, ErrorKind::Denied), LineDecision::Write);
    assert_eq!(count(7, ErrorKind::Limit), LineDecision::Write);
    let merged = || merged(&refusals);
    refusals.write_due(&AuditFile::default());
    assert_eq!(merged(), 2, "written too early");
    tokio::time::advance(Duration::from_secs(40)).await;
    refusals.write_due(&AuditFile::default());
    assert_eq!(merged(), 0);
    assert_eq!(count(7, ErrorKind::Denied), LineDecision::Write);
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_a_flood_begins_anew() {
    let refusals = Repeats::default();
    let count = || refusals.refused(&record(7), ErrorKind::Denied, "no");
    for _ in 0..REFUSALS {
        assert_eq!(count(), LineDecision::Write);
    }
    tokio::time::advance(MINUTE).await;
    assert_eq!(count(), LineDecision::Write);
}

#[tokio::test(start_paused = true)]
async fn of_very_many_those_beyond_count_as_one() {
    let refusals = Repeats::default();
    for uid in 0..100_000 {
        refusals.refused(&record(uid), ErrorKind::Denied, "no");
    }
    let known = refusals.lock().groups.len();
    assert!(known <= MAX_GROUPS + 1, "{known}");
    assert_eq!(merged(&refusals), 100_000 - MAX_GROUPS as u64 - REFUSALS);
}

/// A session of this number and user that has opened.
fn session(number: u64, user: &str) -> AuditRecord {
    let mut record = numbered_record(number, 7);
    record.set_user_name(user);
    record
}

fn totals(bytes_up: u64) -> SessionTotals {
    SessionTotals {
        bytes_up,
        messages_up: 1,
        ..SessionTotals::default()
    }
}

/// Ends a session at once. Returns whether it was merged with other short sessions.
fn end_short(repeats: &Repeats, number: u64, kind: Option<ErrorKind>) -> bool {
    match repeats.take_withheld(number) {
        WithheldEnd::Short(open) => {
            let end = SessionEnd {
                kind,
                reason: "closed",
                meters: &Meters::default(),
            };
            repeats.ended_short(&open, &end, totals(number));
            true
        }
        WithheldEnd::Written | WithheldEnd::Lasted(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn short_sessions_beyond_sixty_a_minute_have_one_line_with_their_totals() {
    let repeats = Repeats::default();
    for number in 1..=SESSIONS {
        assert_eq!(
            repeats.opened(&session(number, "alice"), 1),
            LineDecision::Write
        );
        assert!(!end_short(&repeats, number, None));
    }
    for (number, kind) in [(61, None), (62, Some(ErrorKind::Upstream)), (63, None)] {
        assert_ne!(
            repeats.opened(&session(number, "alice"), 1),
            LineDecision::Write
        );
        assert!(end_short(&repeats, number, kind));
    }
    // Another user of the same account has lines of their own.
    assert_eq!(repeats.opened(&session(64, "bob"), 1), LineDecision::Write);
    let state = repeats.lock();
    let group = |kind| {
        let mut groups = state.groups.iter();
        let what = RepeatedEvent::ShortSession(kind);
        let found = groups.find(|(key, _)| key.what == what).unwrap();
        let merged = found.1.merged.as_ref().unwrap();
        (
            merged.times,
            merged.first_session,
            merged.last.session(),
            merged.totals.bytes_up,
            merged.totals.messages_up,
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
    assert_eq!(opened(61), withhold(Some(SHORT)));
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(opened(62), withhold(None), "a call is scheduled already");
    tokio::time::advance(Duration::from_secs(6)).await;
    let left = Some(Duration::from_secs(4));
    assert_eq!(
        repeats.write_lasting(&file),
        left,
        "the second is a short one still"
    );
    assert!(matches!(repeats.take_withheld(61), WithheldEnd::Written));
    // It has lasted, and nobody has written its line yet.
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(matches!(repeats.take_withheld(62), WithheldEnd::Lasted(_)));
    assert_eq!(repeats.write_lasting(&file), None);
    assert_eq!(opened(63), withhold(Some(SHORT)));
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
    assert_eq!(repeats.write_lasting(&file), Some(RETRY_WAITING));
    assert_eq!(withheld(), 200 - SESSIONS);
    assert!(matches!(repeats.take_withheld(61), WithheldEnd::Written));
    // It ends before it is its turn.
    assert!(matches!(repeats.take_withheld(260), WithheldEnd::Short(_)));
    tokio::time::advance(RETRY_WAITING).await;
    assert_eq!(repeats.write_lasting(&file), Some(RETRY_WAITING));
    assert_eq!(withheld(), 139, "another minute has not begun");
    tokio::time::advance(MINUTE).await;
    repeats.write_lasting(&file);
    assert_eq!(withheld(), 139 - SESSIONS);
    // Those that last for long need no turn.
    for number in 1_001..=1_001 + 2 * SESSIONS {
        repeats.opened(&session(number, "alice"), 1);
    }
    assert!(withheld() > 2 * SESSIONS);
    tokio::time::advance(LONG).await;
    assert_eq!(repeats.write_lasting(&file), None);
    assert_eq!(withheld(), 0);
}
