//! Looks at the whole daemon, few at a time: each reads through `/proc`, on a thread that password
//! checks and name look-ups need as well.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// Looks at a time; a further one waits.
const AT_A_TIME: usize = 2;

/// Where looks wait for their turn.
#[derive(Debug)]
pub struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Looks {
    /// Runs `look` on a blocking thread. Whoever goes away meanwhile makes no room for another.
    ///
    /// # Errors
    /// `look` panicked.
    pub async fn take<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Nobody closes the semaphore.
        let place = Arc::clone(&self.0).acquire_owned().await;
        spawn_blocking(move || {
            let _place = place;
            look()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_who_look_at_once_hold_few_threads() {
        let looks = Looks::default();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = (0..50).map(|nth| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            looks.take(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                nth
            })
        });
        let seen = futures_util::future::join_all(all).await;
        assert!(seen.into_iter().map(Result::unwrap).eq(0..50));
        assert!(most.load(Ordering::SeqCst) <= AT_A_TIME);
    }

    #[tokio::test]
    async fn who_goes_away_makes_no_room() {
        let looks = Looks::default();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..AT_A_TIME {
            let wait = Arc::clone(&wait);
            let look = looks.take(move || drop(wait.lock().map(|wait| wait.recv())));
            assert!(futures_util::poll!(std::pin::pin!(look)).is_pending());
        }
        let mut further = std::pin::pin!(looks.take(|| ()));
        assert!(futures_util::poll!(&mut further).is_pending());
        assert_eq!(looks.0.available_permits(), 0);
        drop(done);
        further.await.unwrap();
    }
}
