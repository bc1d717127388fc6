//! The status page, as a browser shows it and as it is without scripts. `PICTURE=write cargo test --test
//! behaviour status_page` takes the picture that README has.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hopend::admin;
use hopend::config::Viewers;
use hopend::sim::Options;
use hopend::status::Status;
use hopend::stop::Stop;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{QClient, Stage, account, any_ports};
use crate::telemetry::ask;

/// A user's name that would be more, were it not shown as text.
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";
/// An account that is neither root nor this one.
const STRANGER: u32 = 65_534;
/// What a page takes in virtual time: over a hundred looks at the facts, as fast as they are answered.
const BUDGET: &str = "--virtual-time-budget=250000";

/// Chromium without a window, for as long as it takes.
struct Browser {
    folder: tempfile::TempDir,
}

impl Browser {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// What it wrote to its output, having said nothing amiss.
    async fn run(&self, arguments: &[&str], url: &str) -> String {
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--force-color-profile=srgb",
            ])
            .args(["--enable-logging=stderr", "--v=0"])
            .arg(format!("--user-data-dir={}", self.folder.path().display()))
            .args(arguments)
            .arg(url);
        let running = tokio::task::spawn_blocking(move || command.output());
        let output = timeout(Duration::from_secs(120), running).await;
        let output = output.expect("chromium takes too long").unwrap();
        let output = output.expect("no chromium: apt-get install chromium");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        // What scripts said, and what the page's policy kept from happening.
        assert!(!errors.contains("CONSOLE"), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The admin address of a stage's daemon, for these viewers too. Served until `Stop` is dropped.
async fn page(stage: &Stage, stop: &Stop, viewers: Viewers) -> SocketAddr {
    page_at("127.0.0.1:0", stage, stop, viewers).await
}

async fn page_at(bound: &str, stage: &Stage, stop: &Stop, viewers: Viewers) -> SocketAddr {
    let listener = admin::bind(bound.parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = Arc::clone(stage.app.services());
    tokio::spawn(admin::serve(listener, stop.listen(), services, viewers));
    address
}

/// A daemon at work: sessions that ask all the time, one that waits, and refusals.
async fn at_work() -> (Stage, JoinSet<()>) {
    let stage = Stage::with(Options::default(), |text| {
        any_ports(text).replace(
            "[[endpoint]]\nname = \"rdb\"",
            "[[endpoint]]\nname = \"rdb\"\nwarm = 2",
        )
    })
    .await;
    let mut busy = JoinSet::new();
    for (endpoint, size) in [("hdb", 4_000), ("hdb", 900), ("rdb", 60), ("plain", 250)] {
        let mut handle = stage.open(endpoint).await;
        busy.spawn(async move {
            for round in 0_u32.. {
                // Rates that rise and fall, so that there is something to see.
                let share = (f64::from(round) / 40.0).sin().mul_add(0.45, 0.55);
                let count = (f64::from(size) * share).round();
                handle.ask(&format!("til {count}")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        });
    }
    let hdb = stage.address("hdb");
    for name in [HOSTILE, "bob"] {
        assert!(QClient::open(hdb, name, "guess").await.is_err());
    }
    stage.sim.wait_for_calls("GetKxConnectionString", 1).await;
    (stage, busy)
}

#[tokio::test]
async fn all_facts_are_there_without_scripts_and_text_from_outside_is_text() {
    let (stage, _busy) = at_work().await;
    let stop = Stop::default();
    let address = page(&stage, &stop, Viewers::default()).await;
    let (head, body) = ask(address, "GET /status", "localhost:9100").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for header in [
        "content-security-policy: default-src 'none'; script-src 'nonce-",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header} in {head}");
    }
    for fact in [
        "it has no user &quot;bob&quot;; add a [[user]]",
        "hdb",
        "hdb-cluster",
        "plain",
        &account(),
        "Life left",
        "alice",
    ] {
        assert!(body.contains(fact), "{fact} in {body}");
    }
    assert!(!body.contains("<img"), "{body}");
    assert!(!body.contains("{{"), "{body}");
    for secret in stage.sim.issued_secrets() {
        assert!(!body.contains(&secret));
    }
    let (head, again) = ask(address, "GET /status", "127.0.0.1:9100").await;
    let nonce = |page: &str| {
        page.split("nonce=\"")
            .nth(1)
            .map(|rest| rest[..32].to_owned())
    };
    assert_ne!(nonce(&body), nonce(&again), "a nonce is for one answer");
    assert!(head.contains(&nonce(&again).unwrap()));

    let (_, json) = ask(address, "GET /status.json", "[::1]:9100").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.sessions.len(), 4);

    // A name that a web page has made to lead here, also where other hosts may ask.
    let exposed = page_at("0.0.0.0:0", &stage, &stop, Viewers::default()).await;
    let exposed = SocketAddr::from(([127, 0, 0, 1], exposed.port()));
    for address in [address, exposed] {
        for path in ["/status", "/status/facts", "/status.json"] {
            let request = format!("GET {path}");
            let (head, body) = ask(address, &request, "hopend.example:9100").await;
            assert!(head.starts_with("HTTP/1.1 421 "), "{path}: {head}");
            assert!(!body.contains("hdb"), "{body}");
            let (head, _) = ask(address, &request, "localhost:9100").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        }
    }
}

#[tokio::test]
async fn only_viewers_see_it() {
    if !nix::unistd::getuid().is_root() {
        println!("skipped: only root can become another account");
        return;
    }
    let (stage, _busy) = at_work().await;
    let stop = Stop::default();
    for (viewers, seen) in [(vec![], "403"), (vec![STRANGER], "200")] {
        let address = page(&stage, &stop, viewers.into_iter().collect()).await;
        for path in ["/status", "/status/facts", "/status.json", "/livez"] {
            let uid = STRANGER.to_string();
            let url = format!("http://{address}{path}");
            let get = format!(
                "import urllib.request as r, urllib.error as e\n\
                 try: a = r.urlopen('{url}'); print(a.status, a.read().decode())\n\
                 except e.HTTPError as a: print(a.code, a.read().decode())"
            );
            let output = tokio::process::Command::new("setpriv")
                .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
                .args(["python3", "-c", &get])
                // Not one that only this account may run.
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .current_dir("/")
                .output();
            let said = String::from_utf8(output.await.unwrap().stdout).unwrap();
            let expected = if path == "/livez" { "200" } else { seen };
            assert!(said.starts_with(expected), "{path}: {said}");
            assert_eq!(
                said.contains("hdb"),
                expected == "200" && path != "/livez",
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_it_and_keeps_it_fresh() {
    let (stage, busy) = at_work().await;
    let stop = Stop::default();
    let address = page(&stage, &stop, Viewers::default()).await;
    let url = format!("http://{address}/status");
    let browser = Browser::new();

    let live = browser.run(&[BUDGET, "--dump-dom"], &url).await;
    assert!(
        live.contains("class=\"live\"") && live.contains(">live<"),
        "{live}"
    );
    assert!(
        live.contains("<title>hopend</title>"),
        "a script of another's ran: {live}"
    );
    assert!(live.contains("&lt;img src=x"), "{live}");
    // A chart for each endpoint, of several looks, with bytes in them.
    let charts = live.matches("<polyline class=\"up\"").count();
    assert_eq!(charts, 4, "{live}");
    let first = live
        .split("<polyline class=\"down\" points=\"")
        .nth(1)
        .unwrap();
    let points: Vec<_> = first.split('"').next().unwrap().split(' ').collect();
    assert!(points.len() >= 3, "{points:?}");
    let heights: std::collections::BTreeSet<_> = points
        .iter()
        .filter_map(|point| point.split(',').nth(1))
        .collect();
    assert!(heights.len() >= 2, "the chart is flat: {points:?}");

    // No picture is the same in the dark, or narrow.
    let mut pictures = Vec::new();
    for (name, size, scheme) in [
        ("light", "1440,1240", 1),
        ("dark", "1440,1240", 0),
        ("narrow", "420,1400", 1),
    ] {
        let file = stage.folder.path().join(format!("{name}.png"));
        let arguments = [
            BUDGET,
            &format!("--window-size={size}"),
            &format!("--blink-settings=preferredColorScheme={scheme}"),
            &format!("--screenshot={}", file.display()),
        ];
        browser.run(&arguments, &url).await;
        let picture = std::fs::read(&file).unwrap();
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() > 10_000,
            "{name}"
        );
        assert!(!pictures.contains(&picture), "{name} is as another is");
        pictures.push(picture);
        // README has one of them.
        if name == "light" && std::env::var("PICTURE").is_ok_and(|wish| wish == "write") {
            let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
            std::fs::create_dir_all(&docs).unwrap();
            std::fs::copy(&file, docs.join(format!("status-{name}.png"))).unwrap();
        }
    }
    drop(busy);
}
