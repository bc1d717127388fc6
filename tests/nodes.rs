//! Endpoints that choose a node, and addresses that take turns: evenly, the nearest first, around
//! one that fails, and back to it when it works again.

use std::collections::BTreeMap;

use hopend::credential::CredentialStatus;
use q_ipc::value::Value;
use simulator::{ApiFault, ClusterFault, Times};
use tokio::net::TcpListener;

use crate::support::configuration::EndpointTable;
use crate::support::process::command;
use crate::support::qclient::Refused;
use crate::support::{Log, Process, QClient, Stage};

const NODES: [&str; 3] = ["sim-hdb-node-1", "sim-hdb-node-2", "sim-hdb-node-3"];

/// The endpoint `hdb` with more keys.
async fn stage(hdb: impl FnOnce(EndpointTable) -> EndpointTable) -> Stage {
    Stage::builder().endpoint("hdb", hdb).start().await
}

/// Opens a handle, and the node that it leads to.
async fn node_of(stage: &Stage) -> String {
    let mut handle = stage.open("hdb").await;
    let Value::Symbol(node) = handle.ask("nodeId[]").await.unwrap() else {
        panic!("no symbol");
    };
    node
}

async fn opens(stage: &Stage, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        *counts.entry(node_of(stage).await).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn spread_is_even_and_every_string_is_there_before_the_first_open() {
    let stage = stage(|hdb| hdb.node("spread")).await;
    // Three nodes for each of two users, and the other endpoints' own.
    stage
        .sim
        .wait_for_calls("GetKxConnectionString", 2 * 3 + 2)
        .await;
    let counts = opens(&stage, 300).await;
    assert_eq!(counts.len(), 3);
    for (node, count) in &counts {
        assert!((90..=110).contains(count), "{node}: {counts:?}");
    }
    assert_eq!(
        stage.sim.calls("GetKxConnectionString"),
        2 * 3 + 2,
        "AWS is not asked when a handle is opened"
    );
}

#[tokio::test]
async fn a_node_that_dies_costs_no_open_and_is_used_again_when_it_is_back() {
    let (log, _guard) = Log::capture();
    let stage = stage(|hdb| hdb.node("spread")).await;
    assert_eq!(opens(&stage, 3).await.len(), 3);
    stage.sim.stop_node(NODES[1]).await;
    let counts = opens(&stage, 30).await;
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!(
        counts.values().all(|count| (13..=17).contains(count)),
        "the others share what was its own: {counts:?}"
    );
    log.line_with(&["rests: ", NODES[1], "no connection"]).await;
    stage.sim.start_node(NODES[1]).await;
    // It rests for a second at the most, and opens go on meanwhile.
    while node_of(&stage).await != NODES[1] {}
    log.line_with(&["works again", NODES[1]]).await;
    let counts = opens(&stage, 30).await;
    assert_eq!(counts.len(), 3, "{counts:?}");
}

#[tokio::test]
async fn all_nodes_dead_is_an_error_and_one_back_is_enough() {
    let stage = stage(|hdb| hdb.node("spread").connect_timeout("2s")).await;
    opens(&stage, 3).await;
    for node in NODES {
        stage.sim.stop_node(node).await;
    }
    for _ in 0..3 {
        let refused = QClient::open(stage.address("hdb"), "", "").await;
        assert!(matches!(refused, Err(Refused::Broken(_))));
    }
    stage.sim.start_node(NODES[2]).await;
    // All of them rest: then the one that is back is tried all the same.
    assert_eq!(node_of(&stage).await, NODES[2]);
}

#[tokio::test]
async fn the_nearest_node_first_and_others_when_it_fails() {
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.node("zone"))
        .daemon(|daemon| daemon.zone("use1-az2"))
        .start()
        .await;
    assert_eq!(opens(&stage, 5).await, [(NODES[1].to_owned(), 5)].into());
    stage.sim.stop_node(NODES[1]).await;
    let counts = opens(&stage, 6).await;
    assert_eq!(counts.keys().collect::<Vec<_>>(), [NODES[0], NODES[2]]);
    stage.sim.start_node(NODES[1]).await;
    while node_of(&stage).await != NODES[1] {}
}

#[tokio::test]
async fn the_zone_is_asked_of_instance_metadata() {
    let metadata = axum::Router::new()
        .route(
            "/latest/api/token",
            axum::routing::put(|| async {
                ([("x-aws-ec2-metadata-token-ttl-seconds", "60")], "token")
            }),
        )
        .route(
            "/latest/meta-data/placement/availability-zone-id",
            axum::routing::get(|| async { "use1-az3" }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, metadata).await });

    let stage = stage(|hdb| hdb.node("zone")).await;
    let config = stage.config_path();
    let mut hopend = command(&["run", "--config", config.to_str().unwrap()]);
    hopend.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", url);
    let learnt = tokio::task::spawn_blocking(move || {
        let mut process = Process::spawn(&mut hopend);
        process.line_with("availability zone")
    });
    assert!(learnt.await.unwrap().contains("use1-az3"));
}

#[tokio::test]
async fn one_node_by_its_id_and_what_there_is_when_it_is_gone() {
    let (log, _guard) = Log::capture();
    let stage = stage(|hdb| hdb.node("sim-hdb-node-2")).await;
    assert_eq!(opens(&stage, 3).await, [(NODES[1].to_owned(), 3)].into());

    let gone = self::stage(|hdb| hdb.node("sim-hdb-node-9")).await;
    let refused = QClient::open(gone.address("hdb"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    log.line_with(&[
        "node sim-hdb-node-9 is not in cluster hdb-cluster",
        "sim-hdb-node-1 (use1-az1), sim-hdb-node-2 (use1-az2), sim-hdb-node-3 (use1-az3)",
        "kind=\"configuration\"",
    ])
    .await;
}

#[tokio::test]
async fn whoever_may_not_list_nodes_can_still_name_one() {
    let stage = stage(|hdb| hdb.node("sim-hdb-node-2")).await;
    stage
        .sim
        .faults()
        .deny("*", "finspace:ListKxClusterNodes", "*");
    let mut stage = stage;
    // A list that was seen before stays: this one is looked at for the first time.
    stage.reload(|config| config.endpoint("hdb", |hdb| hdb.node(NODES[2])));
    assert_eq!(node_of(&stage).await, NODES[2]);
}

#[tokio::test]
async fn a_nodes_own_string_asked_of_the_cluster() {
    let stage = stage(|hdb| hdb.node("spread").node_via("cluster")).await;
    assert_eq!(opens(&stage, 6).await.len(), 3);
    assert!(
        stage.sim.connections().len() >= 6 + 3,
        "sessions to the cluster asked for the strings"
    );
    stage.sim.stop_node(NODES[0]).await;
    assert_eq!(opens(&stage, 6).await.len(), 2);
}

#[tokio::test]
async fn a_cluster_that_gives_no_string_is_named_with_what_to_do() {
    let (log, _guard) = Log::capture();
    let stage = stage(|hdb| hdb.node("no-such-node").node_via("cluster")).await;
    stage
        .sim
        .faults()
        .api("ListKxClusterNodes", ApiFault::Throttle, Times::Always);
    log.line_with(&[
        "gave no connection string for node no-such-node",
        "ResourceNotFoundException",
    ])
    .await;
}

#[tokio::test]
async fn a_refused_login_makes_a_node_rest_for_that_user_only() {
    let stage = stage(|hdb| hdb.node("spread")).await;
    opens(&stage, 3).await;
    stage
        .sim
        .faults()
        .cluster(NODES[0], ClusterFault::RefuseLogin, Times::Next(2));
    assert_eq!(
        opens(&stage, 6).await.len(),
        2,
        "fetched anew, refused, left alone"
    );
    let password = stage.password();
    let mut seen = BTreeMap::new();
    for _ in 0..3 {
        let mut alice = QClient::open(stage.address("hdb"), "alice", &password)
            .await
            .unwrap();
        let Value::Symbol(node) = alice.ask("nodeId[]").await.unwrap() else {
            panic!("no symbol");
        };
        *seen.entry(node).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// The endpoint `plain` with two addresses: one that closes what it accepts, and the real one.
async fn two_addresses(policy: &str) -> (Stage, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap();
    let tried = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&tried);
    tokio::spawn(async move {
        while let Ok((stream, _)) = dead.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    let stage = Stage::builder()
        .endpoint("plain", |plain| {
            let connect =
                [&*format!(":tcps://{address}"), plain.texts("connect")[0]].map(str::to_owned);
            plain.policy(policy).connect(connect)
        })
        .start()
        .await;
    (stage, tried)
}

#[tokio::test]
async fn an_address_that_failed_rests_while_the_next_one_serves() {
    for policy in ["failover", "spread"] {
        let (stage, tried) = two_addresses(policy).await;
        let tried = || tried.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..10 {
            let mut handle = stage.open("plain").await;
            assert_eq!(handle.ask("1+1").await.unwrap(), Value::Long(2));
        }
        assert_eq!(tried(), 1, "{policy}: once in ten opens");
        // After its rest one session tries it again, and is served by the other all the same.
        while tried() < 2 {
            stage.open("plain").await;
        }
    }
}

/// Whose credentials are kept, and for which places.
fn kept(stage: &Stage) -> Vec<String> {
    let states = stage.app.services().credentials.statuses();
    let shown =
        |state: &CredentialStatus| format!("{}: {}", state.recipe.local_user(), state.recipe);
    states.iter().map(shown).collect()
}

#[tokio::test]
async fn logins_of_users_and_nodes_that_are_gone_are_kept_no_longer() {
    let mut stage = stage(|hdb| hdb.node("spread")).await;
    let all = 2 * 3 + 2;
    stage.sim.wait_for_calls("GetKxConnectionString", all).await;
    let of_node = |stage: &Stage| kept(stage).iter().filter(|k| k.contains(NODES[1])).count();
    assert_eq!(of_node(&stage), 2);
    stage.sim.stop_node(NODES[1]).await;
    stage.sim.delist_node(NODES[1]);
    // The node that takes no connection has the list looked at again.
    opens(&stage, 3).await;
    let gone = async {
        while of_node(&stage) > 0 {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, gone)
        .await
        .expect("the node's logins stay");

    let own = crate::support::account();
    stage.reload(|config| {
        let mine = |endpoint: EndpointTable| endpoint.users(&own);
        config.endpoint("hdb", mine).endpoint("rdb", mine)
    });
    let gone = async {
        while kept(&stage).iter().any(|kept| kept.starts_with("alice: ")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(limit, gone)
        .await
        .expect("alice's logins stay");
    assert!(!kept(&stage).is_empty());
}
