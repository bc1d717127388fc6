//! What the daemon has done can be scraped, and is read by others' parsers.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use finspace::{CallLimits, CallOutcome, FinSpace};
use hopend::config;
use hopend::primitives::shutdown::ShutdownSender;
use hopend::surface::admin;
use simulator::{ApiFault, Options, Simulator, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{Daemon, Log, QClient, Stage, account, python};

type Labels<'l> = &'l [(&'l str, &'l str)];

/// What a parser made of an exposition.
struct Samples(HashMap<(String, BTreeMap<String, String>), f64>);

impl Samples {
    fn value(&self, name: &str, labels: Labels<'_>) -> f64 {
        let owned = labels
            .iter()
            .map(|(key, value)| (String::from(*key), String::from(*value)));
        let key = (name.to_owned(), owned.collect());
        let found = self.0.get(&key);
        *found.unwrap_or_else(|| panic!("no {key:?} in {:?}", self.0))
    }

    /// Of all samples with this name and these labels among theirs.
    fn sum(&self, name: &str, labels: Labels<'_>) -> f64 {
        let fits = |of: &BTreeMap<String, String>| {
            let mut labels = labels.iter();
            labels.all(|(key, value)| of.get(*key).is_some_and(|given| given == value))
        };
        let samples = self
            .0
            .iter()
            .filter(|((of, labels), _)| of == name && fits(labels));
        samples.map(|(_, value)| value).sum()
    }
}

/// The admin address of a stage's daemon. Served until `ShutdownSender` is dropped.
pub async fn admin(stage: &Stage, stop: &ShutdownSender) -> SocketAddr {
    let listener = admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let services = Arc::clone(stage.app.services());
    let audience = watch::channel(admin::Audience::default()).1;
    tokio::spawn(admin::serve(listener, stop.subscribe(), services, audience));
    address
}

/// Head and body of what is answered to one request.
pub async fn ask(address: SocketAddr, request: &str, host: &str) -> (String, String) {
    ask_with(address, request, &format!("Host: {host}\r\n")).await
}

/// The same with these lines of headers.
pub async fn ask_with(address: SocketAddr, request: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn exposition(stage: &Stage) -> String {
    let stop = ShutdownSender::default();
    let address = admin(stage, &stop).await;
    let headers = "Host: localhost:9100\r\nAccept: application/openmetrics-text; version=1.0.0\r\n";
    let (head, body) = ask_with(address, "GET /metrics", headers).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let content = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(content), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    body
}

async fn write(stage: &Stage, exposition: &str) -> String {
    let path = stage.folder.path().join("metrics.txt");
    tokio::fs::write(&path, exposition).await.unwrap();
    path.to_str().unwrap().to_owned()
}

async fn scrape(stage: &Stage) -> Samples {
    let told = exposition(stage).await;
    let secrets = stage.sim.issued_secrets();
    assert!(!secrets.is_empty() && !secrets.iter().any(|secret| told.contains(secret)));
    let path = write(stage, &told).await;
    let lines = python::run("openmetrics.py", &[&path], &[]).await;
    let samples = lines.iter().map(|line| {
        let (name, labels, value) = serde_json::from_str(line).unwrap();
        ((name, labels), value)
    });
    Samples(samples.collect())
}

#[tokio::test]
async fn what_sessions_did_is_counted_also_when_they_are_over() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    // The SDK tries again by itself.
    let throttle = ApiFault::Throttle;
    sim.faults().api("AssumeRole", throttle, Times::Next(1));
    let stage = Stage::builder().simulator(sim).start().await;

    let mut first = stage.open("hdb").await;
    let mut second = stage.open("hdb").await;
    for client in [&mut first, &mut second] {
        client.ask("1+1").await.unwrap();
    }
    drop(first);
    log.line_with(&["session ended", "endpoint=\"hdb\""]).await;
    let refused = QClient::open(stage.address("rdb"), "nobody", "wrong").await;
    assert!(refused.is_err());
    let samples = scrape(&stage).await;

    let hdb = ("endpoint", "hdb");
    assert_eq!(samples.value("hopend_sessions", &[hdb]), 1.0);
    assert_eq!(samples.value("hopend_opens_total", &[hdb]), 2.0);
    for (direction, kind) in [("to_cluster", "sync"), ("to_client", "response")] {
        let labels = [hdb, ("direction", direction), ("type", kind)];
        assert_eq!(samples.value("hopend_messages_total", &labels), 2.0);
    }
    let denied = [("endpoint", "rdb"), ("kind", "denied")];
    assert_eq!(samples.value("hopend_refusals_total", &denied), 1.0);
    assert_eq!(
        samples.value("hopend_round_trip_seconds_count", &[hdb]),
        2.0
    );
    assert_eq!(samples.value("hopend_requests_waiting", &[hdb]), 0.0);
    let waited = samples.value("hopend_round_trip_seconds_sum", &[hdb]);
    assert!(waited > 0.0 && waited < 600.0, "{waited}");

    let whole = [hdb, ("warm", "false")];
    assert_eq!(samples.value("hopend_open_seconds_count", &whole), 2.0);
    for stage in [
        "handshake",
        "identify",
        "credential",
        "resolve",
        "connect",
        "tls",
        "login",
    ] {
        let labels = [hdb, ("stage", stage)];
        assert_eq!(
            samples.value("hopend_open_stage_seconds_count", &labels),
            2.0,
            "{stage}"
        );
    }
    let stages = samples.sum("hopend_open_stage_seconds_sum", &[hdb]);
    let took = samples.value("hopend_open_seconds_sum", &whole);
    assert!(stages > 0.0 && stages <= took, "{stages} of {took} s");

    let throttled = ("outcome", "throttled");
    let calls = |labels: Labels<'_>| samples.sum("hopend_aws_calls_total", labels);
    assert_eq!(calls(&[throttled]), 1.0);
    assert_eq!(calls(&[throttled, ("operation", "AssumeRole")]), 1.0);
    assert!(calls(&[("operation", "GetKxConnectionString"), ("outcome", "ok")]) >= 1.0);
    assert_eq!(samples.sum("hopend_credential_failures_total", &[]), 0.0);

    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(samples.value("hopend_build_info", &version), 1.0);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(samples.value(name, &[]) > 0.0, "{name}");
    }
}

/// The value of the one sample that begins like this.
fn figure(exposition: &str, begin: &str) -> f64 {
    let mut found = exposition
        .lines()
        .filter_map(|line| line.strip_prefix(begin));
    let value = found
        .next()
        .unwrap_or_else(|| panic!("no {begin} in\n{exposition}"));
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn a_hopen_that_got_a_warm_connection_is_counted_apart() {
    let (log, _guard) = Log::capture();
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| hdb.warm(1))
        .start()
        .await;
    let _first = stage.open("hdb").await;
    let ready = async {
        let kept = |stage: &Stage| {
            stage.app.status().endpoints[0]
                .warm
                .iter()
                .any(|row| row.ready > 0)
        };
        while !kept(&stage) {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(60);
    timeout(limit, ready).await.expect("nothing is kept warm");
    let _second = stage.open("hdb").await;
    log.line_with(&["session open ", "warm=true"]).await;
    let told = exposition(&stage).await;
    let opens = "hopend_open_seconds_count{endpoint=\"hdb\",warm=";
    assert_eq!(figure(&told, &format!("{opens}\"true\"}}")), 1.0);
    assert_eq!(figure(&told, &format!("{opens}\"false\"}}")), 1.0);
    let stages = "hopend_open_stage_seconds_count{endpoint=\"hdb\",stage=";
    assert_eq!(figure(&told, &format!("{stages}\"identify\"}}")), 2.0);
    assert_eq!(figure(&told, &format!("{stages}\"connect\"}}")), 1.0);
    let wanted = "hopend_warm_connections_wanted{endpoint=\"hdb\"}";
    assert_eq!(figure(&told, wanted), 1.0);
}

#[tokio::test]
async fn what_aws_refuses_is_counted_as_calls_and_as_failures_of_the_credential() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    sim.faults().deny("*", "finspace:GetKxUser", "*");
    let stage = Stage::builder().simulator(sim).start().await;
    log.line_with(&["AccessDenied", "hdb-cluster"]).await;
    log.line_with(&["AccessDenied", "rdb-cluster"]).await;
    let told = exposition(&stage).await;
    let calls = "hopend_aws_calls_total{environment=\"sim\",operation=\"GetKxUser\",outcome=";
    assert!(figure(&told, &format!("{calls}\"denied\"}}")) >= 2.0);
    assert_eq!(figure(&told, &format!("{calls}\"ok\"}}")), 0.0);
    let failures = told
        .lines()
        .filter(|line| line.starts_with("hopend_credential_failures_total{"));
    let failed = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= 1.0;
    assert!(
        failures.clone().count() >= 2 && failures.clone().all(failed),
        "{told}"
    );
}

/// Each on its own, with one attempt a call.
#[tokio::test]
async fn each_way_in_which_aws_fails_has_an_outcome_of_its_own() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = sim.write_files(folder.path(), &account()).unwrap();
    let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    let environment = &config.environments[0];
    let error = |status, code: &str| ApiFault::Error {
        status,
        code: code.into(),
        message: "no".into(),
    };
    let ways = [
        (None, CallOutcome::Ok),
        (Some(ApiFault::Throttle), CallOutcome::Throttled),
        (Some(error(429, "Odd")), CallOutcome::Throttled),
        (
            Some(error(403, "AccessDeniedException")),
            CallOutcome::Denied,
        ),
        (
            Some(error(403, "ExpiredTokenException")),
            CallOutcome::Credentials,
        ),
        (
            Some(error(400, "ValidationException")),
            CallOutcome::Refused,
        ),
        (
            Some(error(500, "InternalServerException")),
            CallOutcome::Failed,
        ),
        (Some(ApiFault::Garbage), CallOutcome::Failed),
        (Some(ApiFault::Close), CallOutcome::Unreachable),
        (Some(ApiFault::Hang), CallOutcome::Timeout),
    ];
    for (fault, expected) in ways {
        sim.faults().clear();
        let mut limits = CallLimits {
            attempts: 1,
            ..CallLimits::default()
        };
        if let Some(fault) = &fault {
            if *fault == ApiFault::Hang {
                limits.call_timeout = Duration::from_millis(100);
            }
            let operation = "ListKxClusterNodes";
            sim.faults().api(operation, fault.clone(), Times::Always);
        }
        let aws = FinSpace::with_limits(limits);
        let answer = aws.nodes(environment, "hdb-cluster", None).await;
        assert_eq!(answer.is_ok(), fault.is_none(), "{answer:?}");
        let calls = aws.calls();
        assert_eq!(calls.len(), CallOutcome::ALL.len());
        for call in calls {
            assert_eq!(&*call.operation, "ListKxClusterNodes");
            let expected = u64::from(call.outcome == expected);
            assert_eq!(call.count, expected, "{fault:?}: {:?}", call.outcome);
        }
    }
}

#[tokio::test]
async fn the_dashboard_the_alerts_and_readme_name_what_there_is() {
    let stage = Stage::start().await;
    stage.open("hdb").await.ask("1+1").await.unwrap();
    let exposition = write(&stage, &exposition(&stage).await).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["config/grafana.json", "config/alerts.yaml", "README.md"];
    let files = files.map(|name| root.join(name).to_str().unwrap().to_owned());
    let mut arguments = vec![&*exposition];
    arguments.extend(files.iter().map(String::as_str));
    let told = python::run("telemetry_files.py", &arguments, &[]).await;
    println!("{told:?}");
}

/// What confines it leaves it enough to look at itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_confined_daemon_tells_of_its_process() {
    let daemon = Daemon::with(|config| config.daemon(|daemon| daemon.admin("127.0.0.1:0"))).await;
    let seen = daemon.process.seen();
    let address = seen.split("admin address=").nth(1).unwrap();
    let address = address.lines().next().unwrap().parse().unwrap();
    let (_, told) = ask(address, "GET /metrics", "localhost").await;
    let files = figure(&told, "process_open_fds{}");
    assert!(files > 10.0 && files < figure(&told, "process_max_fds{}"));
    let resident = figure(&told, "process_resident_memory_bytes{}");
    assert!(resident > 1e6 && resident < figure(&told, "process_virtual_memory_bytes{}"));
    assert!(figure(&told, "process_cpu_seconds_total{}") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_with_a_name_of_its_own_reads_nothing() {
    let stage = Stage::start().await;
    let stop = ShutdownSender::default();
    let address = admin(&stage, &stop).await;
    let status = async |request: &str, host: &str| {
        let (head, _) = ask(address, request, host).await;
        head.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status("GET /metrics", "rebound.example:9100").await, "421");
    for host in ["localhost:9100", "127.0.0.1:9100", "[::1]:9100"] {
        assert_eq!(status("GET /metrics", host).await, "200", "{host}");
    }
    assert_eq!(status("POST /metrics", "localhost").await, "405");
}
