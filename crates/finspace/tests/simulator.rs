//! The AWS SDK as a judge of the simulator: calls, signatures, pages, faults.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on stops with what it found"
)]

#[path = "../../simulator/tests/client/mod.rs"]
mod client;

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_finspace::config::{BehaviorVersion, Region};
use aws_sdk_finspace::error::ProvideErrorMetadata;
use client::{ask, in_future, open, start};
use q_ipc::value::Value;
use simulator::*;

fn base(sim: &Simulator) -> Credentials {
    let (access_key, secret_key) = sim.base_credentials();
    Credentials::new(access_key, secret_key, None, None, "test")
}

fn finspace(sim: &Simulator, credentials: Credentials) -> aws_sdk_finspace::Client {
    aws_sdk_finspace::Client::from_conf(
        aws_sdk_finspace::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .retry_config(aws_smithy_types::retry::RetryConfig::disabled())
            .endpoint_url(sim.api_url())
            .build(),
    )
}

fn sts(sim: &Simulator, credentials: Credentials) -> aws_sdk_sts::Client {
    aws_sdk_sts::Client::from_conf(
        aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .retry_config(aws_smithy_types::retry::RetryConfig::disabled())
            .endpoint_url(sim.sts_url())
            .build(),
    )
}

async fn assume(sim: &Simulator, user: &str) -> Credentials {
    let answer = sts(sim, base(sim))
        .assume_role()
        .role_arn(sim.role_arn(user))
        .role_session_name("hopend-test")
        .source_identity(user)
        .send()
        .await
        .unwrap();
    let keys = answer.credentials().unwrap();
    Credentials::new(
        keys.access_key_id(),
        keys.secret_access_key(),
        Some(keys.session_token().to_owned()),
        None,
        "test",
    )
}

#[tokio::test]
async fn a_connection_string_takes_the_users_own_role() {
    let sim = start().await;
    sim.add_user("bob");
    let user = finspace(&sim, base(&sim))
        .get_kx_user()
        .environment_id(sim.environment_id())
        .user_name("alice")
        .send()
        .await
        .unwrap();
    assert_eq!(user.iam_role(), Some(sim.role_arn("alice").as_str()));
    assert_eq!(user.user_arn(), Some(sim.user_arn("alice").as_str()));

    let request = |credentials, user: &str| {
        finspace(&sim, credentials)
            .get_kx_connection_string()
            .environment_id(sim.environment_id())
            .cluster_name("hdb-cluster")
            .user_arn(sim.user_arn(user))
            .send()
    };
    let error = request(base(&sim), "alice").await.unwrap_err();
    assert_eq!(error.code(), Some("AccessDeniedException"));
    let message = error.message().unwrap();
    assert!(
        message.starts_with(
            "User: arn:aws:iam::111122223333:user/hopend is not authorized to perform: \
             finspace:GetKxConnectionString on resource: arn:aws:finspace:us-east-1:"
        ),
        "{message}"
    );
    let role = assume(&sim, "alice").await;
    let error = request(role.clone(), "bob").await.unwrap_err();
    assert_eq!(error.code(), Some("AccessDeniedException"));

    let answer = request(role, "alice").await.unwrap();
    let string = answer.signed_connection_string().unwrap();
    assert!((1000..=2048).contains(&string.len()), "{}", string.len());
    assert!(string.contains("&Action=finspace%3AConnectKxCluster&X-Amz-Security-Token="));
    let mut stream = open(&sim, string).await.unwrap();
    assert_eq!(ask(&mut stream, "1+1").await, Value::Long(2));
    assert_eq!(
        ask(&mut stream, ".z.u").await,
        Value::Symbol("alice".into())
    );
    assert_eq!(sim.calls("GetKxConnectionString"), 3);
    assert_eq!(
        sim.assumed()[0],
        AssumedRole {
            role: sim.role_arn("alice"),
            session_name: "hopend-test".into(),
            source_identity: Some("alice".into()),
        }
    );
    sim.shutdown().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let sim = start().await;
    let client = finspace(&sim, base(&sim));
    let page = |token| {
        client
            .list_kx_clusters()
            .environment_id(sim.environment_id())
            .max_results(2)
            .set_next_token(token)
            .send()
    };
    let first = page(None).await.unwrap();
    assert_eq!(first.kx_cluster_summaries().len(), 2);
    let second = page(first.next_token().map(str::to_owned)).await.unwrap();
    assert_eq!(second.kx_cluster_summaries().len(), 1);
    assert_eq!(second.next_token(), None);
    let nodes = client
        .list_kx_cluster_nodes()
        .environment_id(sim.environment_id())
        .cluster_name("hdb-cluster")
        .send()
        .await
        .unwrap();
    let node = &nodes.nodes()[0];
    assert_eq!(node.node_id(), Some("sim-hdb-node-1"));
    assert_eq!(node.availability_zone_id(), Some("use1-az1"));
    assert!(node.launch_time().unwrap().secs() > 1_700_000_000);
    let error = page(Some("made up".into())).await.unwrap_err();
    assert_eq!(error.code(), Some("ValidationException"));
}

#[tokio::test]
async fn signatures_that_do_not_hold_are_refused_by_name() {
    let (offset, options) = in_future();
    let sim = Simulator::start(options).await.unwrap();
    let (access_key, secret_key) = sim.base_credentials();
    let code = |credentials: Credentials| {
        let request = finspace(&sim, credentials)
            .get_kx_environment()
            .environment_id(sim.environment_id())
            .send();
        async move { request.await.unwrap_err().code().unwrap().to_owned() }
    };
    let sts_code = |credentials: Credentials| {
        let request = sts(&sim, credentials).get_caller_identity().send();
        async move { request.await.unwrap_err().code().unwrap().to_owned() }
    };
    let wrong = Credentials::new(access_key, "wrong", None, None, "test");
    assert_eq!(code(wrong.clone()).await, "InvalidSignatureException");
    assert_eq!(sts_code(wrong).await, "SignatureDoesNotMatch");
    let nobody = Credentials::new("AKIANOBODY", secret_key, None, None, "test");
    assert_eq!(code(nobody.clone()).await, "UnrecognizedClientException");
    assert_eq!(sts_code(nobody).await, "InvalidClientTokenId");
    let role = assume(&sim, "alice").await;
    let other = Credentials::new(
        role.access_key_id(),
        role.secret_access_key(),
        Some("another token".into()),
        None,
        "test",
    );
    assert_eq!(code(other).await, "UnrecognizedClientException");
    *offset.lock().unwrap() = Duration::from_secs(3601);
    assert_eq!(code(role.clone()).await, "ExpiredTokenException");
    assert_eq!(sts_code(role).await, "ExpiredToken");
    assert_eq!(code(base(&sim)).await, "InvalidSignatureException");
}

#[tokio::test]
async fn assume_role_checks_what_it_is_given() {
    let sim = start().await;
    let client = sts(&sim, base(&sim));
    let assume = |role: String, name: &str, seconds| {
        client
            .assume_role()
            .role_arn(role)
            .role_session_name(name)
            .duration_seconds(seconds)
            .send()
    };
    let alice = sim.role_arn("alice");
    let error = assume(alice.clone(), "test", 899).await.unwrap_err();
    assert_eq!(error.code(), Some("ValidationError"));
    let error = assume(alice.clone(), "no spaces", 900).await.unwrap_err();
    assert_eq!(error.code(), Some("ValidationError"));
    let error = assume(sim.role_arn("nobody"), "test", 900)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("AccessDenied"));
    sim.faults().deny("*", "sts:AssumeRole", &alice);
    let error = assume(alice, "test", 900).await.unwrap_err();
    assert_eq!(error.code(), Some("AccessDenied"));
}

#[tokio::test]
async fn the_api_goes_wrong_as_it_is_told() {
    let sim = start().await;
    let client = finspace(&sim, base(&sim));
    let call = || client.list_kx_environments().send();
    let faults = sim.faults();
    faults.api("ListKxEnvironments", ApiFault::Throttle, Times::Next(1));
    let error = call().await.unwrap_err();
    assert_eq!(error.code(), Some("ThrottlingException"));
    faults.api("ListKxEnvironments", ApiFault::Close, Times::Next(1));
    let error = call().await.unwrap_err();
    assert!(error.as_service_error().is_none());
    faults.api("ListKxEnvironments", ApiFault::Garbage, Times::Next(1));
    let error = call().await.unwrap_err();
    assert_eq!(error.code(), None);
    let fault = ApiFault::Error {
        status: 500,
        code: "InternalServerException".into(),
        message: "no".into(),
    };
    faults.api("*", fault, Times::Next(1));
    let error = call().await.unwrap_err();
    assert_eq!(error.code(), Some("InternalServerException"));
    assert_eq!(call().await.unwrap().environments().len(), 1);
    assert_eq!(sim.calls("ListKxEnvironments"), 5);
    sim.wait_for_calls("ListKxEnvironments", 5).await;
}
