//! Access control of the console. A `[[user]]` with `console = true` may see everything. Other users may
//! see their own rows, the endpoints that they may use, and the clusters of these endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use super::ConsoleEndpoint;
use super::hopen_address::hopen_address;
use crate::config::{Endpoint, NodeSelector, Target};
use finspace::environment::Environment;

/// The user of a console session, and the endpoints that hopend serves now. A new viewer is made for each
/// request, because a reload may change the user's rights during a session.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    user: String,
    sees_all: bool,
    endpoints: Vec<ConsoleEndpoint>,
    /// The address of this host that the client dialled, if the client is on another host.
    dialled: Option<IpAddr>,
}

impl Viewer {
    pub(super) fn new(
        user: &str,
        endpoints: Vec<ConsoleEndpoint>,
        dialled: Option<IpAddr>,
    ) -> Self {
        let users = endpoints.iter().flat_map(|served| &served.endpoint.users);
        let known = users.into_iter().find(|known| known.name == user);
        Self {
            user: user.to_owned(),
            sees_all: known.is_some_and(|known| known.console),
            endpoints,
            dialled,
        }
    }

    /// Whether the viewer may see this user's rows. Rows without a user are for those who see everything.
    pub(super) fn sees_user(&self, user: Option<&str>) -> bool {
        self.sees_all || user == Some(&self.user)
    }

    /// Whether the viewer may see the endpoint of this name.
    pub(super) fn sees_endpoint(&self, name: &str) -> bool {
        let mut endpoints = self.endpoints.iter().map(|served| &served.endpoint);
        self.sees_all || endpoints.any(|endpoint| endpoint.name == name && self.may_use(endpoint))
    }

    /// Whether the viewer may see a cluster.
    pub(super) fn sees_cluster(&self, environment: &Arc<Environment>, cluster: &str) -> bool {
        let mut endpoints = self.endpoints_of(Some(environment), cluster);
        self.sees_all || endpoints.any(|served| self.may_use(&served.endpoint))
    }

    /// The answer if the viewer may not see a cluster. It is the same whether the cluster exists or not.
    pub(super) fn cluster_refusal(&self, cluster: &str) -> String {
        format!(
            "no endpoint that {} may use leads to cluster {cluster:?}. Fix: ask the administrator for \
             one, or for console = true.",
            self.user
        )
    }

    /// The address of a local endpoint that leads to the cluster, or to one node of it, for hopen.
    ///
    /// # Errors
    /// The viewer may use no such endpoint, or can dial none of its addresses. The text is the answer for
    /// the client.
    pub(super) fn connection_string(
        &self,
        environment: Option<&Arc<Environment>>,
        cluster: &str,
        node: Option<&str>,
    ) -> Result<String, String> {
        let leads_to_node = |served: &&ConsoleEndpoint| match (served.endpoint.target.node(), node)
        {
            (Some(NodeSelector::Id(id)), Some(node)) => id == node,
            (Some(NodeSelector::Id(_)), None) | (_, Some(_)) => false,
            (_, None) => true,
        };
        let endpoints: Vec<_> = self
            .endpoints_of(environment, cluster)
            .filter(leads_to_node)
            .collect();
        let usable = || {
            endpoints
                .iter()
                .filter(|served| self.may_use(&served.endpoint))
        };
        // Endpoints that dial the cluster's own address come before those that choose one of its nodes.
        let dials_cluster =
            |served: &&&ConsoleEndpoint| served.endpoint.target.node() == Some(&NodeSelector::Any);
        let in_order = usable()
            .filter(dials_cluster)
            .chain(usable().filter(|served| !dials_cluster(served)));
        let mut addresses =
            in_order.filter_map(|served| hopen_address(&served.listen, self.dialled));
        if let Some(address) = addresses.next() {
            return Ok(address);
        }
        Err(self.no_address(&endpoints, cluster, node))
    }

    /// The answer if `endpoints`, which lead to the target, have no address that the viewer can dial.
    fn no_address(
        &self,
        endpoints: &[&ConsoleEndpoint],
        cluster: &str,
        node: Option<&str>,
    ) -> String {
        let user = &self.user;
        let target = match node {
            None => format!("cluster {cluster:?}"),
            Some(node) => format!("node {node:?} of cluster {cluster:?}"),
        };
        let keys = match node {
            None => format!("cluster = {cluster:?}"),
            Some(node) => format!("cluster = {cluster:?} and node = {node:?}"),
        };
        let usable = |served: &&&ConsoleEndpoint| self.may_use(&served.endpoint);
        if let Some(served) = endpoints.iter().find(usable) {
            return format!(
                "endpoint {} leads to {target}, but has no address that hopen could dial from there. Fix: \
                 add one to its listen.",
                served.endpoint.name
            );
        }
        match endpoints.first() {
            Some(served) if self.sees_all => format!(
                "endpoint {} leads to {target}, but not for {user}. Fix: add {user} to its users.",
                served.endpoint.name
            ),
            None if self.sees_all => {
                format!("no endpoint leads to {target}. Fix: add an [[endpoint]] with {keys}.")
            }
            _ => format!(
                "no endpoint that {user} may use leads to {target}. Fix: ask the administrator for an \
                 [[endpoint]] with {keys}."
            ),
        }
    }

    fn may_use(&self, endpoint: &Endpoint) -> bool {
        endpoint.users.iter().any(|user| user.name == self.user)
    }

    /// The endpoints that lead to the cluster or to its nodes.
    fn endpoints_of<'a>(
        &'a self,
        environment: Option<&'a Arc<Environment>>,
        cluster: &'a str,
    ) -> impl Iterator<Item = &'a ConsoleEndpoint> {
        self.endpoints
            .iter()
            .filter(move |served| match &served.endpoint.target {
                Target::FinSpace {
                    environment: own_environment,
                    cluster: own_cluster,
                    ..
                } => Some(own_environment) == environment && own_cluster == cluster,
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

    pub(in crate::console) fn endpoints() -> Vec<ConsoleEndpoint> {
        let accounts = |name: &str| {
            Ok(Some(OsUser {
                name: name.into(),
                uid: name.parse().unwrap(),
            }))
        };
        let config = parse(FILE, "hopend.toml".as_ref(), &accounts).unwrap();
        let endpoints = config.endpoints.into_iter();
        endpoints
            .map(|endpoint| ConsoleEndpoint {
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
        let found = endpoints
            .iter()
            .find_map(|served| match &served.endpoint.target {
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
        for (user, cluster, node, expected) in [
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
            assert_eq!(string(user, cluster, node), Err(expected.to_owned()));
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
