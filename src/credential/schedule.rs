//! When to fetch a credential, when to use it, when to leave the other side alone: a pure machine,
//! told the time.

use std::time::{Duration, Instant, SystemTime};

/// No credential is used longer than this after it was fetched, whatever it says of itself: the
/// FinSpace guide's validity of a connection string.
pub const LONGEST_LIFE: Duration = Duration::from_secs(60 * 60);
/// A credential is replaced after this share of its life, and up to [`REFRESH_SPREAD`] later.
const REFRESH_AFTER: f64 = 0.70;
/// The jitter of a refresh, as a share of the life.
const REFRESH_SPREAD: f64 = 0.10;
/// Kept free at the end of a life for clocks that disagree, but no more than a tenth of the life.
const SKEW: Duration = Duration::from_secs(30);
/// Without a demand for this long, a credential is not refreshed any more.
pub const IDLE_AFTER: Duration = Duration::from_secs(60 * 60);
/// The first pause after a passing fault; it doubles up to [`LONGEST_PAUSE`], and jitter takes any
/// share of it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a passing fault.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The shortest pause, whatever the jitter.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// After a refusal, demands are answered with that refusal for this long.
const REFUSAL_KEPT: Duration = Duration::from_secs(10);
/// After a refusal nobody waits for, the first pause; it doubles up to [`LONGEST_REFUSAL_PAUSE`].
const REFUSAL_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause after refusals that nobody waits for.
const LONGEST_REFUSAL_PAUSE: Duration = Duration::from_secs(300);
/// A demand waits for the next attempt when it is this close.
const WORTH_WAITING: Duration = Duration::from_secs(2);
/// Fetches that may follow each other at once.
const BURST: f64 = 5.0;
/// Fetches a second that are allowed beyond the burst, for ever.
const RATE: f64 = 0.1;

/// Both clocks: the wall, which expiry is written in and which may jump, and the one that only runs
/// forward but may stand still while a machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: SystemTime,
    /// The monotonic clock.
    pub mono: Instant,
}

/// What is known of the end of a credential's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing.
    Unknown,
    /// It ends at this time of this host's clock.
    At(SystemTime),
    /// It ends this long after the fetch, whatever this host's clock shows.
    After(Duration),
}

impl From<Option<SystemTime>> for Expiry {
    fn from(end: Option<SystemTime>) -> Self {
        end.map_or(Self::Unknown, Self::At)
    }
}

/// What kind of failure a fetch ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again may help: throttled, slow, broken, out of reach.
    Soon,
    /// Only a change elsewhere helps: not allowed, not there, not well-formed.
    Refused,
}

/// What the keeper of a credential does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fetch.
    Fetch,
    /// Look again at this time of the wall clock, or when asked.
    SleepUntil(SystemTime),
    /// Nobody needs it: wait until asked.
    Idle,
}

/// What a demand meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// The credential at hand is good.
    Use,
    /// One is being fetched, or will be in a moment.
    Wait,
    /// The last failure stands; the next attempt is at this time.
    Refuse(SystemTime),
}

#[derive(Debug, Clone, Copy)]
struct Life {
    obtained: Now,
    /// Not used from here on.
    unusable: SystemTime,
    /// The same as a length of time.
    usable_for: Duration,
    /// Replaced after this long.
    refresh_after: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    /// No fetch on demand before.
    demand: SystemTime,
    /// No fetch ahead of demand before.
    ahead: SystemTime,
    /// When the pause began: a wall clock that is set back ends it.
    since: SystemTime,
}

/// The schedule of one credential.
#[derive(Debug)]
pub struct Schedule {
    life: Option<Life>,
    fetching: bool,
    /// Somebody waits.
    demanded: bool,
    failures: u32,
    pause: Option<Pause>,
    last_use: Option<Instant>,
    limiter: Limiter,
}

impl Schedule {
    /// Nothing fetched, nothing asked for.
    pub fn new(now: Now) -> Self {
        Self {
            life: None,
            fetching: false,
            demanded: false,
            failures: 0,
            pause: None,
            last_use: None,
            limiter: Limiter {
                tokens: BURST,
                filled: now.mono,
            },
        }
    }

    /// The credential will be wanted: fetch it ahead of the first demand.
    pub fn expect(&mut self, now: Now) {
        self.last_use = Some(now.mono);
    }

    /// Somebody wants the credential now.
    pub fn demand(&mut self, now: Now) -> Demand {
        self.last_use = Some(now.mono);
        if self.usable(now) {
            return Demand::Use;
        }
        if !self.fetching {
            let next = self.next_on_demand(now);
            if next > now.wall + WORTH_WAITING {
                return Demand::Refuse(next);
            }
        }
        self.demanded = true;
        Demand::Wait
    }

    /// Whether the credential at hand may be used.
    pub fn usable(&self, now: Now) -> bool {
        self.life.is_some_and(|life| {
            now.wall < life.unusable
                && now.mono.duration_since(life.obtained.mono) < life.usable_for
        })
    }

    /// How long the credential at hand may still be used.
    pub fn left(&self, now: Now) -> Option<Duration> {
        let life = self.life.filter(|_| self.usable(now))?;
        life.unusable.duration_since(now.wall).ok()
    }

    /// How long ago the credential at hand was fetched, while it may be used.
    pub fn age(&self, now: Now) -> Option<Duration> {
        let life = self.life.filter(|_| self.usable(now))?;
        let by_wall = now.wall.duration_since(life.obtained.wall);
        let by_mono = now.mono.duration_since(life.obtained.mono);
        // The monotonic clock stands still while a machine sleeps.
        Some(by_wall.unwrap_or_default().max(by_mono))
    }

    /// How long until the next fetch; zero while one is under way. `None` when nobody will have
    /// asked for so long by then that there will be none.
    pub fn next(&self, now: Now) -> Option<Duration> {
        if self.fetching {
            return Some(Duration::ZERO);
        }
        let wait = self.wanted(now)?.duration_since(now.wall);
        let wait = wait.unwrap_or_default();
        let last_use = self.last_use?;
        let unused = now.mono.saturating_duration_since(last_use) + wait;
        (unused < IDLE_AFTER).then_some(wait)
    }

    /// What the keeper does now. [`Step::Fetch`] counts as done: report how it went.
    pub fn step(&mut self, now: Now) -> Step {
        if self.fetching {
            return Step::Idle;
        }
        let Some(at) = self.wanted(now) else {
            return Step::Idle;
        };
        if at > now.wall {
            return Step::SleepUntil(at);
        }
        let wait = self.limiter.wait(now.mono);
        if !wait.is_zero() {
            return Step::SleepUntil(now.wall + wait);
        }
        self.limiter.take();
        self.fetching = true;
        Step::Fetch
    }

    /// A fetch brought a credential. Whatever is said of its end, it lives no longer than
    /// [`LONGEST_LIFE`]. `jitter` is in 0..1.
    pub fn fetched(&mut self, now: Now, expiry: impl Into<Expiry>, jitter: f64) {
        let life = match expiry.into() {
            Expiry::Unknown => LONGEST_LIFE,
            Expiry::At(end) => end.duration_since(now.wall).unwrap_or_default(),
            Expiry::After(life) => life,
        };
        let life = life.min(LONGEST_LIFE);
        let usable_for = life.saturating_sub(SKEW.min(life / 10));
        self.life = Some(Life {
            obtained: now,
            unusable: now.wall + usable_for,
            usable_for,
            refresh_after: life.mul_f64(REFRESH_AFTER + REFRESH_SPREAD * jitter),
        });
        self.fetching = false;
        self.demanded = false;
        self.failures = 0;
        self.pause = None;
    }

    /// A fetch failed. A credential that is still good goes on serving.
    pub fn failed(&mut self, now: Now, retry: Retry, jitter: f64) {
        let doubled = |first: Duration, most: Duration, failures: u32| {
            first.saturating_mul(1 << failures.min(16)).min(most)
        };
        let (demand, ahead) = match retry {
            Retry::Soon => {
                let pause = doubled(FIRST_PAUSE, LONGEST_PAUSE, self.failures)
                    .mul_f64(jitter)
                    .max(SHORTEST_PAUSE);
                (pause, pause)
            }
            Retry::Refused => (
                REFUSAL_KEPT,
                doubled(REFUSAL_PAUSE, LONGEST_REFUSAL_PAUSE, self.failures)
                    .mul_f64(1.0 - jitter / 2.0),
            ),
        };
        self.fetching = false;
        self.demanded = false;
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(Pause {
            demand: now.wall + demand,
            ahead: now.wall + ahead,
            since: now.wall,
        });
    }

    /// The other side refused the credential at hand.
    pub fn rejected(&mut self) {
        self.life = None;
    }

    /// Nobody will ask for it any more. Those who wait already are still served.
    pub fn forgotten(&mut self) {
        self.life = None;
        self.last_use = None;
    }

    /// When to fetch, the limiter apart; `None` while nobody needs it.
    fn wanted(&self, now: Now) -> Option<SystemTime> {
        let (wanted_at, paused_until) = if self.demanded && !self.usable(now) {
            (now.wall, self.pause(now).map(|pause| pause.demand))
        } else if self.in_use(now) {
            (
                self.refresh_at(now),
                self.pause(now).map(|pause| pause.ahead),
            )
        } else {
            return None;
        };
        Some(paused_until.map_or(wanted_at, |until| until.max(wanted_at)))
    }

    /// Whether a demand came within the last hour.
    fn in_use(&self, now: Now) -> bool {
        self.last_use
            .is_some_and(|last| now.mono.saturating_duration_since(last) < IDLE_AFTER)
    }

    /// When to replace what is at hand: when the first of the clocks says so. A wall clock set back
    /// behind the moment of fetching makes the expiry meaningless: at once, then.
    fn refresh_at(&self, now: Now) -> SystemTime {
        match self.life {
            Some(life) if self.usable(now) && now.wall >= life.obtained.wall => {
                let age = now.mono.duration_since(life.obtained.mono);
                let by_mono = now.wall + life.refresh_after.saturating_sub(age);
                by_mono.min(life.obtained.wall + life.refresh_after)
            }
            _ => now.wall,
        }
    }

    fn next_on_demand(&mut self, now: Now) -> SystemTime {
        let limited = now.wall + self.limiter.wait(now.mono);
        self.pause(now)
            .map_or(limited, |pause| pause.demand.max(limited))
    }

    fn pause(&self, now: Now) -> Option<Pause> {
        self.pause.filter(|pause| now.wall >= pause.since)
    }
}

/// A bucket of permissions to fetch, that outlives every credential.
#[derive(Debug)]
struct Limiter {
    tokens: f64,
    filled: Instant,
}

impl Limiter {
    fn wait(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.filled = self.filled.max(now);
        if self.tokens >= 1.0 {
            Duration::ZERO
        } else {
            // A little more than the arithmetic says, so that waking up finds a whole token.
            Duration::from_secs_f64((1.0 - self.tokens) / RATE) + Duration::from_millis(1)
        }
    }

    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Both clocks, moved by hand.
    #[derive(Clone, Copy)]
    struct Hands(Now);

    impl Hands {
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

    fn live(hands: Hands, life: Duration) -> Schedule {
        let mut schedule = Schedule::new(hands.0);
        schedule.expect(hands.0);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
        schedule.fetched(hands.0, Some(hands.0.wall + life), 0.5);
        schedule
    }

    #[test]
    fn a_string_of_fifteen_minutes_is_replaced_between_ten_and_a_half_and_twelve() {
        let mut hands = Hands::new();
        let start = hands.0.wall;
        for jitter in [0.0, 0.5, 0.999] {
            let mut schedule = live(hands, 15 * MINUTE);
            schedule.fetched(hands.0, Some(start + 15 * MINUTE), jitter);
            let Step::SleepUntil(at) = schedule.step(hands.0) else {
                panic!("it has to wait");
            };
            let after = at.duration_since(start).unwrap();
            assert!(
                after >= MINUTE * 21 / 2 && after <= 12 * MINUTE,
                "{after:?}"
            );
        }
        let mut schedule = live(hands, 15 * MINUTE);
        hands.pass(12 * MINUTE);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
        assert_eq!(
            schedule.demand(hands.0),
            Demand::Use,
            "meanwhile the old one serves"
        );
    }

    #[test]
    fn what_is_shown_of_it_is_what_will_happen() {
        let mut hands = Hands::new();
        let mut schedule = Schedule::new(hands.0);
        assert_eq!(
            (schedule.age(hands.0), schedule.next(hands.0)),
            (None, None)
        );
        schedule.expect(hands.0);
        assert_eq!(schedule.next(hands.0), Some(Duration::ZERO));
        schedule = live(hands, 15 * MINUTE);
        hands.pass(MINUTE);
        assert_eq!(schedule.age(hands.0), Some(MINUTE));
        let next = schedule.next(hands.0).unwrap();
        assert_eq!(next, (15 * MINUTE).mul_f64(0.75) - MINUTE);
        hands.pass(next);
        assert_eq!(schedule.next(hands.0), Some(Duration::ZERO));
        assert_eq!(schedule.step(hands.0), Step::Fetch);
        schedule.failed(hands.0, Retry::Refused, 0.0);
        assert_eq!(schedule.next(hands.0), Some(REFUSAL_PAUSE));
        hands.pass(4 * MINUTE);
        assert_eq!(schedule.age(hands.0), None, "its life is over");
        // Nobody asks any more: the refresh that falls behind the idle hour is none.
        let mut hands = Hands::new();
        let mut schedule = live(hands, 60 * MINUTE);
        assert!(schedule.next(hands.0).is_some());
        hands.pass(20 * MINUTE);
        schedule.fetched(hands.0, Some(hands.0.wall + 60 * MINUTE), 0.5);
        assert_eq!(schedule.next(hands.0), None);
        schedule.demand(hands.0);
        assert!(schedule.next(hands.0).is_some());
    }

    #[test]
    fn a_failed_refresh_leaves_the_live_one_serving() {
        let mut hands = Hands::new();
        let mut schedule = live(hands, 15 * MINUTE);
        hands.pass(12 * MINUTE);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
        schedule.failed(hands.0, Retry::Refused, 0.5);
        assert_eq!(schedule.demand(hands.0), Demand::Use);
        hands.pass(3 * MINUTE);
        assert_ne!(
            schedule.demand(hands.0),
            Demand::Use,
            "but not beyond its life"
        );
    }

    #[test]
    fn nothing_is_used_beyond_an_hour_or_without_a_margin() {
        let mut hands = Hands::new();
        let schedule = live(hands, 24 * 60 * MINUTE);
        hands.pass(60 * MINUTE - SKEW);
        assert!(!schedule.usable(hands.0));
        let mut hands = Hands::new();
        let schedule = live(hands, Duration::from_secs(10));
        hands.pass(Duration::from_millis(8_999));
        assert!(schedule.usable(hands.0));
        hands.pass(Duration::from_millis(1));
        assert!(
            !schedule.usable(hands.0),
            "a tenth of a short life is margin"
        );
    }

    #[test]
    fn a_life_that_is_counted_from_the_fetch_needs_no_clock() {
        let mut hands = Hands::new();
        let mut schedule = Schedule::new(hands.0);
        schedule.expect(hands.0);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
        schedule.fetched(hands.0, Expiry::After(15 * MINUTE), 0.5);
        assert_eq!(schedule.left(hands.0), Some(15 * MINUTE - SKEW));
        hands.pass(15 * MINUTE - SKEW);
        assert!(!schedule.usable(hands.0));
        // Whoever says so.
        schedule.fetched(hands.0, Expiry::After(600 * MINUTE), 0.5);
        hands.pass(60 * MINUTE - SKEW);
        assert!(!schedule.usable(hands.0));
    }

    #[test]
    fn a_machine_that_slept_wakes_up_with_an_expired_string() {
        let mut hands = Hands::new();
        let schedule = live(hands, 15 * MINUTE);
        hands.0.wall += 20 * MINUTE;
        assert!(!schedule.usable(hands.0));
    }

    #[test]
    fn a_clock_set_back_makes_nothing_live_longer() {
        let mut hands = Hands::new();
        let mut schedule = live(hands, 15 * MINUTE);
        hands.0.wall -= 60 * MINUTE;
        assert_eq!(
            schedule.step(hands.0),
            Step::Fetch,
            "its expiry means nothing now"
        );
        let mut hands = Hands::new();
        let schedule = live(hands, 15 * MINUTE);
        hands.pass(10 * MINUTE);
        hands.0.wall -= 5 * MINUTE;
        hands.pass(5 * MINUTE);
        assert!(!schedule.usable(hands.0));
    }

    #[test]
    fn an_idle_hour_ends_the_refreshes_and_a_demand_starts_them_again() {
        let mut hands = Hands::new();
        let mut schedule = live(hands, 15 * MINUTE);
        let mut fetches = 0;
        for _ in 0..600 {
            hands.pass(MINUTE / 2);
            if schedule.step(hands.0) == Step::Fetch {
                fetches += 1;
                schedule.fetched(hands.0, Some(hands.0.wall + 15 * MINUTE), 0.5);
            }
        }
        assert!(
            (4..=6).contains(&fetches),
            "{fetches} in an hour, then none"
        );
        assert_eq!(schedule.step(hands.0), Step::Idle);
        assert_eq!(schedule.demand(hands.0), Demand::Wait);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
    }

    #[test]
    fn a_refusal_is_kept_for_a_moment_and_then_asked_again() {
        let mut hands = Hands::new();
        let mut schedule = Schedule::new(hands.0);
        assert_eq!(schedule.demand(hands.0), Demand::Wait);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
        schedule.failed(hands.0, Retry::Refused, 0.5);
        assert!(matches!(schedule.demand(hands.0), Demand::Refuse(_)));
        hands.pass(REFUSAL_KEPT);
        assert_eq!(schedule.demand(hands.0), Demand::Wait);
        assert_eq!(schedule.step(hands.0), Step::Fetch);
    }

    #[test]
    fn rejected_logins_cannot_make_a_storm() {
        let mut hands = Hands::new();
        let mut schedule = Schedule::new(hands.0);
        let mut fetches = 0;
        for _ in 0..6_000 {
            if schedule.demand(hands.0) == Demand::Use {
                schedule.rejected();
                schedule.demand(hands.0);
            }
            if schedule.step(hands.0) == Step::Fetch {
                fetches += 1;
                schedule.fetched(hands.0, Some(hands.0.wall + 15 * MINUTE), 0.5);
            }
            hands.pass(Duration::from_millis(10));
        }
        assert!(fetches <= 12, "{fetches} fetches in a minute of rejections");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Pass(u64),
        WallJump(i64),
        Demand,
        Rejected,
        Outcome(u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..1_200u64).prop_map(Event::Pass),
            (-4_000..4_000i64).prop_map(Event::WallJump),
            Just(Event::Demand),
            Just(Event::Rejected),
            any::<u8>().prop_map(Event::Outcome),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: an expired credential is never used, one fetch is
        /// under way at a time, and no more than the limiter allows are made.
        #[test]
        fn holds_in_any_order_of_events(events in prop::collection::vec(event(), 1..300)) {
            let mut hands = Hands::new();
            let (wall_start, mono_start) = (hands.0.wall, hands.0.mono);
            let mut schedule = Schedule::new(hands.0);
            let mut fetching = false;
            let mut fetches = 0u32;
            let mut expiry: Option<(SystemTime, Instant)> = None;
            for event in events {
                match event {
                    Event::Pass(seconds) => hands.pass(Duration::from_secs(seconds)),
                    Event::WallJump(seconds) => {
                        let shift = Duration::from_secs(seconds.unsigned_abs());
                        if seconds < 0 {
                            hands.0.wall = (hands.0.wall - shift).max(wall_start - 60 * MINUTE);
                        } else {
                            hands.0.wall += shift;
                        }
                    }
                    Event::Demand => {
                        if schedule.demand(hands.0) == Demand::Use {
                            let (wall, mono) = expiry.expect("used what was never fetched");
                            prop_assert!(hands.0.wall < wall && hands.0.mono < mono);
                        }
                    }
                    Event::Rejected => {
                        schedule.rejected();
                        expiry = None;
                    }
                    Event::Outcome(kind) if fetching => {
                        fetching = false;
                        let jitter = f64::from(kind) / 256.0;
                        match kind % 4 {
                            0 => schedule.failed(hands.0, Retry::Soon, jitter),
                            1 => schedule.failed(hands.0, Retry::Refused, jitter),
                            _ => {
                                let life = Duration::from_secs(u64::from(kind) * 20);
                                schedule.fetched(hands.0, Some(hands.0.wall + life), jitter);
                                expiry = Some((hands.0.wall + life, hands.0.mono + life));
                            }
                        }
                    }
                    Event::Outcome(_) => {}
                }
                match schedule.step(hands.0) {
                    Step::Fetch => {
                        prop_assert!(!fetching, "two fetches at once");
                        fetching = true;
                        fetches += 1;
                    }
                    Step::SleepUntil(at) => prop_assert!(at > hands.0.wall, "a sleep that is over"),
                    Step::Idle => {}
                }
            }
            let seconds = hands.0.mono.duration_since(mono_start).as_secs_f64();
            prop_assert!(f64::from(fetches) <= BURST + RATE * seconds + 1.0);
        }
    }
}
