//! `hopend doctor`: broken set-ups, and what it says of each; and one where all is well.

use std::any::Any;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use simulator::{ApiFault, CertificateFlaw, ClusterFault, Options, Simulator, Times};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::configuration::{Configuration, EndpointTable};
use crate::support::process::command;
use crate::support::{Process, account, write_configuration};

/// A set-up that something is wrong with.
struct Broken {
    /// In words.
    name: &'static str,
    /// How it gets broken.
    how: fn(&mut Scene),
    /// Which stage fails first.
    stage: &'static str,
    /// What its words and remedy hold.
    told: &'static [&'static str],
    /// How the command ends.
    exit: i32,
}

const ROLE: &str = "arn:aws:iam::111122223333:role/user-alice";

/// Every stage is broken at least once.
#[rustfmt::skip]
const BROKEN: &[Broken] = &[
    // configuration
    Broken { name: "a mistyped key", stage: "configuration", exit: 78,
        how: |scene| scene.hdb(|hdb| hdb.rename("cluster", "clutser")),
        told: &["hopend.toml:", "did you mean `cluster`?"] },
    Broken { name: "an endpoint that is not there", stage: "configuration", exit: 78,
        how: |scene| scene.ask(&["hbd"]),
        told: &["no [[endpoint]] is called \"hbd\"", "hdb rdb plain"] },
    Broken { name: "a user who may not use the endpoint", stage: "configuration", exit: 77,
        how: |scene| scene.hdb(|hdb| hdb.users("root")),
        told: &["alice may not use endpoint hdb", "add the name to users"] },
    Broken { name: "a password file that is not there", stage: "configuration", exit: 78,
        how: |scene| { scene.plain(); std::fs::remove_file(scene.path("plain.password")).unwrap(); },
        told: &["plain.password does not exist. Fix: create it"] },
    // audit file
    Broken { name: "an audit file in a folder that is not there", stage: "audit file", exit: 78,
        how: |scene| scene.change(|config| config.daemon(|daemon| daemon.audit("logs/audit.log"))),
        told: &["/logs/audit.log: No such file or directory", "make its folder"] },
    // base credentials
    Broken { name: "an unknown profile", stage: "base credentials", exit: 78,
        how: |scene| scene.change(|config| config.environment(|sim| sim.profile("nobody"))),
        told: &["no AWS credentials", "set profile"] },
    Broken { name: "a wrong secret key", stage: "base credentials", exit: 77,
        how: |scene| scene.credentials("{key}", "wrong"),
        told: &["renew the daemon's AWS credentials, as the secret key does not belong to the access key"] },
    Broken { name: "an access key that AWS does not know", stage: "base credentials", exit: 77,
        how: |scene| scene.credentials("AKIANOSUCHKEY0000000", "{secret}"),
        told: &["renew the daemon's AWS credentials, as AWS does not know the access key"] },
    Broken { name: "an expired base session", stage: "base credentials", exit: 77,
        how: |scene| scene.answer("GetCallerIdentity", 403, "ExpiredToken", "The security token included in the request is expired"),
        told: &["renew them with what wrote them, as the session of the daemon's AWS credentials is over"] },
    Broken { name: "a clock that is wrong", stage: "base credentials", exit: 77,
        how: |scene| scene.answer("GetCallerIdentity", 403, "SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z"),
        told: &["clock is wrong"] },
    Broken { name: "STS that can't be reached", stage: "base credentials", exit: 69,
        how: |scene| scene.change(|config| config.environment(|sim| sim.sts_endpoint_url(format!("http://127.0.0.1:{}", closed())))),
        told: &["can't be reached", "VPC endpoint"] },
    Broken { name: "STS that does not answer", stage: "base credentials", exit: 69,
        how: |scene| scene.sim.faults().api("GetCallerIdentity", ApiFault::Hang, Times::Always),
        told: &["no answer in time", "VPC endpoint"] },
    // the user's role
    Broken { name: "GetKxUser denied", stage: "GetKxUser", exit: 77,
        how: |scene| scene.sim.faults().deny("*", "finspace:GetKxUser", "*"),
        told: &["set role_arn on user alice", "\"Action\":[\"finspace:GetKxUser\"]", "/kxUser/alice\"]", "\"identity\":\"arn:aws:iam::111122223333:user/hopend\""] },
    Broken { name: "a FinSpace user that is not there", stage: "GetKxUser", exit: 78,
        how: |scene| scene.change(|config| config.user("alice", |alice| alice.kx_user("nobody"))),
        told: &["user nobody", "check the name"] },
    Broken { name: "FinSpace's API that can't be reached", stage: "GetKxUser", exit: 69,
        how: |scene| scene.change(|config| config.environment(|sim| sim.endpoint_url(format!("http://127.0.0.1:{}", closed())))),
        told: &["can't be reached", "endpoint_url"] },
    Broken { name: "AssumeRole denied by the daemon's own policies", stage: "AssumeRole", exit: 77,
        how: |scene| scene.sim.faults().deny("*", "sts:AssumeRole", "*"),
        told: &["\"Action\":[\"sts:AssumeRole\",\"sts:SetSourceIdentity\"]", "\"Resource\":[\"arn:aws:iam::111122223333:role/user-alice\"]", "user/hopend"] },
    Broken { name: "a role that trusts somebody else", stage: "AssumeRole", exit: 77,
        how: |scene| scene.sim.set_trust(ROLE, r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
            "Principal":{"AWS":"arn:aws:iam::111122223333:user/other"},"Action":["sts:AssumeRole","sts:SetSourceIdentity"]}]}"#).unwrap(),
        told: &["trust arn:aws:iam::111122223333:user/hopend in the trust policy of arn:aws:iam::111122223333:role/user-alice"] },
    Broken { name: "an explicit Deny", stage: "GetKxUser", exit: 77,
        how: |scene| scene.sim.set_policy(&scene.sim.base_arn(), r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},
            {"Effect":"Deny","Action":"finspace:GetKxUser","Resource":"*"}]}"#).unwrap(),
        told: &["take the Deny out of an identity-based policy, which forbids it to arn:aws:iam::111122223333:user/hopend"] },
    Broken { name: "a role that does not trust the session's role", stage: "AssumeRole", exit: 77,
        how: |scene| scene.answer("AssumeRole", 403, "AccessDenied", &format!(
            "User: arn:aws:sts::111122223333:assumed-role/bastion/i-0abc is not authorized to perform: sts:AssumeRole \
             on resource: {ROLE} because no resource-based policy allows the sts:AssumeRole action")),
        told: &["trust arn:aws:iam::111122223333:role/bastion in the trust policy of arn:aws:iam::111122223333:role/user-alice"] },
    // the string
    Broken { name: "GetKxConnectionString denied", stage: "GetKxConnectionString", exit: 77,
        how: |scene| scene.sim.faults().deny("*", "finspace:GetKxConnectionString", "*"),
        told: &["\"finspace:GetKxConnectionString\",\"finspace:ConnectKxCluster\"", "/kxCluster/hdb-cluster\"]", "\"identity\":\"arn:aws:iam::111122223333:role/user-alice\""] },
    Broken { name: "an answer that is no connection string", stage: "GetKxConnectionString", exit: 69,
        how: |scene| scene.sim.faults().api("GetKxConnectionString", ApiFault::Garbage, Times::Always),
        told: &["check endpoint_url"] },
    Broken { name: "throttled", stage: "GetKxConnectionString", exit: 69,
        how: |scene| scene.sim.faults().api("GetKxConnectionString", ApiFault::Throttle, Times::Always),
        told: &["ThrottlingException", "higher rate"] },
    // cluster and nodes
    Broken { name: "a mistyped cluster", stage: "cluster", exit: 78,
        how: |scene| scene.hdb(|hdb| hdb.cluster("hdb-clustr")),
        told: &["the clusters are: gateway-cluster, hdb-cluster, rdb-cluster", "did you mean hdb-cluster?"] },
    Broken { name: "a cluster that does not run", stage: "cluster", exit: 69,
        how: |scene| scene.sim.set_status("hdb-cluster", "CREATE_FAILED"),
        told: &["hdb-cluster is CREATE_FAILED", "wait until it is RUNNING"] },
    Broken { name: "a node that is not there", stage: "nodes", exit: 78,
        how: |scene| scene.hdb(|hdb| hdb.node("sim-hdb-node-9")),
        told: &["sim-hdb-node-9 is not in cluster hdb-cluster", "sim-hdb-node-1", "set node"] },
    Broken { name: "nodes that may not be listed", stage: "nodes", exit: 77,
        how: |scene| { scene.hdb(|hdb| hdb.node("spread")); scene.sim.faults().deny("*", "finspace:ListKxClusterNodes", "*"); },
        told: &["\"Action\":[\"finspace:ListKxClusterNodes\"]", "/kxCluster/hdb-cluster\"]"] },
    // the local side
    Broken { name: "an address that this host does not have", stage: "listen", exit: 69,
        how: |scene| scene.hdb(|hdb| hdb.listen("192.0.2.1:5010").expose(true)),
        told: &["this host has no such address"] },
    Broken { name: "a socket in a folder that is not there", stage: "listen", exit: 78,
        how: |scene| scene.hdb(|hdb| hdb.listen("unix:/nonexistent/hopend/hdb")),
        told: &["unix:/nonexistent/hopend/hdb can't be made", "create that folder"] },
    // the way
    Broken { name: "a host that does not resolve", stage: "DNS", exit: 78,
        // A label of over 63 characters: no name server is asked.
        how: |scene| scene.connect(&format!(":tcps://{}.internal:5010", "a".repeat(64))),
        told: &["does not resolve", "correct the host in connect"] },
    Broken { name: "a closed port", stage: "TCP", exit: 69,
        how: |scene| scene.connect(&format!(":tcps://localhost:{}", closed())),
        told: &["refused", "nothing listens there"] },
    Broken { name: "packets that get lost", stage: "TCP", exit: 69,
        how: |scene| { let port = scene.black_hole(); scene.connect(&format!(":tcps://127.0.0.1:{port}")); },
        told: &["no result within", "security groups"] },
    // TLS
    Broken { name: "a certificate of another authority, of a cluster", stage: "TLS", exit: 78,
        how: |scene| scene.cluster(ClusterFault::Certificate(CertificateFlaw::OtherAuthority)),
        told: &["CN=another CA, which is not trusted", "holds CN=hopend simulator CA", "ca_file of [environment.sim]"] },
    Broken { name: "a certificate of another authority", stage: "TLS", exit: 78,
        how: |scene| { scene.plain(); scene.fault("plain", ClusterFault::Certificate(CertificateFlaw::OtherAuthority)); },
        told: &["CN=another CA, which is not trusted", "ca_file of endpoint \"plain\""] },
    Broken { name: "a certificate for another host", stage: "TLS", exit: 78,
        how: |scene| { scene.plain(); scene.fault("plain", ClusterFault::Certificate(CertificateFlaw::OtherHost)); },
        told: &["the certificate is for elsewhere.example, not for localhost", "write one of its names in connect"] },
    Broken { name: "an expired certificate", stage: "TLS", exit: 69,
        how: |scene| scene.cluster(ClusterFault::Certificate(CertificateFlaw::Expired)),
        told: &["expired on 2020-01-01", "renew it there"] },
    Broken { name: "a certificate that is not valid yet", stage: "TLS", exit: 69,
        how: |scene| scene.cluster(ClusterFault::Certificate(CertificateFlaw::NotYetValid)),
        told: &["valid from 2099-01-01", "set this host's clock"] },
    Broken { name: "plain kdb+ behind a tcps address", stage: "TLS", exit: 78,
        how: |scene| { let port = scene.speaker(plain_kdb); scene.connect(&format!(":tcps://localhost:{port}")); },
        told: &["kdb+ without TLS listens there", "write :localhost:"] },
    Broken { name: "plain kdb+ with passwords behind a tcps address", stage: "TLS", exit: 78,
        how: |scene| { scene.plain(); scene.fault("plain", ClusterFault::Plaintext); },
        told: &["as plain kdb+ with passwords does", "write :localhost:"] },
    Broken { name: "a TLS that is too old", stage: "TLS", exit: 69,
        how: |scene| { let port = scene.speaker(old_tls); scene.connect(&format!(":tcps://localhost:{port}")); },
        told: &["ProtocolVersion", "TLS 1.2 or 1.3"] },
    Broken { name: "a port that takes connections and says nothing", stage: "TLS", exit: 69,
        how: |scene| scene.cluster(ClusterFault::Stall),
        told: &["no answer to the TLS handshake", "a proxy without a backend"] },
    // kdb+
    Broken { name: "ConnectKxCluster denied", stage: "login", exit: 77,
        how: |scene| scene.sim.faults().deny("*", "finspace:ConnectKxCluster", "*"),
        told: &["\"Action\":[\"finspace:ConnectKxCluster\"]", "/kxCluster/hdb-cluster\"]", "\"identity\":\"arn:aws:iam::111122223333:role/user-alice\""] },
    Broken { name: "a wrong password in the password file", stage: "login", exit: 77,
        how: |scene| { scene.plain(); scene.write("plain.password", "mistyped\n", 0o600); },
        told: &["kdb+ refused the login of \"svc\"", "correct the password in"] },
    Broken { name: "TLS behind a plain address", stage: "login", exit: 78,
        how: |scene| { let port = scene.sim.plain().port; scene.connect(&format!(":localhost:{port}")); },
        told: &["speaks TLS", "write :tcps://localhost:"] },
    Broken { name: "a cluster that does not answer the login", stage: "login", exit: 69,
        how: |scene| scene.cluster(ClusterFault::StallAfterLogin),
        told: &["no answer to the login", "busy with another query"] },
    Broken { name: "a cluster that is silent after the login", stage: "no-op", exit: 69,
        how: |scene| scene.cluster(ClusterFault::Silent),
        told: &["no result within", "accepted the login but does not answer"] },
    // login commands
    Broken { name: "a login command that fails", stage: "login command", exit: 69,
        how: |scene| scene.login_command("exit 3"),
        told: &["exit status: 3", "run it by hand"] },
    Broken { name: "a login command that prints something else", stage: "login command", exit: 69,
        how: |scene| scene.login_command("echo geheim"),
        told: &["is no login", "run it by hand"] },
    Broken { name: "a login command that never ends", stage: "login command", exit: 69,
        how: |scene| scene.login_command("exec sleep 600"),
        told: &["no result within", "see what it waits for"] },
    Broken { name: "a login command's login that kdb+ refuses", stage: "login", exit: 77,
        how: |scene| scene.login_command(r#"echo '{"user":"svc","password":"mistyped"}'"#),
        told: &["refused the login of \"svc\"", "have the login command print a login"] },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_that_is_broken_is_named_with_what_to_do() {
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = BROKEN.iter();
    let mut wrong = String::new();
    loop {
        while running.len() < 6
            && let Some(broken) = waiting.next()
        {
            running.spawn(judge(broken));
        }
        match running.join_next().await {
            Some(judged) => wrong += &judged.unwrap(),
            None => break,
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What is not as it should be; nothing where all is.
async fn judge(broken: &'static Broken) -> String {
    let mut scene = Scene::new().await;
    (broken.how)(&mut scene);
    let (code, printed) = scene.doctor(&["--json"]).await;
    let rows: Vec<Value> = serde_json::from_str(&printed).unwrap_or_default();
    let mut wrong = String::new();
    let failed = rows.iter().find(|row| row["outcome"] == "failed");
    match failed {
        Some(row) => {
            if row["stage"] != broken.stage {
                let _ = writeln!(wrong, "  not {} but {} failed", broken.stage, row["stage"]);
            }
            let text = format!(
                "{} {} {}",
                row["finding"].as_str().unwrap(),
                row["remedy"].as_str().unwrap_or_default(),
                row["missing"]
            );
            for part in broken.told.iter().filter(|part| !text.contains(**part)) {
                let _ = writeln!(wrong, "  it does not say: {part}");
            }
        }
        None => wrong += "  nothing failed\n",
    }
    if code != Some(broken.exit) {
        let _ = writeln!(wrong, "  ended with {code:?}, not {}", broken.exit);
    }
    for secret in scene
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
        broken.name,
        printed_rows = rows.join("\n")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_every_stage_passes_and_no_secret_is_shown() {
    let mut scene = Scene::new().await;
    scene.change(|config| {
        config
            .add_endpoint("node", |node| {
                node.cluster("hdb-cluster").node("sim-hdb-node-2")
            })
            .add_endpoint("via", |via| {
                via.cluster("hdb-cluster").node("zone").node_via("cluster")
            })
            .daemon(|daemon| daemon.zone("use1-az2"))
    });
    scene.arguments.clear();
    let (code, printed) = scene.doctor(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        !printed.contains('✗') && !printed.contains('!'),
        "{printed}"
    );
    assert!(printed.contains("all is well"), "{printed}");
    let me = account();
    // What is shared is looked at once, the rest for each user, each node and each address.
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
    let secrets = scene.secrets();
    assert!(secrets.len() > 20, "{}", secrets.len());
    for secret in secrets {
        assert!(!printed.contains(&secret), "{secret} in\n{printed}");
    }
    // Not on a terminal, so without colours.
    assert!(!printed.contains('\x1b'), "{printed:?}");
    // It has left, and not been cut off.
    scene.sim.wait_for_connections("hdb-cluster", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_still_be_looked_at_is() {
    let mut scene = Scene::new().await;
    scene
        .sim
        .faults()
        .deny("*", "finspace:GetKxConnectionString", "*");
    let outcomes = scene.outcomes().await;
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

    let mut scene = Scene::new().await;
    scene.plain();
    std::fs::remove_file(scene.path("plain.password")).unwrap();
    let outcomes = scene.outcomes().await;
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
    let mut scene = Scene::of(Simulator::start(options).await.unwrap());
    let (_, printed) = scene.doctor(&[]).await;
    assert!(
        printed.contains("this host's clock is 61 min ahead of AWS's"),
        "{printed}"
    );
    assert!(printed.contains("set this host's clock"), "{printed}");
    let outcomes = scene.outcomes().await;
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
    let mut scene = Scene::new().await;
    scene.sim.faults().deny("*", "finspace:List*", "*");
    scene.cluster(ClusterFault::Certificate(CertificateFlaw::EndsSoon));
    let (code, printed) = scene.doctor(&[]).await;
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
        let mut scene = Scene::new().await;
        let port = match reachable {
            true => scene.speaker(plain_kdb),
            false => closed(),
        };
        scene.connect(&format!(":localhost:{port}"));
        let outcomes = scene.outcomes().await;
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
    let mut scene = Scene::new().await;
    scene.plain();
    let simulator::PlainServer { user, password, .. } = scene.sim.plain();
    let (user, password) = (user.to_owned(), password.to_owned());
    scene.change(|config| {
        config
            .user("alice", |alice| alice.name(&*user))
            .endpoint("plain", |plain| plain.login("client"))
    });
    let outcomes = scene.outcomes().await;
    assert!(
        outcomes.contains(&("login".into(), "skipped".into())),
        "{outcomes:?}"
    );

    scene.arguments = ["plain", "--user", &user, "--ask-password"]
        .map(String::from)
        .into();
    scene.input = format!("{password}\n");
    let (code, printed) = scene.doctor(&[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("kdb+ accepted \"svc\""), "{printed}");
    scene.input = "mistyped\n".into();
    let (code, printed) = scene.doctor(&[]).await;
    assert_eq!(code, Some(77), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_is_seen_at_its_addresses() {
    let mut scene = Scene::new().await;
    let listen = format!("unix:{}", scene.path("hdb").display());
    scene.hdb(|hdb| hdb.listen(listen));
    let config = scene.save();
    let (code, before) = scene.doctor(&[]).await;
    assert_eq!(code, Some(0), "{before}");
    assert!(before.contains("hdb is free: no daemon runs"), "{before}");
    let daemon = tokio::task::spawn_blocking(move || {
        let mut daemon = Process::start(&["run", "--config", config.to_str().unwrap()]);
        daemon.line_with("ready");
        daemon
    })
    .await
    .unwrap();
    let (code, during) = scene.doctor(&[]).await;
    assert_eq!(code, Some(0), "{during}");
    assert!(during.contains("hdb answers: a daemon runs"), "{during}");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, log) = tokio::task::spawn_blocking(|| daemon.end()).await.unwrap();
    assert!(status.success(), "{log}");
}

/// A simulator, the configuration for it, and what is asked.
struct Scene {
    sim: Simulator,
    folder: tempfile::TempDir,
    config: Configuration,
    arguments: Vec<String>,
    input: String,
    /// What has to live as long.
    held: Vec<Box<dyn Any + Send + Sync>>,
}

impl Scene {
    /// All is well, and the endpoint hdb is asked about for alice.
    async fn new() -> Self {
        Self::of(Simulator::start(Options::default()).await.unwrap())
    }

    fn of(sim: Simulator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = write_configuration(&sim, folder.path(), |config| config);
        Self {
            sim,
            folder,
            config: Configuration::read(&path),
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
        self.write("hopend.toml", &self.config.to_string(), 0o600)
    }

    fn change(&mut self, change: impl FnOnce(Configuration) -> Configuration) {
        self.config = change(std::mem::take(&mut self.config));
    }

    fn hdb(&mut self, change: impl FnOnce(EndpointTable) -> EndpointTable) {
        self.change(|config| config.endpoint("hdb", change));
    }

    fn ask(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
    }

    /// Asks about the endpoint without FinSpace instead.
    fn plain(&mut self) {
        self.ask(&["plain"]);
    }

    /// The same, leading elsewhere.
    fn connect(&mut self, address: &str) {
        self.plain();
        self.change(|config| config.endpoint("plain", |plain| plain.connect(address)));
    }

    /// The same, with a shell script for its login.
    fn login_command(&mut self, script: &str) {
        self.ask(&["plain", "--user", "alice"]);
        let script = self.write("login", &format!("#!/bin/sh\n{script}\n"), 0o700);
        self.change(|config| config.endpoint("plain", |plain| plain.login_command(&script)));
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

    /// A port of a listener that has no room for another connection: nothing comes back from it.
    fn black_hole(&mut self) -> u16 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address: SockAddr = socket.local_addr().unwrap();
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            // It is under way, or has found the listener full already.
            let _ = filler.connect(&address);
            self.held.push(Box::new(filler));
        }
        self.held.push(Box::new(socket));
        address.as_socket().unwrap().port()
    }

    /// A port where each connection is spoken to in this way.
    fn speaker(&mut self, speak: fn(TcpStream)) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || speak(stream));
            }
        });
        port
    }

    /// Exit code and output of `hopend doctor`.
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
            // It may not read any.
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

    /// Stages and how each ended.
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

/// A port that nothing listens on.
fn closed() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// As q without passwords: everything up to a NUL is a login, and is answered with one byte.
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

/// As a server that has nothing newer than TLS 1.1: an alert, protocol_version.
fn old_tls(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70]);
}
