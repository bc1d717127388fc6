//! The nodes of FinSpace clusters. hopend lists them in the background for as long as an endpoint needs
//! them, so that no session waits for a list.

use base::mutex::locked;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::host_zone::HostZone;
use crate::credential::{Discover, FetchError, Retry};
use crate::primitives::backoff::Backoff;
use base::error::ErrorKind;
use finspace::Node;
use finspace::environment::Environment;

/// How often a list is refreshed, at least. Shortened by up to a fifth at random.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// The shortest time between two refreshes, however often a session asks for one.
const SHORTEST_REFRESH: Duration = Duration::from_secs(5);
/// The pauses after refreshes that fail.
const REFRESH_BACKOFF: Backoff = Backoff::new(Duration::from_secs(2), REFRESH_EVERY);
/// The node lists of this process. Cheap to clone.
#[derive(Clone)]
pub struct Nodes(Arc<NodeLists>);

struct NodeLists {
    source: Arc<dyn Discover>,
    lists: Mutex<HashMap<ClusterKey, Arc<NodeList>>>,
    zone: Arc<HostZone>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClusterKey {
    environment: Arc<Environment>,
    cluster: String,
}

struct NodeList {
    listed: watch::Sender<ListedNodes>,
    /// Asks for a refresh.
    refresh: Notify,
}

/// The result of the refreshes so far.
#[derive(Debug, Clone, Default)]
enum ListedNodes {
    /// No refresh has ended yet.
    #[default]
    Unknown,
    /// AWS has listed the nodes.
    Known {
        nodes: Arc<[Node]>,
        /// The error of the last refresh. None if it succeeded.
        error: Option<Arc<FetchError>>,
    },
    /// All refreshes have failed, the last one for this cause.
    Failed(Arc<FetchError>),
}

/// The nodes of one cluster. hopend refreshes the list for as long as one of its listings lives.
pub struct NodeListing {
    nodes: Nodes,
    list: Arc<NodeList>,
    listed: watch::Receiver<ListedNodes>,
}

impl Nodes {
    /// No lists yet.
    pub fn new(source: Arc<dyn Discover>) -> Self {
        Self(Arc::new(NodeLists {
            source,
            lists: Mutex::default(),
            zone: Arc::default(),
        }))
    }

    /// The list of a cluster, which is refreshed from now on. Must be called within a tokio runtime.
    pub fn listing(&self, environment: &Arc<Environment>, cluster: &str) -> NodeListing {
        let key = ClusterKey {
            environment: Arc::clone(environment),
            cluster: cluster.to_owned(),
        };
        let mut lists = locked(&self.0.lists);
        // A task refreshes each list in the map: the task removes the list under the same lock.
        let known = lists.get(&key).cloned();
        let list = known.clone().unwrap_or_else(|| {
            Arc::new(NodeList {
                listed: watch::Sender::default(),
                refresh: Notify::new(),
            })
        });
        let listing = NodeListing {
            nodes: self.clone(),
            listed: list.listed.subscribe(),
            list: Arc::clone(&list),
        };
        if known.is_none() {
            lists.insert(key.clone(), Arc::clone(&list));
            tokio::spawn(keep_fresh(Arc::clone(&self.0), key, list));
        }
        listing
    }

    /// Sets the zone of the configuration. If it has none and an endpoint chooses nodes by zone
    /// (`needed`), hopend asks AWS for the zone.
    pub fn tell_zone(&self, configured: Option<&str>, needed: bool) {
        let NodeLists { source, zone, .. } = &*self.0;
        zone.configure(configured);
        if needed {
            zone.learn(source);
        }
    }
}

impl NodeListing {
    /// The nodes, as listed last. Waits only until the first refresh has ended. Cancel-safe.
    ///
    /// # Errors
    /// No refresh has succeeded so far.
    pub async fn nodes(&self) -> Result<Arc<[Node]>, Arc<FetchError>> {
        let mut listed = self.listed.clone();
        let listed = listed
            .wait_for(|listed| !matches!(listed, ListedNodes::Unknown))
            .await;
        // The sender lives in `self.list`: the wait cannot fail.
        match listed.map(|listed| listed.clone()).unwrap_or_default() {
            ListedNodes::Known { nodes, .. } => Ok(nodes),
            ListedNodes::Failed(error) => Err(error),
            ListedNodes::Unknown => Ok(Arc::default()),
        }
    }

    /// The nodes, as listed last. Empty until a refresh has succeeded.
    pub fn known(&self) -> Arc<[Node]> {
        match &*self.listed.borrow() {
            ListedNodes::Known { nodes, .. } => Arc::clone(nodes),
            ListedNodes::Unknown | ListedNodes::Failed(_) => Arc::default(),
        }
    }

    /// Waits until a refresh changes the list or its error.
    pub async fn changed(&mut self) {
        // The sender lives in `self.list`: the wait cannot fail.
        let _ = self.listed.changed().await;
    }

    /// Has the list refreshed soon: a session has met a node that does not fit the list.
    pub fn refresh_soon(&self) {
        self.list.refresh.notify_one();
    }

    /// The availability zone of this host. None until hopend has learned it.
    pub fn zone(&self) -> Option<Arc<str>> {
        self.nodes.0.zone.id()
    }
}

impl Clone for NodeListing {
    fn clone(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            list: Arc::clone(&self.list),
            listed: self.listed.clone(),
        }
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nodes")
    }
}

impl std::fmt::Debug for NodeListing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeListing")
    }
}

impl ListedNodes {
    /// Takes over the nodes of a refresh. Returns whether that changes anything.
    fn listed(&mut self, listed: Vec<Node>, cluster: &str) -> bool {
        if let Self::Known { nodes, error: None } = self
            && **nodes == *listed
        {
            return false;
        }
        let count = listed.len();
        tracing::info!(cluster, nodes = count, "nodes: {}", names(&listed));
        *self = Self::Known {
            nodes: listed.into(),
            error: None,
        };
        true
    }

    /// Takes over the error of a refresh, and keeps the nodes. Returns whether that changes anything.
    fn failed(&mut self, failure: FetchError, cluster: &str) -> bool {
        let known = match self {
            Self::Unknown => None,
            Self::Known { error, .. } => error.as_ref(),
            Self::Failed(error) => Some(&*error),
        };
        if known.is_some_and(|known| **known == failure) {
            return false;
        }
        tracing::warn!(cluster, "{failure}");
        let failure = Arc::new(failure);
        match self {
            Self::Known { error, .. } => *error = Some(failure),
            Self::Unknown | Self::Failed(_) => *self = Self::Failed(failure),
        }
        true
    }
}

/// Refreshes a list until its last listing is dropped.
async fn keep_fresh(lists: Arc<NodeLists>, key: ClusterKey, list: Arc<NodeList>) {
    let mut backoff = REFRESH_BACKOFF;
    loop {
        let began = Instant::now();
        let next = match refresh(&lists, &key).await {
            Ok(nodes) => {
                backoff.reset();
                list.listed
                    .send_if_modified(|listed| listed.listed(nodes, &key.cluster));
                REFRESH_EVERY
            }
            Err(error) => {
                list.listed
                    .send_if_modified(|listed| listed.failed(error, &key.cluster));
                backoff.next_pause()
            }
        };
        let next = next.mul_f64(0.8 + 0.2 * fastrand::f64());
        let asked = async {
            list.refresh.notified().await;
            sleep_until(began + SHORTEST_REFRESH).await;
        };
        tokio::select! {
            () = sleep(next) => {}
            () = asked => {}
            () = list.listed.closed() => {
                let mut lists = locked(&lists.lists);
                if list.listed.receiver_count() == 0 {
                    lists.remove(&key);
                    return;
                }
            }
        }
    }
}

/// Lists the nodes of a cluster once. A panic of the source counts as a failure, as sessions wait for the
/// result.
async fn refresh(lists: &NodeLists, key: &ClusterKey) -> Result<Vec<Node>, FetchError> {
    let ClusterKey {
        environment,
        cluster,
    } = key;
    let listing = async { lists.source.nodes(environment, cluster).await };
    let listed = AssertUnwindSafe(listing).catch_unwind().await;
    listed.unwrap_or_else(|_| {
        Err(FetchError {
            kind: ErrorKind::Internal,
            retry: Retry::Soon,
            message: format!("a fault of hopend's own while listing the nodes of {cluster}"),
            remedy: "report it, with the panic in the log".into(),
        })
    })
}

/// The nodes with their zones, in one line. A node that is not RUNNING is shown with its status.
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

    use finspace::Cluster;
    use futures_util::future::BoxFuture;

    use super::*;

    /// Gives these answers in turn, then the last one for ever.
    struct ScriptedNodes {
        answers: Mutex<VecDeque<Result<Vec<Node>, FetchError>>>,
        calls: watch::Sender<usize>,
    }

    impl Discover for ScriptedNodes {
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
            self.calls.send_modify(|calls| *calls += 1);
            let mut answers = locked(&self.answers);
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
    ) -> (Nodes, Arc<ScriptedNodes>) {
        let script = Arc::new(ScriptedNodes {
            answers: Mutex::new(answers.into_iter().collect()),
            calls: watch::Sender::new(0),
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
    async fn a_list_is_refreshed_each_minute_and_sooner_when_a_session_asks() {
        let (all, script) = script([Ok(nodes(&["a"])), Ok(nodes(&["a", "b"])), Ok(nodes(&["b"]))]);
        let began = Instant::now();
        let mut listing = all.listing(&environment(), "hdb");
        assert_eq!(ids(&listing.known()), [""; 0]);
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["a"]);
        listing.changed().await;
        listing.changed().await;
        let later = began.elapsed();
        assert!(
            later >= REFRESH_EVERY.mul_f64(0.8) && later <= REFRESH_EVERY,
            "{later:?}"
        );
        assert_eq!(ids(&listing.known()), ["a", "b"]);
        let began = Instant::now();
        listing.refresh_soon();
        listing.changed().await;
        assert_eq!(began.elapsed(), SHORTEST_REFRESH);
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["b"]);
        assert_eq!(*script.calls.borrow(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_refresh_leaves_the_list_as_it_was() {
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
    async fn a_list_is_shared_and_no_longer_refreshed_when_nobody_needs_it() {
        let (all, script) = script([Ok(nodes(&["a"]))]);
        let environment = environment();
        let (one, two) = (
            all.listing(&environment, "hdb"),
            all.listing(&environment, "hdb"),
        );
        one.nodes().await.unwrap();
        two.nodes().await.unwrap();
        assert_eq!(*script.calls.borrow(), 1);
        drop(one);
        let mut calls = script.calls.subscribe();
        calls.changed().await.unwrap();
        drop(two);
        let quiet = tokio::time::timeout(10 * REFRESH_EVERY, calls.changed()).await;
        assert!(quiet.is_err(), "nobody looks");
        let again = all.listing(&environment, "hdb");
        assert_eq!(ids(&again.nodes().await.unwrap()), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_configured_zone_overrules_a_learned_one() {
        let (all, _) = script([Ok(Vec::new())]);
        let listing = all.listing(&environment(), "hdb");
        all.tell_zone(None, true);
        assert_eq!(listing.zone(), None);
        all.tell_zone(Some("use1-az2"), true);
        assert_eq!(listing.zone().as_deref(), Some("use1-az2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_that_panics_fails_like_any_other() {
        // An empty script is a panic.
        let (all, script) = script([]);
        let listing = all.listing(&environment(), "hdb");
        let error = tokio::time::timeout(REFRESH_EVERY, listing.nodes()).await;
        let error = error.expect("a session waits for ever").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        locked(&script.answers).push_back(Ok(nodes(&["a"])));
        sleep(REFRESH_EVERY).await;
        assert_eq!(ids(&listing.nodes().await.unwrap()), ["a"]);
    }
}
