//! Looks at the whole daemon, one at a time: each reads through `/proc`, on a thread that password
//! checks and name look-ups need as well. Those who ask while somebody looks share the next one, so
//! that nobody waits for longer than two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};

/// Where looks are shared.
#[derive(Debug)]
pub struct Looks<T> {
    /// How many have begun.
    begun: AtomicU64,
    /// Who waits for one.
    waiting: AtomicUsize,
    /// The last one, as long as somebody waits. Held by whoever looks.
    last: Arc<Mutex<Option<Look<T>>>>,
}

#[derive(Debug)]
struct Look<T> {
    number: u64,
    seen: Arc<T>,
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            last: Arc::default(),
        }
    }
}

impl<T: Send + Sync + 'static> Looks<T> {
    /// What a look saw that has begun after this was called: that of another caller, or `look`'s, run
    /// on a blocking thread. Whoever goes away meanwhile makes no room for another.
    ///
    /// # Errors
    /// `look` panicked.
    pub async fn take(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Arc<T>, JoinError> {
        let before = self.begun.load(Ordering::SeqCst);
        let _waits = Waits::with(self);
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some(look) = &*last
            && look.number > before
        {
            return Ok(Arc::clone(&look.seen));
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        spawn_blocking(move || {
            let seen = Arc::new(look());
            *last = Some(Look {
                number,
                seen: Arc::clone(&seen),
            });
            seen
        })
        .await
    }
}

/// Somebody who waits. The last one to go forgets what was seen.
struct Waits<'a, T>(&'a Looks<T>);

impl<'a, T> Waits<'a, T> {
    fn with(looks: &'a Looks<T>) -> Self {
        looks.waiting.fetch_add(1, Ordering::SeqCst);
        Self(looks)
    }
}

impl<T> Drop for Waits<'_, T> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1
            && let Ok(mut last) = self.0.last.try_lock()
        {
            *last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    /// A look that lasts until something is sent.
    fn held() -> (mpsc::Sender<()>, impl FnOnce() -> u64 + Send) {
        let (end, wait) = mpsc::channel();
        let look = move || {
            wait.recv().unwrap();
            0
        };
        (end, look)
    }

    #[tokio::test]
    async fn who_asks_while_somebody_looks_gets_the_next_look_with_all_others() {
        let looks = Looks::default();
        let looked = Arc::new(AtomicU64::new(0));
        let (end, held) = held();
        let mut first = std::pin::pin!(looks.take(held));
        assert!(futures_util::poll!(&mut first).is_pending());
        let others = (0..50).map(|_| {
            let looked = Arc::clone(&looked);
            looks.take(move || looked.fetch_add(1, Ordering::SeqCst) + 1)
        });
        let mut others = std::pin::pin!(join_all(others));
        assert!(futures_util::poll!(&mut others).is_pending());
        end.send(()).unwrap();
        assert_eq!(*first.await.unwrap(), 0);
        let seen = others.await;
        assert!(seen.into_iter().all(|seen| *seen.unwrap() == 1));
        assert_eq!(looked.load(Ordering::SeqCst), 1);
        // Nobody waits any more: nothing is kept, and the next one looks anew.
        assert!(looks.last.lock().await.is_none());
        assert_eq!(*looks.take(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn who_goes_away_makes_no_room() {
        let looks = Looks::default();
        let (end, held) = held();
        assert!(futures_util::poll!(std::pin::pin!(looks.take(held))).is_pending());
        let mut further = std::pin::pin!(looks.take(|| 1));
        assert!(futures_util::poll!(&mut further).is_pending());
        assert_eq!(looks.begun.load(Ordering::SeqCst), 1);
        end.send(()).unwrap();
        assert_eq!(*further.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_look_that_panics_is_none_for_others() {
        let looks = Looks::default();
        let panicked = looks.take(|| -> u64 { panic!("on purpose") }).await;
        assert!(panicked.is_err());
        assert_eq!(*looks.take(|| 1).await.unwrap(), 1);
    }
}
