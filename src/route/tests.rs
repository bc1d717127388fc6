//! Endpoints whose logins fail.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::*;
use crate::config::{Config, OsUser, parse};
use crate::credential::Discover;
use crate::credential::{Clock, Credential, Fetch, FetchError, Now, Retry};
use crate::route::nodes::Nodes;
use crate::upstream::UpstreamError;
use crate::upstream::tls::TlsConfigs;
use base::error::ErrorKind;
use finspace::Cluster;
use finspace::environment::Environment;
use secret::Secret;

const NODES: usize = 20;
/// How long a call takes that AWS does not answer.
const SILENCE: Duration = Duration::from_secs(12);

const CONFIG: &str = r#"
[environment.prod]
id = "sdb3moagybykax4oexvsq4"
region = "us-east-1"

[[user]]
name = "alice"
os_user = "alice"

[[endpoint]]
name = "hdb"
listen = "127.0.0.1:5010"
cluster = "hdb-cluster"
node = "spread"
"#;

/// Lists nodes, and gives no login.
struct Silent;

impl Fetch for Silent {
    fn fetch<'a>(&'a self, _: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>> {
        async {
            sleep(SILENCE).await;
            Err(FetchError {
                kind: ErrorKind::ControlPlane,
                retry: Retry::Soon,
                message: "no answer in time".into(),
                remedy: "check the way to AWS".into(),
            })
        }
        .boxed()
    }
}

impl Discover for Silent {
    fn clusters<'a>(
        &'a self,
        _: &'a Arc<Environment>,
    ) -> BoxFuture<'a, Result<Vec<Cluster>, FetchError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn nodes<'a>(
        &'a self,
        _: &'a Arc<Environment>,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Vec<finspace::Node>, FetchError>> {
        let node = |nth: usize| finspace::Node {
            id: format!("node-{nth}"),
            zone: "use1-az1".into(),
            launched: None,
            status: "RUNNING".into(),
        };
        async move { Ok((0..NODES).map(node).collect()) }.boxed()
    }

    fn zone(&self) -> BoxFuture<'_, Result<String, FetchError>> {
        std::future::pending().boxed()
    }
}

/// The endpoint with one more line.
pub(super) fn config(line: &str) -> Config {
    read(&format!("{CONFIG}{line}\n"))
}

fn read(text: &str) -> Config {
    let account = |name: &str| {
        Ok(Some(OsUser {
            name: name.to_owned(),
            uid: 1_000,
        }))
    };
    parse(text, Path::new("/hopend.toml"), &account).unwrap_or_else(|p| panic!("{p}"))
}

fn hello() -> Hello {
    Hello {
        user: "alice".into(),
        password: Secret::new(""),
        capability: Some(3),
    }
}

#[tokio::test(start_paused = true)]
async fn aws_that_is_silent_is_not_waited_for_once_a_node() {
    let config = config("");
    let (endpoint, user) = (&config.endpoints[0], &config.users[0]);
    let (started, wall) = (Instant::now(), std::time::SystemTime::now());
    let clock = Clock::from_fn(move || Now {
        wall: wall + started.elapsed(),
        mono: Instant::now().into_std(),
    });
    let credentials = Credentials::new(Arc::new(Silent), clock);
    let nodes = Nodes::new(Arc::new(Silent));
    let route = route(Arc::clone(endpoint), &nodes);
    let began = Instant::now();
    let error = route
        .open(
            user,
            &hello(),
            &credentials,
            &Arc::default(),
            &DialledEndpoints::of_none(route.endpoint()),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Credential(_)), "{error}");
    assert!(began.elapsed() < 2 * SILENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_reset_that_a_clients_own_login_provoked_keeps_nobody_else_away() {
    let kdb = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = kdb.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = kdb.accept().await {
            // Closing with bytes unread is a reset.
            let _ = stream.readable().await;
        }
    });
    let (head, _) = CONFIG.split_once("cluster = ").unwrap();
    let config = read(&format!(
        "{head}connect = \":{address}\"\nlogin = \"client\"\n"
    ));
    let nodes = Nodes::new(Arc::new(Silent));
    let endpoint = Arc::clone(&config.endpoints[0]);
    let route = route(endpoint, &nodes);
    let credentials = Credentials::new(Arc::new(Silent), Clock::system());
    let opened = route
        .open(
            &config.users[0],
            &hello(),
            &credentials,
            &Arc::default(),
            &DialledEndpoints::of_none(route.endpoint()),
        )
        .await;
    let error = opened.unwrap_err();
    let broken = matches!(&error, OpenError::Upstream(UpstreamError::Login { .. }));
    assert!(broken, "{error}");
    assert_eq!(
        route.address_rows()[0].reason,
        None,
        "it rests for everybody"
    );
}

fn route(endpoint: Arc<Endpoint>, nodes: &Nodes) -> Arc<Route> {
    match PreparedTarget::new(endpoint, &TlsConfigs::default(), nodes) {
        PreparedTarget::Kdb(route) => route,
        PreparedTarget::Console(_) => panic!("a console"),
    }
}

/// How many addresses have a probe.
fn probes(route: &Route) -> usize {
    route.target.prober().map_or(0, probe::Prober::count)
}

async fn open(
    route: &Arc<Route>,
    user: &Arc<User>,
    credentials: &Credentials,
) -> Result<KdbConnection, OpenError> {
    route
        .open(
            user,
            &hello(),
            credentials,
            &Arc::default(),
            &DialledEndpoints::of_none(route.endpoint()),
        )
        .await
}

/// Two ports where nobody listens.
async fn nobody() -> [std::net::SocketAddr; 2] {
    let [one, other] = [
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    [one.local_addr().unwrap(), other.local_addr().unwrap()]
}

#[tokio::test]
async fn each_address_that_fails_has_one_probe_until_the_endpoint_is_served_no_more() {
    let [one, other] = nobody().await;
    let (head, _) = CONFIG.split_once("cluster = ").unwrap();
    let config = read(&format!(
        "{head}connect = [\":{one}\", \":{other}\"]\nlogin = \"client\"\n"
    ));
    let nodes = Nodes::new(Arc::new(Silent));
    let endpoint = Arc::clone(&config.endpoints[0]);
    let route = route(endpoint, &nodes);
    let credentials = Credentials::new(Arc::new(Silent), Clock::system());
    for _ in 0..3 {
        open(&route, &config.users[0], &credentials)
            .await
            .unwrap_err();
        assert_eq!(probes(&route), 2);
    }
    drop(route.guard());
    let ended = tokio::time::timeout(Duration::from_secs(60), route.closed());
    ended.await.expect("probes go on");
    assert_eq!(probes(&route), 0);
    open(&route, &config.users[0], &credentials)
        .await
        .unwrap_err();
    assert_eq!(probes(&route), 0, "the endpoint is gone");
}

#[tokio::test]
async fn one_address_alone_is_not_probed() {
    let [one, _] = nobody().await;
    let (head, _) = CONFIG.split_once("cluster = ").unwrap();
    let config = read(&format!("{head}connect = \":{one}\"\nlogin = \"client\"\n"));
    let nodes = Nodes::new(Arc::new(Silent));
    let endpoint = Arc::clone(&config.endpoints[0]);
    let route = route(endpoint, &nodes);
    let credentials = Credentials::new(Arc::new(Silent), Clock::system());
    open(&route, &config.users[0], &credentials)
        .await
        .unwrap_err();
    assert_eq!(probes(&route), 0);
}

#[tokio::test]
async fn a_console_has_no_route() {
    let (head, _) = CONFIG.split_once("cluster = ").unwrap();
    let config = read(&format!("{head}kind = \"console\"\n"));
    let endpoint = Arc::clone(&config.endpoints[0]);
    let nodes = Nodes::new(Arc::new(Silent));
    let target = PreparedTarget::new(endpoint, &TlsConfigs::default(), &nodes);
    let PreparedTarget::Console(console) = &target else {
        panic!("a route to kdb+");
    };
    assert_eq!(console.environment().unwrap().name, "prod");
    assert!(target.recipes(&config.users[0]).is_empty());
    assert!(target.guard().is_none(), "a console has nothing to close");
}
