//! When AWS does not give what is asked for, the client sees a failure of the right kind and the log
//! says which call, as whom, on what, and what to do.

use simulator::{ApiFault, Options, Simulator, Times};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crate::support::qclient::Refused;
use crate::support::{Log, QClient, Stage, account};

async fn denied(action: &str) -> (Stage, Log, crate::support::log::Capture) {
    let (log, guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    sim.faults().deny("*", action, "*");
    (Stage::builder().simulator(sim).start().await, log, guard)
}

async fn hopen(stage: &Stage) -> Refused {
    let opened = QClient::open(stage.address("hdb"), "", "").await;
    opened.err().expect("it was let in")
}

#[tokio::test]
async fn access_denied_at_each_of_the_three_calls_names_action_role_and_resource() {
    let role = format!("role/user-{}", account());
    for (action, resource) in [
        ("finspace:GetKxUser", "in environment"),
        ("sts:AssumeRole", role.as_str()),
        ("finspace:GetKxConnectionString", "cluster hdb-cluster"),
    ] {
        let (stage, log, _guard) = denied(action).await;
        let refused = hopen(&stage).await;
        assert!(matches!(refused, Refused::Access), "{action}: {refused:?}");
        let line = log
            .line_with(&["session refused", action, "AccessDenied", "kind=\"denied\""])
            .await;
        assert!(line.contains(resource), "{line}");
        assert!(line.contains("allow "), "a remedy: {line}");
        let as_whom = if action == "finspace:GetKxConnectionString" {
            role.as_str()
        } else {
            "the daemon's own AWS credentials"
        };
        assert!(line.contains(as_whom), "{line}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.cluster("no-such-cluster"))
        .start()
        .await;
    assert!(matches!(hopen(&stage).await, Refused::Broken(_)));
    log.line_with(&[
        "session refused",
        "ResourceNotFoundException",
        "no-such-cluster",
        "kind=\"configuration\"",
    ])
    .await;
    stage.open("rdb").await;
}

#[tokio::test]
async fn throttled_is_told_and_tried_again() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    sim.faults()
        .api("AssumeRole", ApiFault::Throttle, Times::Always);
    let stage = Stage::builder().simulator(sim).start().await;
    log.line_with(&["sts:AssumeRole", "Throttling", "goes on trying"])
        .await;
    assert!(matches!(hopen(&stage).await, Refused::Broken(_)));
    stage.sim.faults().clear();
    // The keepers find it again by themselves.
    stage.sim.wait_for_calls("GetKxConnectionString", 4).await;
    log.line_with(&["credential fetched", "hdb-cluster"]).await;
}

#[tokio::test]
async fn an_answer_that_is_no_connection_string_is_never_shown() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    sim.faults()
        .api("GetKxConnectionString", ApiFault::Garbage, Times::Always);
    let stage = Stage::builder().simulator(sim).start().await;
    assert!(matches!(hopen(&stage).await, Refused::Broken(_)));
    log.line_with(&["session refused", "GetKxConnectionString"])
        .await;
}

#[tokio::test]
async fn no_aws_credentials_at_all() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .configure(|config| config.environment(|sim| sim.profile("not-there")))
        .start()
        .await;
    let file = stage.folder.path().join("credentials");
    assert!(matches!(hopen(&stage).await, Refused::Broken(_)));
    log.line_with(&[
        "session refused",
        "the daemon has no AWS credentials",
        "not-there",
        "set profile",
    ])
    .await;
    // Mended while the daemon runs: found without a restart.
    let keys = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, keys.replace("[sim]", "[not-there]")).unwrap();
    stage.sim.wait_for_calls("GetKxConnectionString", 4).await;
}

#[tokio::test]
async fn credentials_that_aws_does_not_accept() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (key, _) = sim.base_credentials();
    let wrong = format!("[sim]\naws_access_key_id = {key}\naws_secret_access_key = wrong\n");
    let file = folder.path().join("credentials");
    std::fs::write(&file, wrong).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let file = file.to_str().unwrap();
    let stage = Stage::builder()
        .simulator(sim)
        .configure(|config| config.environment(|sim| sim.credentials_file(file)))
        .start()
        .await;
    assert!(matches!(hopen(&stage).await, Refused::Broken(_)));
    log.line_with(&[
        "session refused",
        "Signature",
        "renew the daemon's AWS credentials",
    ])
    .await;
}

#[tokio::test]
async fn trouble_with_one_cluster_does_not_disturb_another() {
    let (_log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    sim.faults().deny("*", "*", "*hdb-cluster*");
    let stage = Stage::builder().simulator(sim).start().await;
    assert!(matches!(hopen(&stage).await, Refused::Access));
    stage.open("rdb").await;
    stage.open("plain").await;
}

/// What stands between hopend and STS answers, and no AWS.
#[tokio::test]
async fn an_answer_without_a_code_names_the_status_and_the_key_of_the_service() {
    // One for all: calls of the first daemon are under way when the second one starts.
    let (log, _guard) = Log::capture();
    for (key, action) in [
        ("sts_endpoint_url", "sts:AssumeRole"),
        ("endpoint_url", "finspace:GetKxUser"),
    ] {
        let proxy = axum::Router::new().fallback(|| async {
            let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
            (status, "<html>try again later</html>")
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, proxy).await });
        let stage = Stage::builder()
            .configure(|config| config.environment(|sim| sim.key(key, url)))
            .start()
            .await;
        assert!(matches!(hopen(&stage).await, Refused::Broken(_)), "{key}");
        let line = log
            .line_with(&["session refused", action, "HTTP 503"])
            .await;
        let (_, fix) = line.split_once("Fix: ").unwrap();
        assert!(fix.contains(&format!("check {key},")), "{line}");
    }
}
