//! `hopend doctor`: its report on set-ups with one fault each, and on set-ups without faults.

use std::any::Any;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use simulator::{ApiFault, ClusterFault, Flaw, Options, Simulator, Times};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::process::command;
use crate::support::{Process, account, any_ports};

/// A set-up with one fault.
struct FaultCase {
    /// A description for failure messages.
    name: &'static str,
    /// Causes the fault.
    break_it: fn(&mut DoctorSetup),
    /// The first stage that fails.
    stage: &'static str,
    /// Texts that its finding, remedy or missing statement must hold.
    reported: &'static [&'static str],
    /// The exit code of the command.
    exit: i32,
}

const ROLE: &str = "arn:aws:iam::111122223333:role/user-alice";

/// One or more faults for every stage.
#[rustfmt::skip]
const FAULT_CASES: &[FaultCase] = &[
    // configuration
    FaultCase { name: "a mistyped key", stage: "configuration", exit: 78,
        break_it: |setup| setup.edit("cluster = \"hdb-cluster\"", "clutser = \"hdb-cluster\""),
        reported: &["hopend.toml:", "did you mean `cluster`?"] },
    FaultCase { name: "an endpoint that is not there", stage: "configuration", exit: 78,
        break_it: |setup| setup.ask(&["hbd"]),
        reported: &["no [[endpoint]] is called \"hbd\"", "hdb rdb plain"] },
    FaultCase { name: "a user who may not use the endpoint", stage: "configuration", exit: 77,
        break_it: |setup| setup.edit("cluster = \"hdb-cluster\"", "cluster = \"hdb-cluster\"\nusers = [\"root\"]"),
        reported: &["alice may not use endpoint hdb", "add the name to users"] },
    FaultCase { name: "a password file that is not there", stage: "configuration", exit: 78,
        break_it: |setup| { setup.plain(); std::fs::remove_file(setup.path("plain.password")).unwrap(); },
        reported: &["plain.password does not exist. Fix: create it"] },
    // audit file
    FaultCase { name: "an audit file in a folder that is not there", stage: "audit file", exit: 78,
        break_it: |setup| setup.edit("[daemon]", "[daemon]\naudit = \"logs/audit.log\""),
        reported: &["/logs/audit.log: No such file or directory", "make its folder"] },
    // base credentials
    FaultCase { name: "an unknown profile", stage: "base credentials", exit: 78,
        break_it: |setup| setup.edit("profile = \"sim\"", "profile = \"nobody\""),
        reported: &["no AWS credentials", "set profile"] },
    FaultCase { name: "a wrong secret key", stage: "base credentials", exit: 77,
        break_it: |setup| setup.credentials("{key}", "wrong"),
        reported: &["renew the daemon's AWS credentials, as the secret key does not belong to the access key"] },
    FaultCase { name: "an access key that AWS does not know", stage: "base credentials", exit: 77,
        break_it: |setup| setup.credentials("AKIANOSUCHKEY0000000", "{secret}"),
        reported: &["renew the daemon's AWS credentials, as AWS does not know the access key"] },
    FaultCase { name: "an expired base session", stage: "base credentials", exit: 77,
        break_it: |setup| setup.answer("GetCallerIdentity", 403, "ExpiredToken", "The security token included in the request is expired"),
        reported: &["renew them with what wrote them, as the session of the daemon's AWS credentials is over"] },
    FaultCase { name: "a clock that is wrong", stage: "base credentials", exit: 77,
        break_it: |setup| setup.answer("GetCallerIdentity", 403, "SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z"),
        reported: &["clock is wrong"] },
    FaultCase { name: "STS that can't be reached", stage: "base credentials", exit: 69,
        break_it: |setup| { let to = format!("sts_endpoint_url = \"http://127.0.0.1:{}\"", closed()); setup.edit(&format!("sts_endpoint_url = \"{}\"", setup.sim.sts_url()), &to); },
        reported: &["can't be reached", "VPC endpoint"] },
    FaultCase { name: "STS that does not answer", stage: "base credentials", exit: 69,
        break_it: |setup| setup.sim.faults().api("GetCallerIdentity", ApiFault::Hang, Times::Always),
        reported: &["no answer in time", "VPC endpoint"] },
    // GetKxUser and AssumeRole
    FaultCase { name: "GetKxUser denied", stage: "GetKxUser", exit: 77,
        break_it: |setup| setup.sim.faults().deny("*", "finspace:GetKxUser", "*"),
        reported: &["set role_arn on user alice", "\"Action\":[\"finspace:GetKxUser\"]", "/kxUser/alice\"]", "\"identity\":\"arn:aws:iam::111122223333:user/hopend\""] },
    FaultCase { name: "a FinSpace user that is not there", stage: "GetKxUser", exit: 78,
        break_it: |setup| setup.edit("name = \"alice\"", "name = \"alice\"\nkx_user = \"nobody\""),
        reported: &["user nobody", "check the name"] },
    FaultCase { name: "FinSpace's API that can't be reached", stage: "GetKxUser", exit: 69,
        break_it: |setup| { let to = format!("\nendpoint_url = \"http://127.0.0.1:{}\"", closed()); setup.edit(&format!("\nendpoint_url = \"{}\"", setup.sim.api_url()), &to); },
        reported: &["can't be reached", "endpoint_url"] },
    FaultCase { name: "AssumeRole denied by the daemon's own policies", stage: "AssumeRole", exit: 77,
        break_it: |setup| setup.sim.faults().deny("*", "sts:AssumeRole", "*"),
        reported: &["\"Action\":[\"sts:AssumeRole\",\"sts:SetSourceIdentity\"]", "\"Resource\":[\"arn:aws:iam::111122223333:role/user-alice\"]", "user/hopend"] },
    FaultCase { name: "a role that trusts somebody else", stage: "AssumeRole", exit: 77,
        break_it: |setup| setup.sim.set_trust(ROLE, r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
            "Principal":{"AWS":"arn:aws:iam::111122223333:user/other"},"Action":["sts:AssumeRole","sts:SetSourceIdentity"]}]}"#).unwrap(),
        reported: &["trust arn:aws:iam::111122223333:user/hopend in the trust policy of arn:aws:iam::111122223333:role/user-alice"] },
    FaultCase { name: "an explicit Deny", stage: "GetKxUser", exit: 77,
        break_it: |setup| setup.sim.set_policy(&setup.sim.base_arn(), r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},
            {"Effect":"Deny","Action":"finspace:GetKxUser","Resource":"*"}]}"#).unwrap(),
        reported: &["take the Deny out of an identity-based policy, which forbids it to arn:aws:iam::111122223333:user/hopend"] },
    FaultCase { name: "a role that does not trust the session's role", stage: "AssumeRole", exit: 77,
        break_it: |setup| setup.answer("AssumeRole", 403, "AccessDenied", &format!(
            "User: arn:aws:sts::111122223333:assumed-role/bastion/i-0abc is not authorized to perform: sts:AssumeRole \
             on resource: {ROLE} because no resource-based policy allows the sts:AssumeRole action")),
        reported: &["trust arn:aws:iam::111122223333:role/bastion in the trust policy of arn:aws:iam::111122223333:role/user-alice"] },
    // GetKxConnectionString
    FaultCase { name: "GetKxConnectionString denied", stage: "GetKxConnectionString", exit: 77,
        break_it: |setup| setup.sim.faults().deny("*", "finspace:GetKxConnectionString", "*"),
        reported: &["\"finspace:GetKxConnectionString\",\"finspace:ConnectKxCluster\"", "/kxCluster/hdb-cluster\"]", "\"identity\":\"arn:aws:iam::111122223333:role/user-alice\""] },
    FaultCase { name: "an answer that is no connection string", stage: "GetKxConnectionString", exit: 69,
        break_it: |setup| setup.sim.faults().api("GetKxConnectionString", ApiFault::Garbage, Times::Always),
        reported: &["check endpoint_url"] },
    FaultCase { name: "throttled", stage: "GetKxConnectionString", exit: 69,
        break_it: |setup| setup.sim.faults().api("GetKxConnectionString", ApiFault::Throttle, Times::Always),
        reported: &["ThrottlingException", "higher rate"] },
    // cluster and nodes
    FaultCase { name: "a mistyped cluster", stage: "cluster", exit: 78,
        break_it: |setup| setup.edit("\"hdb-cluster\"", "\"hdb-clustr\""),
        reported: &["the clusters are: gateway-cluster, hdb-cluster, rdb-cluster", "did you mean hdb-cluster?"] },
    FaultCase { name: "a cluster that does not run", stage: "cluster", exit: 69,
        break_it: |setup| setup.sim.set_status("hdb-cluster", "CREATE_FAILED"),
        reported: &["hdb-cluster is CREATE_FAILED", "wait until it is RUNNING"] },
    FaultCase { name: "a node that is not there", stage: "nodes", exit: 78,
        break_it: |setup| setup.edit("\"hdb-cluster\"", "\"hdb-cluster\"\nnode = \"sim-hdb-node-9\""),
        reported: &["sim-hdb-node-9 is not in cluster hdb-cluster", "sim-hdb-node-1", "set node"] },
    FaultCase { name: "nodes that may not be listed", stage: "nodes", exit: 77,
        break_it: |setup| { setup.edit("\"hdb-cluster\"", "\"hdb-cluster\"\nnode = \"spread\""); setup.sim.faults().deny("*", "finspace:ListKxClusterNodes", "*"); },
        reported: &["\"Action\":[\"finspace:ListKxClusterNodes\"]", "/kxCluster/hdb-cluster\"]"] },
    // listen
    FaultCase { name: "an address that this host does not have", stage: "listen", exit: 69,
        break_it: |setup| { let toml = setup.toml.replacen("listen = [\"127.0.0.1:0\"]", "listen = [\"192.0.2.1:5010\"]\nexpose = true", 1); setup.toml = toml; },
        reported: &["this host has no such address"] },
    FaultCase { name: "a socket in a folder that is not there", stage: "listen", exit: 78,
        break_it: |setup| { let toml = setup.toml.replacen("listen = [\"127.0.0.1:0\"]", "listen = [\"unix:/nonexistent/hopend/hdb\"]", 1); setup.toml = toml; },
        reported: &["unix:/nonexistent/hopend/hdb can't be made", "create that folder"] },
    // DNS and TCP
    FaultCase { name: "a host that does not resolve", stage: "DNS", exit: 78,
        // A label of over 63 characters is invalid, so the resolver asks no name server.
        break_it: |setup| setup.connect(&format!(":tcps://{}.internal:5010", "a".repeat(64))),
        reported: &["does not resolve", "correct the host in connect"] },
    FaultCase { name: "a closed port", stage: "TCP", exit: 69,
        break_it: |setup| setup.connect(&format!(":tcps://localhost:{}", closed())),
        reported: &["refused", "nothing listens there"] },
    FaultCase { name: "packets that get lost", stage: "TCP", exit: 69,
        break_it: |setup| { let port = setup.black_hole(); setup.connect(&format!(":tcps://127.0.0.1:{port}")); },
        reported: &["no result within", "security groups"] },
    // TLS
    FaultCase { name: "a certificate of another authority, of a cluster", stage: "TLS", exit: 78,
        break_it: |setup| setup.cluster(ClusterFault::Certificate(Flaw::OtherAuthority)),
        reported: &["CN=another CA, which is not trusted", "holds CN=hopend simulator CA", "ca_file of [environment.sim]"] },
    FaultCase { name: "a certificate of another authority", stage: "TLS", exit: 78,
        break_it: |setup| { setup.plain(); setup.fault("plain", ClusterFault::Certificate(Flaw::OtherAuthority)); },
        reported: &["CN=another CA, which is not trusted", "ca_file of endpoint \"plain\""] },
    FaultCase { name: "a certificate for another host", stage: "TLS", exit: 78,
        break_it: |setup| { setup.plain(); setup.fault("plain", ClusterFault::Certificate(Flaw::OtherHost)); },
        reported: &["the certificate is for elsewhere.example, not for localhost", "write one of its names in connect"] },
    FaultCase { name: "an expired certificate", stage: "TLS", exit: 69,
        break_it: |setup| setup.cluster(ClusterFault::Certificate(Flaw::Expired)),
        reported: &["expired on 2020-01-01", "renew it there"] },
    FaultCase { name: "a certificate that is not valid yet", stage: "TLS", exit: 69,
        break_it: |setup| setup.cluster(ClusterFault::Certificate(Flaw::NotYetValid)),
        reported: &["valid from 2099-01-01", "set this host's clock"] },
    FaultCase { name: "plain kdb+ behind a tcps address", stage: "TLS", exit: 78,
        break_it: |setup| { let port = setup.speaker(plain_kdb); setup.connect(&format!(":tcps://localhost:{port}")); },
        reported: &["kdb+ without TLS listens there", "write :localhost:"] },
    FaultCase { name: "plain kdb+ with passwords behind a tcps address", stage: "TLS", exit: 78,
        break_it: |setup| { setup.plain(); setup.fault("plain", ClusterFault::Plaintext); },
        reported: &["as plain kdb+ with passwords does", "write :localhost:"] },
    FaultCase { name: "a TLS that is too old", stage: "TLS", exit: 69,
        break_it: |setup| { let port = setup.speaker(old_tls); setup.connect(&format!(":tcps://localhost:{port}")); },
        reported: &["ProtocolVersion", "TLS 1.2 or 1.3"] },
    FaultCase { name: "a port that takes connections and says nothing", stage: "TLS", exit: 69,
        break_it: |setup| setup.cluster(ClusterFault::Stall),
        reported: &["no answer to the TLS handshake", "a proxy without a backend"] },
    // login and no-op
    FaultCase { name: "ConnectKxCluster denied", stage: "login", exit: 77,
        break_it: |setup| setup.sim.faults().deny("*", "finspace:ConnectKxCluster", "*"),
        reported: &["\"Action\":[\"finspace:ConnectKxCluster\"]", "/kxCluster/hdb-cluster\"]", "\"identity\":\"arn:aws:iam::111122223333:role/user-alice\""] },
    FaultCase { name: "a wrong password in the password file", stage: "login", exit: 77,
        break_it: |setup| { setup.plain(); setup.write("plain.password", "mistyped\n", 0o600); },
        reported: &["kdb+ refused the login of \"svc\"", "correct the password in"] },
    FaultCase { name: "TLS behind a plain address", stage: "login", exit: 78,
        break_it: |setup| { let (port, ..) = setup.sim.plain(); setup.connect(&format!(":localhost:{port}")); },
        reported: &["speaks TLS", "write :tcps://localhost:"] },
    FaultCase { name: "a cluster that does not answer the login", stage: "login", exit: 69,
        break_it: |setup| setup.cluster(ClusterFault::StallAfterLogin),
        reported: &["no answer to the login", "busy with another query"] },
    FaultCase { name: "a cluster that is silent after the login", stage: "no-op", exit: 69,
        break_it: |setup| setup.cluster(ClusterFault::Silent),
        reported: &["no result within", "accepted the login but does not answer"] },
    // login commands
    FaultCase { name: "a login command that fails", stage: "login command", exit: 69,
        break_it: |setup| setup.login_command("exit 3"),
        reported: &["exit status: 3", "run it by hand"] },
    FaultCase { name: "a login command that prints something else", stage: "login command", exit: 69,
        break_it: |setup| setup.login_command("echo geheim"),
        reported: &["is no login", "run it by hand"] },
    FaultCase { name: "a login command that never ends", stage: "login command", exit: 69,
        break_it: |setup| setup.login_command("exec sleep 600"),
        reported: &["no result within", "see what it waits for"] },
    FaultCase { name: "a login command's login that kdb+ refuses", stage: "login", exit: 77,
        break_it: |setup| setup.login_command(r#"echo '{"user":"svc","password":"mistyped"}'"#),
        reported: &["refused the login of \"svc\"", "have the login command print a login"] },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_that_is_broken_is_named_with_what_to_do() {
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = FAULT_CASES.iter();
    let mut wrong = String::new();
    loop {
        while running.len() < 6
            && let Some(case) = waiting.next()
        {
            running.spawn(judge(case));
        }
        match running.join_next().await {
            Some(judged) => wrong += &judged.unwrap(),
            None => break,
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Runs the case. Returns the differences between the report and the expectation; empty if there are none.
async fn judge(case: &'static FaultCase) -> String {
    let mut setup = DoctorSetup::new().await;
    (case.break_it)(&mut setup);
    let (code, printed) = setup.doctor(&["--json"]).await;
    let rows: Vec<Value> = serde_json::from_str(&printed).unwrap_or_default();
    let mut wrong = String::new();
    let failed = rows.iter().find(|row| row["outcome"] == "failed");
    match failed {
        Some(row) => {
            if row["stage"] != case.stage {
                let _ = writeln!(wrong, "  not {} but {} failed", case.stage, row["stage"]);
            }
            let text = format!(
                "{} {} {}",
                row["finding"].as_str().unwrap(),
                row["remedy"].as_str().unwrap_or_default(),
                row["missing"]
            );
            for part in case.reported.iter().filter(|part| !text.contains(**part)) {
                let _ = writeln!(wrong, "  it does not say: {part}");
            }
        }
        None => wrong += "  nothing failed\n",
    }
    if code != Some(case.exit) {
        let _ = writeln!(wrong, "  ended with {code:?}, not {}", case.exit);
    }
    for secret in setup
        .secrets()
        .iter()
        .filter(|secret| printed.contains(*secret))
    {
        let _ = writeln!(wrong, "  shows the secret {secret}");
    }
    if wrong.is_empty() {
        return wrong;
    }
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    format!(
        "{}:\n{wrong}{printed_rows}\n\n",
        case.name,
        printed_rows = rows.join("\n")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_every_stage_passes_and_no_secret_is_shown() {
    let mut setup = DoctorSetup::new().await;
    for (name, more) in [
        (
            "node",
            "cluster = \"hdb-cluster\"\nnode = \"sim-hdb-node-2\"",
        ),
        (
            "via",
            "cluster = \"hdb-cluster\"\nnode = \"zone\"\nnode_via = \"cluster\"",
        ),
    ] {
        let text =
            format!("\n[[endpoint]]\nname = \"{name}\"\nlisten = [\"127.0.0.1:0\"]\n{more}\n");
        setup.toml += &text;
    }
    setup.toml = setup
        .toml
        .replace("\n[daemon]\n", "\n[daemon]\nzone = \"use1-az2\"\n");
    setup.arguments.clear();
    let (code, printed) = setup.doctor(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        !printed.contains('✗') && !printed.contains('!'),
        "{printed}"
    );
    assert!(printed.contains("all is well"), "{printed}");
    let me = account();
    // Stages that endpoints share run once. The others run for each user, each node and each address.
    let count = |text: &str| printed.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count(" configuration "), 1, "{printed}");
    assert_eq!(count(" base credentials "), 1, "{printed}");
    assert_eq!(
        count(&format!("environment sim, user {me}")),
        1,
        "{printed}"
    );
    assert_eq!(count(" AssumeRole "), 2, "{printed}");
    assert_eq!(count("endpoint via, user alice, node "), 3, "{printed}");
    assert_eq!(count(" no-op "), 2 + 2 + 1 + 2 + (2 + 6), "{printed}");
    assert!(
        printed.contains("a console: hopend itself answers"),
        "{printed}"
    );
    let secrets = setup.secrets();
    assert!(secrets.len() > 20, "{}", secrets.len());
    for secret in secrets {
        assert!(!printed.contains(&secret), "{secret} in\n{printed}");
    }
    // Standard output is no terminal here, so there are no colours.
    assert!(!printed.contains('\x1b'), "{printed:?}");
    // The doctor closes its connections before it exits.
    setup.sim.wait_for_connections("hdb-cluster", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_still_be_looked_at_is() {
    let mut setup = DoctorSetup::new().await;
    setup
        .sim
        .faults()
        .deny("*", "finspace:GetKxConnectionString", "*");
    let outcomes = setup.outcomes().await;
    for (stage, outcome) in [
        ("AssumeRole", "passed"),
        ("cluster", "passed"),
        ("nodes", "passed"),
        ("GetKxConnectionString", "failed"),
        ("DNS", "skipped"),
        ("TLS", "skipped"),
        ("no-op", "skipped"),
    ] {
        assert!(
            outcomes.contains(&(stage.into(), outcome.into())),
            "{stage}: {outcomes:?}"
        );
    }

    let mut setup = DoctorSetup::new().await;
    setup.plain();
    std::fs::remove_file(setup.path("plain.password")).unwrap();
    let outcomes = setup.outcomes().await;
    for (stage, outcome) in [
        ("configuration", "failed"),
        ("DNS", "passed"),
        ("TCP", "passed"),
        ("TLS", "passed"),
        ("password file", "failed"),
        ("login", "skipped"),
        ("no-op", "skipped"),
    ] {
        assert!(
            outcomes.contains(&(stage.into(), outcome.into())),
            "{stage}: {outcomes:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told_and_the_other_stages_go_on() {
    let options = Options {
        clock: Arc::new(|| SystemTime::now() - Duration::from_secs(3_660)),
        ..Options::default()
    };
    let mut setup = DoctorSetup::of(Simulator::start(options).await.unwrap());
    let (_, printed) = setup.doctor(&[]).await;
    assert!(
        printed.contains("this host's clock is 61 min ahead of AWS's"),
        "{printed}"
    );
    assert!(printed.contains("set this host's clock"), "{printed}");
    let outcomes = setup.outcomes().await;
    for (stage, outcome) in [
        ("base credentials", "warned"),
        ("AssumeRole", "passed"),
        ("GetKxConnectionString", "passed"),
        ("login", "passed"),
        ("no-op", "passed"),
    ] {
        assert!(
            outcomes.contains(&(stage.into(), outcome.into())),
            "{stage}: {outcomes:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn least_privilege_is_no_fault_and_a_certificate_that_ends_soon_is_a_warning() {
    let mut setup = DoctorSetup::new().await;
    setup.sim.faults().deny("*", "finspace:List*", "*");
    setup.cluster(ClusterFault::Certificate(Flaw::EndsSoon));
    let (code, printed) = setup.doctor(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    let line = |stage: &str| printed.lines().find(|line| line.contains(stage)).unwrap();
    assert!(
        line(" cluster ").contains("not needed to serve"),
        "{printed}"
    );
    assert!(line(" nodes ").contains("not needed to serve"), "{printed}");
    for stage in [" cluster ", " nodes "] {
        assert!(line(stage).contains('–'), "not a warning: {printed}");
    }
    assert!(line(" TLS ").contains('!'), "{printed}");
    assert!(
        printed.contains("renew the certificate of CN=localhost there: 5 days are left"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_address_has_no_tls_stage() {
    for reachable in [true, false] {
        let mut setup = DoctorSetup::new().await;
        let port = match reachable {
            true => setup.speaker(plain_kdb),
            false => closed(),
        };
        setup.connect(&format!(":localhost:{port}"));
        let outcomes = setup.outcomes().await;
        let tcp = if reachable { "passed" } else { "failed" };
        assert!(
            outcomes.contains(&("TCP".into(), tcp.into())),
            "{outcomes:?}"
        );
        let stages: Vec<_> = outcomes.iter().map(|(stage, _)| &**stage).collect();
        assert!(!stages.contains(&"TLS"), "{stages:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_own_login_is_tried_with_a_password_that_is_asked_for() {
    let mut setup = DoctorSetup::new().await;
    setup.plain();
    let (_, user, password) = setup.sim.plain();
    let (user, password) = (user.to_owned(), password.to_owned());
    setup.edit("name = \"alice\"", &format!("name = \"{user}\""));
    let begin = setup.toml.find("login = {").unwrap();
    let end = begin + setup.toml[begin..].find('\n').unwrap();
    setup.toml.replace_range(begin..end, "login = \"client\"");
    let outcomes = setup.outcomes().await;
    assert!(
        outcomes.contains(&("login".into(), "skipped".into())),
        "{outcomes:?}"
    );

    setup.arguments = ["plain", "--user", &user, "--ask-password"]
        .map(String::from)
        .into();
    setup.input = format!("{password}\n");
    let (code, printed) = setup.doctor(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("kdb+ accepted \"svc\""), "{printed}");
    setup.input = "mistyped\n".into();
    let (code, printed) = setup.doctor(&[]).await;
    assert_eq!(code, Some(77), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_is_seen_at_its_addresses() {
    let setup = DoctorSetup::new().await;
    let folder = setup.folder.path().to_owned();
    let toml = setup.toml.replacen(
        "listen = [\"127.0.0.1:0\"]",
        &format!(
            "listen = [{:?}]",
            format!("unix:{}", folder.join("hdb").display())
        ),
        1,
    );
    let setup = DoctorSetup { toml, ..setup };
    let config = setup.save();
    let (code, before) = setup.doctor(&[]).await;
    assert_eq!(code, Some(0), "{before}");
    assert!(before.contains("hdb is free: no daemon runs"), "{before}");
    let daemon = tokio::task::spawn_blocking(move || {
        let mut daemon = Process::start(&["run", "--config", config.to_str().unwrap()]);
        daemon.line_with("ready");
        daemon
    })
    .await
    .unwrap();
    let (code, during) = setup.doctor(&[]).await;
    assert_eq!(code, Some(0), "{during}");
    assert!(during.contains("hdb answers: a daemon runs"), "{during}");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, log) = tokio::task::spawn_blocking(|| daemon.end()).await.unwrap();
    assert!(status.success(), "{log}");
}

/// A simulator, a configuration for it, and the arguments of `hopend doctor`.
struct DoctorSetup {
    sim: Simulator,
    folder: tempfile::TempDir,
    toml: String,
    arguments: Vec<String>,
    input: String,
    /// Sockets that must stay open during the test.
    held: Vec<Box<dyn Any + Send + Sync>>,
}

impl DoctorSetup {
    /// A set-up without faults. The arguments select the endpoint hdb and the user alice.
    async fn new() -> Self {
        Self::of(Simulator::start(Options::default()).await.unwrap())
    }

    fn of(sim: Simulator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = sim.write_files(folder.path(), &account()).unwrap();
        let toml = any_ports(std::fs::read_to_string(path).unwrap());
        Self {
            sim,
            folder,
            toml,
            arguments: ["hdb", "--user", "alice"].map(String::from).into(),
            input: String::new(),
            held: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn save(&self) -> PathBuf {
        self.write("hopend.toml", &self.toml, 0o600)
    }

    fn edit(&mut self, from: &str, to: &str) {
        assert!(self.toml.contains(from), "no {from} in\n{}", self.toml);
        self.toml = self.toml.replacen(from, to, 1);
    }

    fn ask(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
    }

    /// Selects the endpoint without FinSpace.
    fn plain(&mut self) {
        self.ask(&["plain"]);
    }

    /// Selects the endpoint without FinSpace, and changes its address.
    fn connect(&mut self, address: &str) {
        self.plain();
        let (port, ..) = self.sim.plain();
        self.edit(&format!(":tcps://localhost:{port}"), address);
    }

    /// Selects the endpoint without FinSpace, and gives it a shell script as login command.
    fn login_command(&mut self, script: &str) {
        self.ask(&["plain", "--user", "alice"]);
        let begin = self.toml.find("login = {").unwrap();
        let end = begin + self.toml[begin..].find('\n').unwrap();
        let script = self.write("login", &format!("#!/bin/sh\n{script}\n"), 0o700);
        let login = format!("login = {{ command = [{script:?}] }}");
        self.toml.replace_range(begin..end, &login);
    }

    fn credentials(&mut self, key: &str, secret: &str) {
        let (right_key, right_secret) = self.sim.base_credentials();
        let text = format!("[sim]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
            .replace("{key}", right_key)
            .replace("{secret}", right_secret);
        self.write("credentials", &text, 0o600);
    }

    fn answer(&mut self, operation: &str, status: u16, code: &str, message: &str) {
        let fault = ApiFault::Error {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        self.sim.faults().api(operation, fault, Times::Always);
    }

    fn cluster(&mut self, fault: ClusterFault) {
        self.fault("*", fault);
    }

    fn fault(&mut self, name: &str, fault: ClusterFault) {
        self.sim.faults().cluster(name, fault, Times::Always);
    }

    /// A port of a listener whose queue is full, so the kernel answers no further connection.
    fn black_hole(&mut self) -> u16 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address: SockAddr = socket.local_addr().unwrap();
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            // The connection is in progress, or the queue is already full.
            let _ = filler.connect(&address);
            self.held.push(Box::new(filler));
        }
        self.held.push(Box::new(socket));
        address.as_socket().unwrap().port()
    }

    /// A port where `speak` serves each connection.
    fn speaker(&mut self, speak: fn(TcpStream)) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // The thread runs until the process ends.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || speak(stream));
            }
        });
        port
    }

    /// Runs `hopend doctor`. Returns its exit code and its output.
    async fn doctor(&self, more: &[&str]) -> (Option<i32>, String) {
        let config = self.save();
        let mut arguments = vec![
            "doctor",
            "--timeout",
            "2s",
            "--config",
            config.to_str().unwrap(),
        ];
        arguments.extend(self.arguments.iter().map(String::as_str));
        arguments.extend(more);
        let mut command = command(&arguments);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        let input = self.input.clone();
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // Fails if the command exits without reading its input.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let printed = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said, "", "{printed}");
            (output.status.code(), printed)
        })
        .await
        .unwrap()
    }

    /// Runs `hopend doctor`. Returns the names of the stages with their outcomes.
    async fn outcomes(&mut self) -> Vec<(String, String)> {
        let (_, printed) = self.doctor(&["--json"]).await;
        let rows: Vec<Value> = serde_json::from_str(&printed).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = rows
            .iter()
            .map(|row| (text(&row["stage"]), text(&row["outcome"])));
        rows.collect()
    }

    fn secrets(&self) -> Vec<String> {
        let mut secrets = self.sim.issued_secrets();
        secrets.extend(["mistyped", "geheim"].map(String::from));
        secrets
    }
}

/// A port where no process listens.
fn closed() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Serves a connection as q without passwords does: it reads a login up to a NUL, and answers with one byte.
fn plain_kdb(mut stream: TcpStream) {
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        if byte == [0] {
            let _ = stream.write_all(&[3]);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            return;
        }
    }
}

/// Serves a connection as a server for TLS 1.1 does: it sends the alert protocol_version.
fn old_tls(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70]);
}
