//! Decides when to fetch a credential, when to use it, and when to pause after failures. The schedule
//! does no I/O and reads no clock: `now` and `jitter` are arguments.

use std::time::{Duration, Instant, SystemTime};

use crate::primitives::backoff::Backoff;

/// The longest life of a credential after the fetch, even if its expiry is later. The FinSpace guide
/// states this validity for connection strings.
const LONGEST_LIFE: Duration = Duration::from_secs(60 * 60);
/// The share of its life after which a credential is refreshed. Jitter adds up to [`REFRESH_SPREAD`].
const REFRESH_AFTER: f64 = 0.70;
/// The jitter of a refresh, as a share of the life.
const REFRESH_SPREAD: f64 = 0.10;
/// The margin at the end of a credential's life in which no session uses it, because clocks may
/// disagree. The margin is at most a tenth of the life.
const SKEW: Duration = Duration::from_secs(30);
/// The time without a demand after which a credential is not refreshed any more.
const IDLE_AFTER: Duration = Duration::from_secs(60 * 60);
/// The pauses after temporary failures. Each pause is multiplied by a jitter from 0 to 1.
const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The shortest pause after jitter.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The time after a refusal in which every demand gets that refusal again.
const REFUSAL_KEPT: Duration = Duration::from_secs(10);
/// The first pause after a refusal, before a fetch for which no session waits.
const REFUSAL_PAUSE: Duration = Duration::from_secs(30);
/// The pauses after refusals, before a fetch for which no session waits.
const REFUSAL_BACKOFF: Backoff = Backoff::new(REFUSAL_PAUSE, Duration::from_secs(300));
/// The longest time to the next attempt for which a demand waits.
const WORTH_WAITING: Duration = Duration::from_secs(2);
/// The number of fetches that may follow each other without a pause.
const BURST: f64 = 5.0;
/// The fetches a second after the burst.
const RATE: f64 = 0.1;

/// The time by two clocks. Expiries use the wall clock, which may jump. The monotonic clock only runs
/// forward, but may stand still while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: SystemTime,
    /// The monotonic clock.
    pub mono: Instant,
}

/// When a credential expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The credential does not state its expiry.
    Unknown,
    /// At this time of this host's wall clock.
    At(SystemTime),
    /// At this time after the fetch, whatever this host's wall clock shows.
    After(Duration),
}

impl From<Option<SystemTime>> for Expiry {
    fn from(end: Option<SystemTime>) -> Self {
        end.map_or(Self::Unknown, Self::At)
    }
}

/// Whether another attempt may help after a failed fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Another attempt may help, because the source was throttled, slow, broken or out of reach.
    Soon,
    /// Only a change elsewhere helps, because the request is forbidden or malformed, or names something
    /// that does not exist.
    Refused,
}

/// The next action of a credential's keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeeperStep {
    /// Fetch the credential.
    Fetch,
    /// Ask the schedule again at this time of the wall clock, or when woken.
    SleepUntil(SystemTime),
    /// Wait until woken, because nobody needs the credential or a fetch is under way.
    Idle,
}

/// The next action of a session that needs the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// The session uses the cached credential.
    Use,
    /// The session waits, because a fetch is under way or follows within two seconds.
    Wait,
    /// The session gets the last failure as the answer. The next attempt is at this time.
    Refuse(SystemTime),
}

/// The life of the cached credential.
#[derive(Debug, Clone, Copy)]
struct CredentialLife {
    /// When the credential was fetched.
    obtained: Now,
    /// The end of its use, by the wall clock.
    unusable: SystemTime,
    /// The time from the fetch to the end of its use.
    usable_for: Duration,
    /// The time from the fetch to the refresh.
    refresh_after: Duration,
}

/// The pause after a failed fetch.
#[derive(Debug, Clone, Copy)]
struct RetryPause {
    /// The end of the pause for a fetch for which a session waits.
    demand: SystemTime,
    /// The end of the pause for a fetch for which no session waits.
    ahead: SystemTime,
    /// The start of the pause. If the wall clock is set back before this time, the pause ends.
    since: SystemTime,
}

/// The schedule of one credential.
#[derive(Debug)]
pub(super) struct Schedule {
    life: Option<CredentialLife>,
    /// Whether a fetch is under way.
    fetching: bool,
    /// Whether a session waits.
    demanded: bool,
    /// The failures since the last success.
    failures: u32,
    pause: Option<RetryPause>,
    /// The time of the last demand, by the monotonic clock.
    last_use: Option<Instant>,
    limiter: FetchLimiter,
}

impl Schedule {
    /// A schedule before the first fetch and the first demand.
    pub(super) fn new(now: Now) -> Self {
        Self {
            life: None,
            fetching: false,
            demanded: false,
            failures: 0,
            pause: None,
            last_use: None,
            limiter: FetchLimiter {
                tokens: BURST,
                filled: now.mono,
            },
        }
    }

    /// Asks for a fetch ahead of the first demand.
    pub(super) fn expect(&mut self, now: Now) {
        self.last_use = Some(now.mono);
    }

    /// Decides the next action of a session that needs the credential now.
    pub(super) fn demand(&mut self, now: Now) -> Demand {
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

    /// Whether the cached credential can be used.
    pub(super) fn usable(&self, now: Now) -> bool {
        self.life.is_some_and(|life| {
            now.wall < life.unusable
                && now.mono.duration_since(life.obtained.mono) < life.usable_for
        })
    }

    /// How long the cached credential can still be used. `None` if it cannot be used.
    pub(super) fn left(&self, now: Now) -> Option<Duration> {
        let life = self.life.filter(|_| self.usable(now))?;
        life.unusable.duration_since(now.wall).ok()
    }

    /// The time since the cached credential was fetched. `None` if it cannot be used.
    pub(super) fn age(&self, now: Now) -> Option<Duration> {
        let life = self.life.filter(|_| self.usable(now))?;
        let by_wall = now.wall.duration_since(life.obtained.wall);
        let by_mono = now.mono.duration_since(life.obtained.mono);
        // The monotonic clock stands still while a machine sleeps.
        Some(by_wall.unwrap_or_default().max(by_mono))
    }

    /// The time until the next fetch. Zero while a fetch is under way. `None` if no fetch will follow
    /// without a new demand, because the credential will be idle by then.
    pub(super) fn next(&self, now: Now) -> Option<Duration> {
        if self.fetching {
            return Some(Duration::ZERO);
        }
        let wait = self.wanted(now)?.duration_since(now.wall);
        let wait = wait.unwrap_or_default();
        let last_use = self.last_use?;
        let unused = now.mono.saturating_duration_since(last_use) + wait;
        (unused < IDLE_AFTER).then_some(wait)
    }

    /// Decides the next action of the keeper. After [`KeeperStep::Fetch`], the schedule assumes that
    /// the fetch is under way until the keeper calls [`Self::fetched`] or [`Self::failed`].
    pub(super) fn step(&mut self, now: Now) -> KeeperStep {
        if self.fetching {
            return KeeperStep::Idle;
        }
        let Some(at) = self.wanted(now) else {
            return KeeperStep::Idle;
        };
        if at > now.wall {
            return KeeperStep::SleepUntil(at);
        }
        let wait = self.limiter.wait(now.mono);
        if !wait.is_zero() {
            return KeeperStep::SleepUntil(now.wall + wait);
        }
        self.limiter.take();
        self.fetching = true;
        KeeperStep::Fetch
    }

    /// Records a fetch that succeeded. The credential lives at most [`LONGEST_LIFE`]. `jitter` is in 0..1.
    pub(super) fn fetched(&mut self, now: Now, expiry: impl Into<Expiry>, jitter: f64) {
        let life = match expiry.into() {
            Expiry::Unknown => LONGEST_LIFE,
            Expiry::At(end) => end.duration_since(now.wall).unwrap_or_default(),
            Expiry::After(life) => life,
        };
        let life = life.min(LONGEST_LIFE);
        let usable_for = life.saturating_sub(SKEW.min(life / 10));
        self.life = Some(CredentialLife {
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

    /// Records a fetch that failed. The cached credential stays usable. `jitter` is in 0..1.
    pub(super) fn failed(&mut self, now: Now, retry: Retry, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        let (demand, ahead) = match retry {
            Retry::Soon => {
                let pause = FAILURE_BACKOFF
                    .pause_after(self.failures)
                    .mul_f64(jitter)
                    .max(SHORTEST_PAUSE);
                (pause, pause)
            }
            Retry::Refused => (
                REFUSAL_KEPT,
                REFUSAL_BACKOFF
                    .pause_after(self.failures)
                    .mul_f64(1.0 - jitter / 2.0),
            ),
        };
        self.fetching = false;
        self.demanded = false;
        self.pause = Some(RetryPause {
            demand: now.wall + demand,
            ahead: now.wall + ahead,
            since: now.wall,
        });
    }

    /// Records that kdb+ refused the cached credential.
    pub(super) fn rejected(&mut self) {
        self.life = None;
    }

    /// Records that nobody needs the credential any more. Sessions that wait already still get the
    /// credential.
    pub(super) fn forgotten(&mut self) {
        self.life = None;
        self.last_use = None;
    }

    /// When to fetch, apart from the limiter. `None` if nobody needs the credential.
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

    /// Whether the last demand was less than [`IDLE_AFTER`] ago.
    fn in_use(&self, now: Now) -> bool {
        self.last_use
            .is_some_and(|last| now.mono.saturating_duration_since(last) < IDLE_AFTER)
    }

    /// When to refresh the cached credential: the earlier of the times by the two clocks. If the wall
    /// clock was set back to before the fetch, the refresh is due now, because the expiry then means
    /// nothing.
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

    fn pause(&self, now: Now) -> Option<RetryPause> {
        self.pause.filter(|pause| now.wall >= pause.since)
    }
}

/// A token bucket that limits the fetches of one recipe: [`BURST`] tokens, refilled at [`RATE`].
#[derive(Debug)]
struct FetchLimiter {
    tokens: f64,
    filled: Instant,
}

impl FetchLimiter {
    /// The time until the bucket holds a token.
    fn wait(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.filled = self.filled.max(now);
        if self.tokens >= 1.0 {
            Duration::ZERO
        } else {
            // The extra millisecond ensures that rounding never leaves less than a token at that time.
            Duration::from_secs_f64((1.0 - self.tokens) / RATE) + Duration::from_millis(1)
        }
    }

    /// Takes a token. The bucket must hold one.
    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
