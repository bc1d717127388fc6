//! Which nodes a cluster has: lists kept fresh in the background for as long as an endpoint needs
//! them.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

pub use crate::credential::Discover;
use crate::credential::{FetchError, Retry};
use base::error::{ErrorKind, with_note};
use finspace::Node;
use finspace::environment::Environment;

/// Between two looks at a list that nobody doubts.
const EVERY: Duration = Duration::from_secs(60);
/// Between two looks at the least, however much it is doubted.
const LEAST: Duration = Duration::from_secs(5);
/// The first pause after a failed look; it doubles up to [`EVERY`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two attempts to learn this host's availability zone.
const ZONE_EVERY: Duration = Duration::from_secs(60);

/// Every list of this process. Cheap to clone.
#[derive(Clone)]
pub struct Nodes(Arc<Shared>);

struct Shared {
    source: Arc<dyn Discover>,
    lists: Mutex<HashMap<Key, Arc<List>>>,
    zone: Mutex<Zone>,
}

type Key = (Arc<Environment>, String);

#[derive(Default)]
struct Zone {
    told: Option<Arc<str>>,
    learnt: Option<Arc<str>>,
    asking: Option<AbortOnDropHandle<()>>,
}

struct List {
    seen: watch::Sender<Seen>,
    doubted: Notify,
}

/// What the last looks have shown.
#[derive(Debug, Clone, Default)]
struct Seen {
    nodes: Option<Arc<[Node]>>,
    error: Option<Arc<FetchError>>,
}

/// A cluster's list. It is kept fresh while one of these lives.
pub struct Listing {
    nodes: Nodes,
    list: Arc<List>,
    seen: watch::Receiver<Seen>,
}

impl Nodes {
    /// No list yet.
    pub fn new(source: Arc<dyn Discover>) -> Self {
        Self(Arc::new(Shared {
            source,
            lists: Mutex::default(),
            zone: Mutex::default(),
        }))
    }

    /// The list of a cluster, which is looked at from now on. Must be called within a tokio runtime.
    pub fn listing(&self, environment: &Arc<Environment>, cluster: &str) -> Listing {
        let key = (Arc::clone(environment), cluster.to_owned());
        let mut lists = lock(&self.0.lists);
        // A list that is there has its keeper: that one ends under the same lock.
        let known = lists.get(&key).cloned();
        let list = known.clone().unwrap_or_else(|| {
            Arc::new(List {
                seen: watch::Sender::default(),
                doubted: Notify::new(),
            })
        });
        let listing = Listing {
            nodes: self.clone(),
            seen: list.seen.subscribe(),
            list: Arc::clone(&list),
        };
        if known.is_none() {
            lists.insert(key.clone(), Arc::clone(&list));
            tokio::spawn(keep(Arc::clone(&self.0), key, list));
        }
        listing
    }

    /// The zone that the configuration tells, if it does. `needed`: an endpoint goes by zones.
    pub fn tell_zone(&self, told: Option<&str>, needed: bool) {
        let mut zone = lock(&self.0.zone);
        zone.told = told.map(Arc::from);
        if needed && told.is_none() && zone.learnt.is_none() && zone.asking.is_none() {
            let asking = tokio::spawn(ask_zone(
                Arc::downgrade(&self.0),
                Arc::clone(&self.0.source),
            ));
            zone.asking = Some(AbortOnDropHandle::new(asking));
        }
    }
}

impl Listing {
    /// The nodes as last seen; waits for the first look only. Cancel-safe.
    pub async fn nodes(&self) -> Result<Arc<[Node]>, Arc<FetchError>> {
        let mut seen = self.seen.clone();
        let looked = seen
            .wait_for(|seen| seen.nodes.is_some() || seen.error.is_some())
            .await;
        // The sender lives in `self.list`.
        let seen = looked.map(|seen| seen.clone()).unwrap_or_default();
        match (seen.nodes, seen.error) {
            (Some(nodes), _) => Ok(nodes),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Arc::default()),
        }
    }

    /// The nodes as last seen, none before the first look.
    pub fn known(&self) -> Arc<[Node]> {
        self.seen.borrow().nodes.clone().unwrap_or_default()
    }

    /// Returns when there is something new to see.
    pub async fn changed(&mut self) {
        // The sender lives in `self.list`.
        let _ = self.seen.changed().await;
    }

    /// Something does not fit the list: it is looked at again soon.
    pub fn doubt(&self) {
        self.list.doubted.notify_one();
    }

    /// The availability zone of this host, as far as it is known.
    pub fn zone(&self) -> Option<Arc<str>> {
        let zone = lock(&self.nodes.0.zone);
        zone.told.clone().or_else(|| zone.learnt.clone())
    }
}

impl Clone for Listing {
    fn clone(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            list: Arc::clone(&self.list),
            seen: self.seen.clone(),
        }
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nodes")
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listing")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at a list until nobody needs it any more.
async fn keep(shared: Arc<Shared>, (environment, cluster): Key, list: Arc<List>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let looked = Instant::now();
        let next = match look(&shared, &environment, &cluster).await {
            Ok(nodes) => {
                pause = FIRST_PAUSE;
                list.seen.send_if_modified(|seen| {
                    let same =
                        seen.error.is_none() && seen.nodes.as_deref() == Some(nodes.as_slice());
                    if !same {
                        tracing::info!(cluster, nodes = nodes.len(), "nodes: {}", names(&nodes));
                        *seen = Seen {
                            nodes: Some(nodes.into()),
                            error: None,
                        };
                    }
                    !same
                });
                EVERY
            }
            Err(error) => {
                pause = (pause * 2).min(EVERY);
                list.seen.send_if_modified(|seen| {
                    let same = seen.error.as_deref() == Some(&error);
                    if !same {
                        tracing::warn!(cluster, "{error}");
                        seen.error = Some(Arc::new(error));
                    }
                    !same
                });
                pause
            }
        };
        let next = next.mul_f64(0.8 + 0.2 * fastrand::f64());
        let doubted = async {
            list.doubted.notified().await;
            sleep_until(looked + LEAST).await;
        };
        tokio::select! {
            () = sleep(next) => {}
            () = doubted => {}
            () = list.seen.closed() => {
                let mut lists = lock(&shared.lists);
                if list.seen.receiver_count() == 0 {
                    lists.remove(&(environment, cluster));
                    return;
                }
            }
        }
    }
}

/// One look. A source that panics fails like any other: sessions wait for what comes of it.
async fn look(
    shared: &Shared,
    environment: &Arc<Environment>,
    cluster: &str,
) -> Result<Vec<Node>, FetchError> {
    let looking = async { shared.source.nodes(environment, cluster).await };
    let looked = AssertUnwindSafe(looking).catch_unwind().await;
    looked.unwrap_or_else(|_| {
        Err(FetchError {
            kind: ErrorKind::Internal,
            retry: Retry::Soon,
            message: format!("a fault of hopend's own while listing the nodes of {cluster}"),
            remedy: "report it, with the panic in the log".into(),
        })
    })
}

async fn ask_zone(shared: std::sync::Weak<Shared>, source: Arc<dyn Discover>) {
    let mut told = false;
    loop {
        match source.zone().await {
            Ok(found) => {
                tracing::info!(zone = found, "this host's availability zone");
                if let Some(shared) = shared.upgrade() {
                    lock(&shared.zone).learnt = Some(found.into());
                }
                return;
            }
            Err(error) if !told => {
                tracing::warn!(
                    "{}",
                    with_note(&error, "until then all nodes are equally near")
                );
                told = true;
            }
            Err(error) => tracing::debug!("{error}"),
        }
        sleep(ZONE_EVERY).await;
    }
}

/// The nodes in few words.
pub(crate) fn names(nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return "none".into();
    }
    let names: Vec<_> = nodes
        .iter()
        .map(|node| {
            if node.is_running() {
                format!("{} ({})", node.id, node.zone)
            } else {
                format!("{} ({}, {})", node.id, node.zone, node.status)
            }
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::future::BoxFuture;

    use super::*;
    use finspace::Cluster;

    /// Answers as it is told, then with the last answer for ever.
    struct Script {
        answers: Mutex<VecDeque<Result<Vec<Node>, FetchError>>>,
        looks: watch::Sender<usize>,
    }

    impl Discover for Script {
        fn clusters<'a>(
            &'a self,
            _: &'a Arc<Environment>,
        ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>> {
            async { Err(failure("nobody lists clusters here")) }.boxed()
        }

        fn nodes<'a>(
            &'a self,
            _: &'a Arc<Environment>,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Vec<Node>, FetchError>> {
            self.looks.send_modify(|looks| *looks += 1);
            let mut answers = lock(&self.answers);
            let answer = answers.pop_front().unwrap();
            if answers.is_empty() {
                answers.push_back(answer.clone());
            }
            async { answer }.boxed()
        }

        fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>> {
            async { Err(failure("no metadata")) }.boxed()
        }
    }

    fn failure(message: &str) -> FetchError {
        FetchError {
            kind: ErrorKind::Denied,
            retry: Retry::Refused,
            message: message.into(),
            remedy: "allow it".into(),
        }
    }

    fn nodes(ids: &[&str]) -> Vec<Node> {
        ids.iter()
            .map(|id| Node {
                id: (*id).into(),
                zone: "use1-az1".into(),
                launched: None,
                status: "RUNNING".into(),
            })
            .collect()
    }

    fn script(
        answers: impl IntoIterator<Item = Result<Vec<Node>, FetchError>>,
    ) -> (Nodes, Arc<Script>) {
        let script = Arc::new(Script {
            answers: Mutex::new(answers.into_iter().collect()),
            looks: watch::Sender::new(0),
        });
        (Nodes::new(Arc::clone(&script) as _), script)
    }

    fn environment() -> Arc<Environment> {
        Arc::new(Environment {
            name: "prod".into(),
            id: "abc".into(),
            region: "us-east-1".into(),
            profile: None,
            credentials_file: None,
            endpoint_url: None,
            sts_endpoint_url: None,
            ca_file: None,
        })
    }

    fn ids(nodes: &[Node]) -> Vec<&str> {
        nodes.iter().map(|node| node.id.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_looked_at_again_each_minute_and_sooner_when_it_is_doubted() {
        let (all, script) = script([Ok(nodes(&["a"])), Ok(nodes(&["a", "b"])), Ok(nodes(&["b"]))]);
        let began = Instant::now();
        let mut listing = all.listing(&environment(), "hdb");
        assert_eq!(ids(&listing.known()), [""; 0]);
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["a"]);
        listing.changed().await;
        listing.changed().await;
        let later = began.elapsed();
        assert!(later >= EVERY.mul_f64(0.8) && later <= EVERY, "{later:?}");
        assert_eq!(ids(&listing.known()), ["a", "b"]);
        let began = Instant::now();
        listing.doubt();
        listing.changed().await;
        assert_eq!(began.elapsed(), LEAST);
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["b"]);
        assert_eq!(*script.looks.borrow(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_look_leaves_the_list_as_it_was() {
        let (all, _) = script([Ok(nodes(&["a"])), Err(failure("denied"))]);
        let mut listing = all.listing(&environment(), "hdb");
        listing.changed().await;
        listing.changed().await;
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["a"]);
        let (none, _) = self::script([Err(failure("denied")), Ok(nodes(&["a"]))]);
        let mut listing = none.listing(&environment(), "hdb");
        assert_eq!(listing.nodes().await.unwrap_err().message, "denied");
        listing.changed().await;
        listing.changed().await;
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_shared_and_left_alone_when_nobody_needs_it() {
        let (all, script) = script([Ok(nodes(&["a"]))]);
        let environment = environment();
        let (one, two) = (
            all.listing(&environment, "hdb"),
            all.listing(&environment, "hdb"),
        );
        one.nodes().await.unwrap();
        two.nodes().await.unwrap();
        assert_eq!(*script.looks.borrow(), 1);
        drop(one);
        let mut looks = script.looks.subscribe();
        looks.changed().await.unwrap();
        drop(two);
        let quiet = tokio::time::timeout(10 * EVERY, looks.changed()).await;
        assert!(quiet.is_err(), "nobody looks");
        let again = all.listing(&environment, "hdb");
        assert_eq!(ids(&again.nodes().await.unwrap()), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_that_is_told_goes_before_one_that_is_learnt() {
        let (all, _) = script([Ok(Vec::new())]);
        let listing = all.listing(&environment(), "hdb");
        all.tell_zone(None, true);
        assert_eq!(listing.zone(), None);
        all.tell_zone(Some("use1-az2"), true);
        assert_eq!(listing.zone().as_deref(), Some("use1-az2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_panics_fails_like_any_other() {
        // An empty script is a panic.
        let (all, script) = script([]);
        let listing = all.listing(&environment(), "hdb");
        let error = tokio::time::timeout(EVERY, listing.nodes()).await;
        let error = error.expect("a session waits for ever").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        lock(&script.answers).push_back(Ok(nodes(&["a"])));
        sleep(EVERY).await;
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["a"]);
    }
}
