//! The watchdog of the service manager. The daemon feeds the watchdog only while all its event loops
//! run, so that the service manager restarts a daemon that hangs.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Calls `turn` again and again, and feeds the watchdog each time its future ends. Waits for ever if
/// the unit has no watchdog. Await this in the task that must not hang.
pub(crate) async fn feed<F: Future<Output = ()>>(turn: impl Fn() -> F) -> Infallible {
    match sd_notify::watchdog_enabled() {
        Some(limit) => watch(limit, turn, || super::notify(&[NotifyState::Watchdog])).await,
        None => pending().await,
    }
}

/// Starts a turn every third of `limit`. A turn that takes longer than a third is logged, and feeds the
/// watchdog only when it ends. So a turn that takes up to two thirds of `limit` does not make the
/// service manager kill the daemon.
async fn watch<F: Future<Output = ()>>(
    limit: Duration,
    turn: impl Fn() -> F,
    fed: impl Fn(),
) -> Infallible {
    let third = limit / 3;
    let mut ticks = interval(third.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let turned = turn();
        tokio::pin!(turned);
        if timeout(third, &mut turned).await.is_err() {
            tracing::error!(
                "a loop has not turned for {} ms: the watchdog gets nothing until it does",
                third.as_millis()
            );
            turned.await;
            tracing::warn!("all loops turn again");
        }
        fed();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Semaphore;
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn it_is_fed_well_within_the_limit_and_only_while_the_loops_turn() {
        let (fed, turns) = (Cell::new(0), Semaphore::new(10));
        let turn = async || turns.acquire().await.unwrap().forget();
        let story = async {
            sleep(10 * LIMIT).await;
            assert_eq!(fed.get(), 10, "after these the loop hangs");
            turns.add_permits(1_000);
            sleep(LIMIT).await;
            assert!(fed.get() > 12, "{}", fed.get());
        };
        tokio::select! {
            never = watch(LIMIT, turn, || fed.set(fed.get() + 1)) => match never {},
            () = story => {}
        }
    }
}
