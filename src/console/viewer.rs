//! Who asks, and what of all there is may be shown: everything to a `[[user]]` with `console = true`,
//! to others what is their own.

use std::net::IpAddr;
use std::sync::Arc;

use super::address;
use crate::config::{Endpoint, Node, Target};
use crate::telemetry::live::BoundEndpoint;
use finspace::environment::Environment;

/// A user in front of the endpoints that are served now. Rights are those of now, too: a reload
/// gives and takes them while a session lasts.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    pub(super) user: String,
    pub(super) sees_all: bool,
    endpoints: Vec<BoundEndpoint>,
    /// The address of this host that the client dialled from elsewhere.
    dialled: Option<IpAddr>,
}

impl Viewer {
    pub(super) fn new(user: &str, endpoints: Vec<BoundEndpoint>, dialled: Option<IpAddr>) -> Self {
        let users = endpoints.iter().flat_map(|bound| &bound.endpoint.users);
        let known = users.into_iter().find(|known| known.name == user);
        Self {
            user: user.to_owned(),
            sees_all: known.is_some_and(|known| known.console),
            endpoints,
            dialled,
        }
    }

    /// Whether rows of this user may be shown.
    pub(super) fn sees_user(&self, user: Option<&str>) -> bool {
        self.sees_all || user == Some(&self.user)
    }

    /// Whether the endpoint of this name may be shown.
    pub(super) fn sees_endpoint(&self, name: &str) -> bool {
        let mut theirs = self.endpoints.iter().map(|bound| &bound.endpoint);
        self.sees_all || theirs.any(|endpoint| endpoint.name == name && self.may_use(endpoint))
    }

    /// Whether a cluster may be shown.
    pub(super) fn sees_cluster(&self, environment: &Arc<Environment>, cluster: &str) -> bool {
        let mut leading = self.leading(Some(environment), cluster);
        self.sees_all || leading.any(|bound| self.may_use(&bound.endpoint))
    }

    /// Why a cluster is not shown. It says the same whether there is such a cluster or not.
    pub(super) fn refusal(&self, cluster: &str) -> String {
        format!(
            "no endpoint that {} may use leads to cluster {cluster:?}. Fix: ask the administrator for \
             one, or for console = true.",
            self.user
        )
    }

    /// What hopen is given to reach a cluster, or one node of it, by a local endpoint.
    ///
    /// # Errors
    /// That none leads there, with what to do.
    pub(super) fn connection_string(
        &self,
        environment: Option<&Arc<Environment>>,
        cluster: &str,
        node: Option<&str>,
    ) -> Result<String, String> {
        let fits = |bound: &&BoundEndpoint| match (bound.endpoint.target.node(), node) {
            (Some(Node::Id(id)), Some(node)) => id == node,
            (Some(Node::Id(_)), None) | (_, Some(_)) => false,
            (_, None) => true,
        };
        let leading: Vec<_> = self.leading(environment, cluster).filter(fits).collect();
        let theirs = || leading.iter().filter(|bound| self.may_use(&bound.endpoint));
        // The cluster's own endpoint is what is asked for; one that chooses a node is as good.
        let any = |bound: &&&BoundEndpoint| bound.endpoint.target.node() == Some(&Node::Any);
        let in_order = theirs()
            .filter(any)
            .chain(theirs().filter(|bound| !any(bound)));
        let mut addresses =
            in_order.filter_map(|bound| address::for_hopen(&bound.listen, self.dialled));
        if let Some(address) = addresses.next() {
            return Ok(address);
        }
        let place = match node {
            None => format!("cluster {cluster:?}"),
            Some(node) => format!("node {node:?} of cluster {cluster:?}"),
        };
        if let Some(bound) = theirs().next() {
            return Err(format!(
                "endpoint {} leads to {place}, but has no address that hopen could dial from there. Fix: \
                 add one to its listen.",
                bound.endpoint.name
            ));
        }
        let user = &self.user;
        let keys = match node {
            None => format!("cluster = {cluster:?}"),
            Some(node) => format!("cluster = {cluster:?} and node = {node:?}"),
        };
        Err(match leading.first() {
            Some(bound) if self.sees_all => format!(
                "endpoint {} leads to {place}, but not for {user}. Fix: add {user} to its users.",
                bound.endpoint.name
            ),
            None if self.sees_all => {
                format!("no endpoint leads to {place}. Fix: add an [[endpoint]] with {keys}.")
            }
            _ => format!(
                "no endpoint that {user} may use leads to {place}. Fix: ask the administrator for an \
                 [[endpoint]] with {keys}."
            ),
        })
    }

    fn may_use(&self, endpoint: &Endpoint) -> bool {
        endpoint.users.iter().any(|user| user.name == self.user)
    }

    /// The endpoints that lead to a cluster.
    fn leading<'a>(
        &'a self,
        environment: Option<&'a Arc<Environment>>,
        cluster: &'a str,
    ) -> impl Iterator<Item = &'a BoundEndpoint> {
        self.endpoints
            .iter()
            .filter(move |bound| match &bound.endpoint.target {
                Target::FinSpace {
                    environment: its,
                    cluster: there,
                    ..
                } => Some(its) == environment && there == cluster,
                _ => false,
            })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{OsUser, parse};

    const FILE: &str = r#"
        [environment.prod]
        id = "sdb3moagybykax4oexvsq4"
        region = "us-east-1"

        [[user]]
        name = "root"
        os_user = "1"
        console = true

        [[user]]
        name = "alice"
        os_user = "2"

        [[endpoint]]
        name = "near"
        listen = "localhost:5012"
        cluster = "hdb-cluster"
        node = "zone"

        [[endpoint]]
        name = "hdb"
        listen = ["unix:5010", "localhost:5010"]
        cluster = "hdb-cluster"

        [[endpoint]]
        name = "first"
        listen = "unix:5011"
        cluster = "hdb-cluster"
        node = "node-1"

        [[endpoint]]
        name = "rdb"
        listen = "unix:/run/hopend/rdb"
        cluster = "rdb-cluster"

        [[endpoint]]
        name = "spread"
        listen = "localhost:5015"
        cluster = "gateway"
        node = "spread"

        [[endpoint]]
        name = "secret"
        listen = "localhost:5013"
        cluster = "secret-cluster"
        users = ["root"]

        [[endpoint]]
        name = "mine"
        listen = "localhost:5014"
        cluster = "alices-cluster"
        users = ["alice"]

        [[endpoint]]
        name = "console"
        listen = "localhost:5000"
        kind = "console"
    "#;

    pub(in crate::console) fn endpoints() -> Vec<BoundEndpoint> {
        let accounts = |name: &str| {
            Ok(Some(OsUser {
                name: name.into(),
                uid: name.parse().unwrap(),
            }))
        };
        let config = parse(FILE, "hopend.toml".as_ref(), &accounts).unwrap();
        let endpoints = config.endpoints.into_iter();
        endpoints
            .map(|endpoint| BoundEndpoint {
                listen: endpoint.listen.clone(),
                endpoint,
            })
            .collect()
    }

    pub(in crate::console) fn viewer(user: &str) -> Viewer {
        Viewer::new(user, endpoints(), None)
    }

    fn environment() -> Arc<Environment> {
        let endpoints = endpoints();
        let found = endpoints.iter().find_map(|b| match &b.endpoint.target {
            Target::FinSpace { environment, .. } => Some(Arc::clone(environment)),
            _ => None,
        });
        found.unwrap()
    }

    fn string(user: &str, cluster: &str, node: Option<&str>) -> Result<String, String> {
        viewer(user).connection_string(Some(&environment()), cluster, node)
    }

    #[test]
    fn a_connection_string_is_a_local_endpoint() {
        for (cluster, node, address) in [
            ("hdb-cluster", None, ":localhost:5010"),
            ("gateway", None, ":localhost:5015"),
            ("hdb-cluster", Some("node-1"), ":unix://5011"),
        ] {
            for user in ["root", "alice"] {
                assert_eq!(string(user, cluster, node).as_deref(), Ok(address));
            }
        }
        let mine = string("alice", "alices-cluster", None);
        assert_eq!(mine.as_deref(), Ok(":localhost:5014"));
    }

    #[test]
    fn where_none_leads_the_remedy_is_told() {
        for (user, cluster, node, told) in [
            (
                "root",
                "other",
                None,
                "no endpoint leads to cluster \"other\". Fix: add an [[endpoint]] with cluster = \"other\".",
            ),
            (
                "root",
                "hdb-cluster",
                Some("node-2"),
                "no endpoint leads to node \"node-2\" of cluster \"hdb-cluster\". Fix: add an \
                 [[endpoint]] with cluster = \"hdb-cluster\" and node = \"node-2\".",
            ),
            (
                "root",
                "alices-cluster",
                None,
                "endpoint mine leads to cluster \"alices-cluster\", but not for root. Fix: add root to \
                 its users.",
            ),
            (
                "root",
                "rdb-cluster",
                None,
                "endpoint rdb leads to cluster \"rdb-cluster\", but has no address that hopen could \
                 dial from there. Fix: add one to its listen.",
            ),
        ] {
            assert_eq!(string(user, cluster, node), Err(told.to_owned()));
        }
    }

    #[test]
    fn what_is_somebody_elses_is_not_told_from_what_is_not_there() {
        let theirs = string("alice", "secret-cluster", None).unwrap_err();
        let nowhere = string("alice", "nowhere-at-all", None).unwrap_err();
        assert_eq!(theirs.replace("secret-cluster", "nowhere-at-all"), nowhere);
        assert!(nowhere.starts_with("no endpoint that alice may use leads to"));
        let other = Arc::new(Environment {
            name: "test".into(),
            ..Environment::clone(&environment())
        });
        for environment in [None, Some(&other)] {
            let string = viewer("root").connection_string(environment, "hdb-cluster", None);
            assert!(string.is_err(), "the cluster of another environment");
        }
    }

    #[test]
    fn who_may_see_what() {
        let (root, alice, nobody) = (viewer("root"), viewer("alice"), viewer("mallory"));
        let environment = environment();
        assert!(root.sees_all && !alice.sees_all && !nobody.sees_all);
        for (cluster, of_alice) in [("hdb-cluster", true), ("secret-cluster", false)] {
            assert!(root.sees_cluster(&environment, cluster));
            assert_eq!(alice.sees_cluster(&environment, cluster), of_alice);
            assert!(!nobody.sees_cluster(&environment, cluster));
        }
        for (endpoint, of_alice) in [("mine", true), ("console", true), ("secret", false)] {
            assert!(root.sees_endpoint(endpoint));
            assert_eq!(alice.sees_endpoint(endpoint), of_alice);
            assert!(!nobody.sees_endpoint(endpoint));
        }
        assert!(root.sees_user(None) && root.sees_user(Some("alice")));
        assert!(alice.sees_user(Some("alice")));
        assert!(!alice.sees_user(None) && !alice.sees_user(Some("root")));
    }
}
