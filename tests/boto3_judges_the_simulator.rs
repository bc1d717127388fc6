//! The simulator speaks as AWS does, in the judgement of botocore and Amazon's own service models.

use simulator::{ApiFault, OFFERED_OPERATIONS, OFFERED_STS_OPERATIONS, Options, Simulator, Times};

use crate::support::python;

async fn start() -> Simulator {
    Simulator::start(Options::default()).await.unwrap()
}

/// Runs a step of the script as the administrator.
async fn judge(sim: &Simulator, arguments: &[&str]) -> Vec<String> {
    let (access_key, secret_key) = sim.base_credentials();
    judge_as(sim, arguments, (access_key, secret_key, None)).await
}

async fn judge_as(
    sim: &Simulator,
    arguments: &[&str],
    (access_key, secret_key, token): (&str, &str, Option<&str>),
) -> Vec<String> {
    let (finspace, sts) = (sim.api_url(), sim.sts_url());
    let (role, user) = (sim.role_arn("alice"), sim.user_arn("alice"));
    let mut variables = vec![
        ("SIM_FINSPACE_URL", finspace.as_str()),
        ("SIM_STS_URL", sts.as_str()),
        ("SIM_ENVIRONMENT", sim.environment_id()),
        ("SIM_ROLE_ARN", role.as_str()),
        ("SIM_USER_ARN", user.as_str()),
        ("SIM_ACCESS_KEY", access_key),
        ("SIM_SECRET_KEY", secret_key),
    ];
    variables.extend(token.map(|token| ("SIM_SESSION_TOKEN", token)));
    python::run("boto3_judge.py", arguments, &variables).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_that_is_offered_is_called_and_understood() {
    let sim = start().await;
    let lines = judge(&sim, &["operations"]).await;
    let mut called: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("called "))
        .collect();
    called.sort_unstable();
    called.dedup();
    let mut offered: Vec<&str> = OFFERED_OPERATIONS.iter().map(|op| op.name).collect();
    offered.extend(OFFERED_STS_OPERATIONS);
    offered.sort_unstable();
    assert_eq!(called, offered);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_followed_page_by_page() {
    let sim = start().await;
    sim.add_user("bob");
    let lines = judge(&sim, &["pages"]).await;
    for said in [
        "ListKxEnvironments: 1 pages",
        "ListKxClusters: 3 pages",
        "ListKxClusterNodes: 3 pages",
        "ListKxUsers: 2 pages",
    ] {
        assert!(lines.iter().any(|line| line == said), "{said}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_in_the_models_own_terms() {
    judge(&start().await, &["refusals"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_are_set_are_raised_in_their_class() {
    let sim = start().await;
    for (operation, status, code) in [
        ("ListKxUsers", 500, "InternalServerException"),
        ("GetKxEnvironment", 403, "AccessDeniedException"),
        ("DeleteKxUser", 404, "ResourceNotFoundException"),
        ("DeleteKxCluster", 400, "LimitExceededException"),
        ("ListKxEnvironments", 400, "ValidationException"),
    ] {
        let (code, message) = (code.into(), "set by the test".into());
        let fault = ApiFault::Error {
            status,
            code,
            message,
        };
        sim.faults().api(operation, fault, Times::Next(1));
    }
    for operation in ["ListKxClusters", "GetCallerIdentity"] {
        let throttle = ApiFault::Throttle;
        sim.faults().api(operation, throttle, Times::Next(1));
    }
    let faults = [
        "faults",
        "ListKxUsers=InternalServerException",
        "GetKxEnvironment=AccessDeniedException",
        "DeleteKxUser=ResourceNotFoundException",
        "DeleteKxCluster=LimitExceededException",
        "ListKxEnvironments=ValidationException",
        "ListKxClusters=ThrottlingException",
        "GetCallerIdentity=Throttling",
    ];
    judge(&sim, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_a_signature_that_does_not_match() {
    judge(&start().await, &["wrong_secret"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_is_an_expired_token() {
    let sim = start().await;
    let lines = judge(&sim, &["assume"]).await;
    let session = lines.iter().find_map(|line| line.strip_prefix("session "));
    let keys: Vec<&str> = session.unwrap().split(' ').collect();
    let [access_key, secret_key, token] = keys[..] else {
        panic!("{keys:?}");
    };
    sim.end_sessions();
    judge_as(&sim, &["expired"], (access_key, secret_key, Some(token))).await;
}
