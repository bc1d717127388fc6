//! Lists from FinSpace, each asked for once at a time and kept for a while: a loop in q can't wear
//! out the API's rate, which all of an account share.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::credential::{FetchError, Retry};
use crate::route::nodes::Discover;
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{Cluster, Node};

/// How long an answer serves, a failure too.
const KEPT: Duration = Duration::from_secs(10);
/// Different lists that are kept at a time, and so asked for within [`KEPT`].
const MOST: usize = 50;

/// A list, or why there is none.
pub type Listed<T> = Result<Arc<[T]>, Arc<FetchError>>;

/// The lists of every environment.
pub struct Lists {
    source: Arc<dyn Discover>,
    clusters: Cache<Arc<Environment>, Cluster>,
    nodes: Cache<(Arc<Environment>, String), Node>,
}

struct Cache<K, T>(Mutex<HashMap<K, Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    asked: Instant,
    seen: watch::Receiver<Option<Listed<T>>>,
}

impl Lists {
    /// Nothing is asked for yet.
    pub fn new(source: Arc<dyn Discover>) -> Self {
        Self {
            source,
            clusters: Cache::default(),
            nodes: Cache::default(),
        }
    }

    /// The clusters of an environment. Cancel-safe.
    pub async fn clusters(&self, environment: &Arc<Environment>) -> Listed<Cluster> {
        let (source, environment) = (Arc::clone(&self.source), Arc::clone(environment));
        let key = Arc::clone(&environment);
        let list = async move { source.clusters(&environment).await };
        self.clusters.list(key, list).await
    }

    /// The nodes of a cluster. Cancel-safe.
    pub async fn nodes(&self, environment: &Arc<Environment>, cluster: &str) -> Listed<Node> {
        let (source, environment) = (Arc::clone(&self.source), Arc::clone(environment));
        let cluster = cluster.to_owned();
        let key = (Arc::clone(&environment), cluster.clone());
        let list = async move { source.nodes(&environment, &cluster).await };
        self.nodes.list(key, list).await
    }
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lists")
    }
}

impl<K, T> Default for Cache<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Send + Sync + 'static> Cache<K, T> {
    /// What is kept for `key`, else what `list` brings.
    async fn list<F>(&self, key: K, list: F) -> Listed<T>
    where
        F: Future<Output = Result<Vec<T>, FetchError>> + Send + 'static,
    {
        let mut seen = self.ask(key, list)?;
        let listed = match seen.wait_for(Option::is_some).await {
            Ok(listed) => listed.clone(),
            Err(_) => None,
        };
        listed.unwrap_or_else(|| {
            Err(failure(
                "the list could not be made".into(),
                "ask again, and report it if it lasts",
            ))
        })
    }

    fn ask<F>(&self, key: K, list: F) -> Result<watch::Receiver<Option<Listed<T>>>, Arc<FetchError>>
    where
        F: Future<Output = Result<Vec<T>, FetchError>> + Send + 'static,
    {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.serves());
        if let Some(entry) = entries.get(&key) {
            return Ok(entry.seen.clone());
        }
        if entries.len() >= MOST {
            return Err(failure(
                format!("{MOST} lists were asked for within {} s", KEPT.as_secs()),
                "ask for fewer, or later",
            ));
        }
        let (sender, seen) = watch::channel(None);
        // On its own: whoever asks goes away when they like, and the answer serves others. It ends
        // with the API's own time limits.
        tokio::spawn(async move {
            let listed = list.await.map(Arc::from).map_err(Arc::new);
            if let Err(error) = &listed {
                // Once for each call: a session may ask for the list as often as it likes.
                tracing::warn!("console: {error}");
            }
            sender.send_replace(Some(listed));
        });
        let entry = Entry {
            asked: Instant::now(),
            seen: seen.clone(),
        };
        entries.insert(key, entry);
        Ok(seen)
    }
}

impl<T> Entry<T> {
    /// Whether it is young enough, or still being asked for.
    fn serves(&self) -> bool {
        if self.seen.borrow().is_some() {
            self.asked.elapsed() < KEPT
        } else {
            self.seen.has_changed().is_ok()
        }
    }
}

fn failure(message: String, remedy: &str) -> Arc<FetchError> {
    Arc::new(FetchError {
        kind: ErrorKind::Internal,
        retry: Retry::Soon,
        message,
        remedy: remedy.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts what it is asked.
    #[derive(Default)]
    struct Counted {
        cache: Cache<String, usize>,
        asked: Arc<AtomicUsize>,
    }

    impl Counted {
        async fn list(&self, key: &str, takes: Duration) -> Listed<usize> {
            let asked = Arc::clone(&self.asked);
            let list = async move {
                let nth = asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(takes).await;
                match nth {
                    // The first of a list fails.
                    100 => Err(FetchError::clone(&failure("denied".into(), "allow it"))),
                    nth => Ok(vec![nth]),
                }
            };
            self.cache.list(key.to_owned(), list).await
        }

        async fn quick(&self, key: &str) -> Listed<usize> {
            self.list(key, Duration::from_millis(50)).await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_make_one_call_and_it_serves_for_a_while() {
        let lists = Counted::default();
        let all = futures_util::future::join_all((0..1_000).map(|_| lists.quick("a"))).await;
        assert!(all.iter().all(|listed| listed.as_deref() == Ok(&[0])));
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(lists.quick("a").await.as_deref(), Ok(&[0][..]));
        assert_eq!(lists.quick("b").await.as_deref(), Ok(&[1][..]));
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(lists.quick("a").await.as_deref(), Ok(&[2][..]));
        assert_eq!(lists.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_the_call_to_the_next() {
        let lists = Counted::default();
        for _ in 0..100 {
            let limit = Duration::from_millis(1);
            let listed = tokio::time::timeout(limit, lists.list("a", 2 * KEPT)).await;
            assert!(listed.is_err(), "it takes longer");
        }
        assert_eq!(lists.list("a", KEPT).await.as_deref(), Ok(&[0][..]));
        assert_eq!(lists.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_serves_as_long() {
        let lists = Counted::default();
        lists.asked.store(100, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(lists.quick("a").await.unwrap_err().message, "denied");
        }
        tokio::time::advance(KEPT).await;
        assert_eq!(lists.quick("a").await.as_deref(), Ok(&[101][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn different_lists_are_bounded_in_number() {
        let lists = Counted::default();
        for nth in 0..MOST {
            assert!(lists.quick(&nth.to_string()).await.is_ok());
        }
        let error = lists.quick("one more").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "50 lists were asked for within 10 s. Fix: ask for fewer, or later."
        );
        assert!(lists.quick("0").await.is_ok(), "that is kept");
        tokio::time::advance(KEPT).await;
        assert!(lists.quick("one more").await.is_ok());
        assert_eq!(lists.asked(), MOST + 1);
    }

    #[tokio::test]
    async fn a_call_that_dies_is_made_again() {
        let cache = Cache::<&str, usize>::default();
        let dies = async { panic!("on purpose") };
        let error = cache.list("a", dies).await.unwrap_err();
        assert!(error.message.contains("could not be made"), "{error}");
        let again = cache.list("a", async { Ok(vec![1]) }).await;
        assert_eq!(again.as_deref(), Ok(&[1][..]));
    }
}
