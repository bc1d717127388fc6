//! Endpoints whose logins can't be had.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::*;
use crate::config::{Environment, OsUser, parse};
use crate::credential::{Clock, Fetch, FetchError, Now};
use crate::finspace::Cluster;
use crate::nodes::Discover;

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

#[tokio::test(start_paused = true)]
async fn aws_that_is_silent_is_not_waited_for_once_a_node() {
    let account = |name: &str| {
        Ok(Some(OsUser {
            name: name.to_owned(),
            uid: 1_000,
        }))
    };
    let config =
        parse(CONFIG, Path::new("/hopend.toml"), &account).unwrap_or_else(|p| panic!("{p}"));
    let (endpoint, user) = (&config.endpoints[0], &config.users[0]);
    let (started, wall) = (Instant::now(), std::time::SystemTime::now());
    let clock = Clock::from_fn(move || Now {
        wall: wall + started.elapsed(),
        mono: Instant::now().into_std(),
    });
    let credentials = Credentials::new(Arc::new(Silent), clock);
    let nodes = Nodes::new(Arc::new(Silent));
    let route = Route::new(Arc::clone(endpoint), &TlsConfigs::default(), &nodes);
    let hello = Hello {
        user: "alice".into(),
        password: Secret::new(""),
        capability: Some(3),
    };
    let began = Instant::now();
    let error = route.open(user, &hello, &credentials).await.unwrap_err();
    assert!(matches!(error, OpenError::Credential(_)), "{error}");
    assert!(began.elapsed() < 2 * SILENCE, "{:?}", began.elapsed());
}
