//! A cache of FinSpace's lists of clusters and nodes.
//!
//! All callers of an AWS account share the API's rate. The cache makes one call for all requests of the
//! same list, and keeps the answer for ten seconds. So a loop in q cannot use up the rate.

use base::mutex::locked;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::credential::Discover;
use crate::credential::{FetchError, Retry};
use base::error::ErrorKind;
use finspace::environment::Environment;
use finspace::{Cluster, Node};

/// How long the cache keeps an answer, or a failure.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most lists that the cache keeps, and so the most that hopend calls FinSpace for within [`LIFETIME`].
const MAX_LISTS: usize = 50;

/// A list, or the reason why FinSpace gave no list.
pub type ListResult<T> = Result<Arc<[T]>, Arc<FetchError>>;

/// The cached lists of clusters and nodes, of all environments.
pub struct DiscoveryCache {
    source: Arc<dyn Discover>,
    clusters: ListCache<Arc<Environment>, Cluster>,
    /// By environment and name of the cluster.
    nodes: ListCache<(Arc<Environment>, String), Node>,
}

impl DiscoveryCache {
    /// Makes an empty cache. `source` is called for lists that it does not have.
    pub fn new(source: Arc<dyn Discover>) -> Self {
        Self {
            source,
            clusters: ListCache::default(),
            nodes: ListCache::default(),
        }
    }

    /// The clusters of an environment. Cancel-safe.
    pub async fn clusters(&self, environment: &Arc<Environment>) -> ListResult<Cluster> {
        let (source, environment) = (Arc::clone(&self.source), Arc::clone(environment));
        let key = Arc::clone(&environment);
        let call = async move { source.clusters(&environment).await };
        self.clusters.get(key, call).await
    }

    /// The nodes of a cluster. Cancel-safe.
    pub async fn nodes(&self, environment: &Arc<Environment>, cluster: &str) -> ListResult<Node> {
        let (source, environment) = (Arc::clone(&self.source), Arc::clone(environment));
        let cluster = cluster.to_owned();
        let key = (Arc::clone(&environment), cluster.clone());
        let call = async move { source.nodes(&environment, &cluster).await };
        self.nodes.get(key, call).await
    }
}

impl fmt::Debug for DiscoveryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiscoveryCache")
    }
}

/// Lists by key. Concurrent callers with the same key share one call.
struct ListCache<K, T>(Mutex<HashMap<K, CachedList<T>>>);

/// A list that was called for. The answer is `None` while the call runs.
#[derive(Debug)]
struct CachedList<T> {
    started: Instant,
    answer: watch::Receiver<Option<ListResult<T>>>,
}

impl<K, T> Default for ListCache<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Send + Sync + 'static> ListCache<K, T> {
    /// Returns the cached list, or waits for a call that runs for the same key. Without such a call,
    /// runs `call`.
    async fn get<F>(&self, key: K, call: F) -> ListResult<T>
    where
        F: Future<Output = Result<Vec<T>, FetchError>> + Send + 'static,
    {
        let mut answer = self.find_or_start(key, call)?;
        let result = match answer.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            // The task of the call has panicked.
            Err(_) => None,
        };
        result.unwrap_or_else(|| {
            Err(failure(
                "the list could not be made".into(),
                "ask again, and report it if it lasts",
            ))
        })
    }

    /// Returns the answer of this key, and starts `call` if the cache has no answer. Fails if the cache
    /// is full.
    fn find_or_start<F>(
        &self,
        key: K,
        call: F,
    ) -> Result<watch::Receiver<Option<ListResult<T>>>, Arc<FetchError>>
    where
        F: Future<Output = Result<Vec<T>, FetchError>> + Send + 'static,
    {
        let mut entries = locked(&self.0);
        entries.retain(|_, entry| entry.is_fresh());
        if let Some(entry) = entries.get(&key) {
            return Ok(entry.answer.clone());
        }
        if entries.len() >= MAX_LISTS {
            return Err(failure(
                format!(
                    "{MAX_LISTS} lists were asked for within {} s",
                    LIFETIME.as_secs()
                ),
                "ask for fewer, or later",
            ));
        }
        let (sender, answer) = watch::channel(None);
        // The call runs in a task of its own, because a caller may give up while others still want the
        // answer. The time limits of the API calls end the task.
        tokio::spawn(async move {
            let result = call.await.map(Arc::from).map_err(Arc::new);
            if let Err(error) = &result {
                // One log line for each call, however many requests share it.
                tracing::warn!("console: {error}");
            }
            sender.send_replace(Some(result));
        });
        let entry = CachedList {
            started: Instant::now(),
            answer: answer.clone(),
        };
        entries.insert(key, entry);
        Ok(answer)
    }
}

impl<T> CachedList<T> {
    /// Whether the answer is younger than [`LIFETIME`], or its call still runs.
    fn is_fresh(&self) -> bool {
        if self.answer.borrow().is_some() {
            self.started.elapsed() < LIFETIME
        } else {
            // An error means that the call's task has panicked.
            self.answer.has_changed().is_ok()
        }
    }
}

/// A failure of the cache itself, not of FinSpace.
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

    /// A cache whose calls answer with their number, from 0.
    #[derive(Default)]
    struct CountingCache {
        cache: ListCache<String, usize>,
        calls: Arc<AtomicUsize>,
    }

    impl CountingCache {
        async fn list(&self, key: &str, takes: Duration) -> ListResult<usize> {
            let calls = Arc::clone(&self.calls);
            let call = async move {
                let nth = calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(takes).await;
                match nth {
                    // The test of a failure starts to count at 100.
                    100 => Err(FetchError::clone(&failure("denied".into(), "allow it"))),
                    nth => Ok(vec![nth]),
                }
            };
            self.cache.get(key.to_owned(), call).await
        }

        async fn quick(&self, key: &str) -> ListResult<usize> {
            self.list(key, Duration::from_millis(50)).await
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_make_one_call_and_it_serves_for_a_while() {
        let lists = CountingCache::default();
        let all = futures_util::future::join_all((0..1_000).map(|_| lists.quick("a"))).await;
        assert!(all.iter().all(|listed| listed.as_deref() == Ok(&[0])));
        tokio::time::advance(LIFETIME / 2).await;
        assert_eq!(lists.quick("a").await.as_deref(), Ok(&[0][..]));
        assert_eq!(lists.quick("b").await.as_deref(), Ok(&[1][..]));
        tokio::time::advance(LIFETIME / 2).await;
        assert_eq!(lists.quick("a").await.as_deref(), Ok(&[2][..]));
        assert_eq!(lists.calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_the_call_to_the_next() {
        let lists = CountingCache::default();
        for _ in 0..100 {
            let limit = Duration::from_millis(1);
            let listed = tokio::time::timeout(limit, lists.list("a", 2 * LIFETIME)).await;
            assert!(listed.is_err(), "it takes longer");
        }
        assert_eq!(lists.list("a", LIFETIME).await.as_deref(), Ok(&[0][..]));
        assert_eq!(lists.calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_serves_as_long() {
        let lists = CountingCache::default();
        lists.calls.store(100, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(lists.quick("a").await.unwrap_err().message, "denied");
        }
        tokio::time::advance(LIFETIME).await;
        assert_eq!(lists.quick("a").await.as_deref(), Ok(&[101][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn different_lists_are_bounded_in_number() {
        let lists = CountingCache::default();
        for nth in 0..MAX_LISTS {
            assert!(lists.quick(&nth.to_string()).await.is_ok());
        }
        let error = lists.quick("one more").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "50 lists were asked for within 10 s. Fix: ask for fewer, or later."
        );
        assert!(lists.quick("0").await.is_ok(), "that is kept");
        tokio::time::advance(LIFETIME).await;
        assert!(lists.quick("one more").await.is_ok());
        assert_eq!(lists.calls(), MAX_LISTS + 1);
    }

    #[tokio::test]
    async fn a_call_that_dies_is_made_again() {
        let cache = ListCache::<&str, usize>::default();
        let dies = async { panic!("on purpose") };
        let error = cache.get("a", dies).await.unwrap_err();
        assert!(error.message.contains("could not be made"), "{error}");
        let again = cache.get("a", async { Ok(vec![1]) }).await;
        assert_eq!(again.as_deref(), Ok(&[1][..]));
    }
}
