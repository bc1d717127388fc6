use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Both clocks, which the test moves.
#[derive(Clone, Copy)]
struct TestClock(Now);

impl TestClock {
    fn new() -> Self {
        Self(Now {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            mono: Instant::now(),
        })
    }

    fn pass(&mut self, time: Duration) {
        self.0.wall += time;
        self.0.mono += time;
    }
}

fn live(clock: TestClock, life: Duration) -> Schedule {
    let mut schedule = Schedule::new(clock.0);
    schedule.expect(clock.0);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
    schedule.fetched(clock.0, Some(clock.0.wall + life), 0.5);
    schedule
}

#[test]
fn a_string_of_fifteen_minutes_is_replaced_between_ten_and_a_half_and_twelve() {
    let mut clock = TestClock::new();
    let start = clock.0.wall;
    for jitter in [0.0, 0.5, 0.999] {
        let mut schedule = live(clock, 15 * MINUTE);
        schedule.fetched(clock.0, Some(start + 15 * MINUTE), jitter);
        let KeeperStep::SleepUntil(at) = schedule.step(clock.0) else {
            panic!("it has to wait");
        };
        let after = at.duration_since(start).unwrap();
        assert!(
            after >= MINUTE * 21 / 2 && after <= 12 * MINUTE,
            "{after:?}"
        );
    }
    let mut schedule = live(clock, 15 * MINUTE);
    clock.pass(12 * MINUTE);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
    assert_eq!(
        schedule.demand(clock.0),
        Demand::Use,
        "meanwhile the old one serves"
    );
}

#[test]
fn what_is_shown_of_it_is_what_will_happen() {
    let mut clock = TestClock::new();
    let mut schedule = Schedule::new(clock.0);
    assert_eq!(
        (schedule.age(clock.0), schedule.next(clock.0)),
        (None, None)
    );
    schedule.expect(clock.0);
    assert_eq!(schedule.next(clock.0), Some(Duration::ZERO));
    schedule = live(clock, 15 * MINUTE);
    clock.pass(MINUTE);
    assert_eq!(schedule.age(clock.0), Some(MINUTE));
    let next = schedule.next(clock.0).unwrap();
    assert_eq!(next, (15 * MINUTE).mul_f64(0.75) - MINUTE);
    clock.pass(next);
    assert_eq!(schedule.next(clock.0), Some(Duration::ZERO));
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
    schedule.failed(clock.0, Retry::Refused, 0.0);
    assert_eq!(schedule.next(clock.0), Some(REFUSAL_PAUSE));
    clock.pass(4 * MINUTE);
    assert_eq!(schedule.age(clock.0), None, "its life is over");
    // Nobody asks any more. A refresh that would fall after the idle hour does not happen.
    let mut clock = TestClock::new();
    let mut schedule = live(clock, 60 * MINUTE);
    assert!(schedule.next(clock.0).is_some());
    clock.pass(20 * MINUTE);
    schedule.fetched(clock.0, Some(clock.0.wall + 60 * MINUTE), 0.5);
    assert_eq!(schedule.next(clock.0), None);
    schedule.demand(clock.0);
    assert!(schedule.next(clock.0).is_some());
}

#[test]
fn a_failed_refresh_leaves_the_live_one_serving() {
    let mut clock = TestClock::new();
    let mut schedule = live(clock, 15 * MINUTE);
    clock.pass(12 * MINUTE);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
    schedule.failed(clock.0, Retry::Refused, 0.5);
    assert_eq!(schedule.demand(clock.0), Demand::Use);
    clock.pass(3 * MINUTE);
    assert_ne!(
        schedule.demand(clock.0),
        Demand::Use,
        "but not beyond its life"
    );
}

#[test]
fn nothing_is_used_beyond_an_hour_or_without_a_margin() {
    let mut clock = TestClock::new();
    let schedule = live(clock, 24 * 60 * MINUTE);
    clock.pass(60 * MINUTE - SKEW);
    assert!(!schedule.usable(clock.0));
    let mut clock = TestClock::new();
    let schedule = live(clock, Duration::from_secs(10));
    clock.pass(Duration::from_millis(8_999));
    assert!(schedule.usable(clock.0));
    clock.pass(Duration::from_millis(1));
    assert!(
        !schedule.usable(clock.0),
        "a tenth of a short life is margin"
    );
}

#[test]
fn a_life_that_is_counted_from_the_fetch_needs_no_clock() {
    let mut clock = TestClock::new();
    let mut schedule = Schedule::new(clock.0);
    schedule.expect(clock.0);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
    schedule.fetched(clock.0, Expiry::After(15 * MINUTE), 0.5);
    assert_eq!(schedule.left(clock.0), Some(15 * MINUTE - SKEW));
    clock.pass(15 * MINUTE - SKEW);
    assert!(!schedule.usable(clock.0));
    // A longer life is cut to an hour.
    schedule.fetched(clock.0, Expiry::After(600 * MINUTE), 0.5);
    clock.pass(60 * MINUTE - SKEW);
    assert!(!schedule.usable(clock.0));
}

#[test]
fn a_machine_that_slept_wakes_up_with_an_expired_string() {
    let mut clock = TestClock::new();
    let schedule = live(clock, 15 * MINUTE);
    clock.0.wall += 20 * MINUTE;
    assert!(!schedule.usable(clock.0));
}

#[test]
fn a_clock_set_back_makes_nothing_live_longer() {
    let mut clock = TestClock::new();
    let mut schedule = live(clock, 15 * MINUTE);
    clock.0.wall -= 60 * MINUTE;
    assert_eq!(
        schedule.step(clock.0),
        KeeperStep::Fetch,
        "its expiry means nothing now"
    );
    let mut clock = TestClock::new();
    let schedule = live(clock, 15 * MINUTE);
    clock.pass(10 * MINUTE);
    clock.0.wall -= 5 * MINUTE;
    clock.pass(5 * MINUTE);
    assert!(!schedule.usable(clock.0));
}

#[test]
fn an_idle_hour_ends_the_refreshes_and_a_demand_starts_them_again() {
    let mut clock = TestClock::new();
    let mut schedule = live(clock, 15 * MINUTE);
    let mut fetches = 0;
    for _ in 0..600 {
        clock.pass(MINUTE / 2);
        if schedule.step(clock.0) == KeeperStep::Fetch {
            fetches += 1;
            schedule.fetched(clock.0, Some(clock.0.wall + 15 * MINUTE), 0.5);
        }
    }
    assert!(
        (4..=6).contains(&fetches),
        "{fetches} in an hour, then none"
    );
    assert_eq!(schedule.step(clock.0), KeeperStep::Idle);
    assert_eq!(schedule.demand(clock.0), Demand::Wait);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
}

#[test]
fn a_refusal_is_kept_for_a_moment_and_then_asked_again() {
    let mut clock = TestClock::new();
    let mut schedule = Schedule::new(clock.0);
    assert_eq!(schedule.demand(clock.0), Demand::Wait);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
    schedule.failed(clock.0, Retry::Refused, 0.5);
    assert!(matches!(schedule.demand(clock.0), Demand::Refuse(_)));
    clock.pass(REFUSAL_KEPT);
    assert_eq!(schedule.demand(clock.0), Demand::Wait);
    assert_eq!(schedule.step(clock.0), KeeperStep::Fetch);
}

#[test]
fn rejected_logins_cannot_make_a_storm() {
    let mut clock = TestClock::new();
    let mut schedule = Schedule::new(clock.0);
    let mut fetches = 0;
    for _ in 0..6_000 {
        if schedule.demand(clock.0) == Demand::Use {
            schedule.rejected();
            schedule.demand(clock.0);
        }
        if schedule.step(clock.0) == KeeperStep::Fetch {
            fetches += 1;
            schedule.fetched(clock.0, Some(clock.0.wall + 15 * MINUTE), 0.5);
        }
        clock.pass(Duration::from_millis(10));
    }
    assert!(fetches <= 12, "{fetches} fetches in a minute of rejections");
}

#[derive(Debug, Clone)]
enum ScheduleEvent {
    Pass(u64),
    WallJump(i64),
    Demand,
    Rejected,
    Outcome(u8),
}

fn event() -> impl Strategy<Value = ScheduleEvent> {
    prop_oneof![
        (0..1_200u64).prop_map(ScheduleEvent::Pass),
        (-4_000..4_000i64).prop_map(ScheduleEvent::WallJump),
        Just(ScheduleEvent::Demand),
        Just(ScheduleEvent::Rejected),
        any::<u8>().prop_map(ScheduleEvent::Outcome),
    ]
}

proptest! {
    /// In any order of events: an expired credential is never used, at most one fetch is under way, and
    /// the limiter bounds the number of fetches.
    #[test]
    fn holds_in_any_order_of_events(events in prop::collection::vec(event(), 1..300)) {
        let mut clock = TestClock::new();
        let (wall_start, mono_start) = (clock.0.wall, clock.0.mono);
        let mut schedule = Schedule::new(clock.0);
        let mut fetching = false;
        let mut fetches = 0u32;
        let mut expiry: Option<(SystemTime, Instant)> = None;
        for event in events {
            match event {
                ScheduleEvent::Pass(seconds) => clock.pass(Duration::from_secs(seconds)),
                ScheduleEvent::WallJump(seconds) => {
                    let shift = Duration::from_secs(seconds.unsigned_abs());
                    if seconds < 0 {
                        clock.0.wall = (clock.0.wall - shift).max(wall_start - 60 * MINUTE);
                    } else {
                        clock.0.wall += shift;
                    }
                }
                ScheduleEvent::Demand => {
                    if schedule.demand(clock.0) == Demand::Use {
                        let (wall, mono) = expiry.expect("used what was never fetched");
                        prop_assert!(clock.0.wall < wall && clock.0.mono < mono);
                    }
                }
                ScheduleEvent::Rejected => {
                    schedule.rejected();
                    expiry = None;
                }
                ScheduleEvent::Outcome(kind) if fetching => {
                    fetching = false;
                    let jitter = f64::from(kind) / 256.0;
                    match kind % 4 {
                        0 => schedule.failed(clock.0, Retry::Soon, jitter),
                        1 => schedule.failed(clock.0, Retry::Refused, jitter),
                        _ => {
                            let life = Duration::from_secs(u64::from(kind) * 20);
                            schedule.fetched(clock.0, Some(clock.0.wall + life), jitter);
                            expiry = Some((clock.0.wall + life, clock.0.mono + life));
                        }
                    }
                }
                ScheduleEvent::Outcome(_) => {}
            }
            match schedule.step(clock.0) {
                KeeperStep::Fetch => {
                    prop_assert!(!fetching, "two fetches at once");
                    fetching = true;
                    fetches += 1;
                }
                KeeperStep::SleepUntil(at) => prop_assert!(at > clock.0.wall, "a sleep that is over"),
                KeeperStep::Idle => {}
            }
        }
        let seconds = clock.0.mono.duration_since(mono_start).as_secs_f64();
        prop_assert!(f64::from(fetches) <= BURST + RATE * seconds + 1.0);
    }
}
