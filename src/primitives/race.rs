//! A race of overlapping attempts to reach the same goal. Each attempt has a head start on the next
//! one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The attempts in progress.
#[derive(Debug)]
pub(crate) struct Race<F> {
    attempts: FuturesUnordered<F>,
    late: Late,
}

/// An event in a race.
#[derive(Debug)]
pub(crate) enum RaceEvent<T> {
    /// An attempt has ended.
    Ended(T),
    /// The head start of an attempt is over, so the next one may begin.
    Late,
}

/// Signals to the race that the head start of an attempt is over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Late(Arc<Notify>);

impl Late {
    /// Awaits `work`. If `work` takes longer than `head_start`, calls `on_late` and signals
    /// [`RaceEvent::Late`].
    pub(crate) async fn after<W: Future>(
        &self,
        head_start: Duration,
        work: W,
        on_late: impl FnOnce(),
    ) -> W::Output {
        let mut work = std::pin::pin!(work);
        if let Ok(done) = timeout(head_start, &mut work).await {
            return done;
        }
        on_late();
        self.0.notify_one();
        work.await
    }
}

impl<F: Future> Race<F> {
    /// A race without attempts.
    pub(crate) fn new() -> Self {
        Self {
            attempts: FuturesUnordered::new(),
            late: Late::default(),
        }
    }

    /// The signal that the attempts of this race use.
    pub(crate) fn late(&self) -> Late {
        self.late.clone()
    }

    /// Adds an attempt. The attempt makes progress only while [`Self::next`] is awaited.
    pub(crate) fn begin(&self, attempt: F) {
        self.attempts.push(attempt);
    }

    /// The next event. `None` if no attempt is in progress. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<RaceEvent<F::Output>> {
        tokio::select! {
            biased;
            ended = self.attempts.next() => ended.map(RaceEvent::Ended),
            () = self.late.0.notified() => Some(RaceEvent::Late),
        }
    }
}

impl<F: Future + Unpin> Race<F> {
    /// The attempts that are still in progress.
    pub(crate) fn under_way(self) -> impl Iterator<Item = F> {
        self.attempts.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attempt(late: &Late, takes: Duration) -> BoxFuture<'static, Duration> {
        let late = late.clone();
        async move {
            late.after(SECOND, sleep(takes), || {})
                .map(|()| takes)
                .await
        }
        .boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_begins_after_the_head_start_and_the_slow_one_is_still_under_way() {
        let mut race = Race::new();
        race.begin(attempt(&race.late(), 60 * SECOND));
        assert!(matches!(race.next().await, Some(RaceEvent::Late)));
        race.begin(attempt(&race.late(), SECOND / 2));
        let Some(RaceEvent::Ended(takes)) = race.next().await else {
            panic!("nothing ended");
        };
        assert_eq!(takes, SECOND / 2);
        let left: Vec<_> = race.under_way().collect();
        assert_eq!(left.len(), 1);
        for one in left {
            assert_eq!(one.await, 60 * SECOND);
        }
        assert!(Race::<BoxFuture<'static, ()>>::new().next().await.is_none());
    }
}
