//! The status page, as a browser shows it and as it is without scripts. `cargo test --test behaviour
//! the_picture_in_readme -- --ignored`, as root and with pngquant, takes the pictures that README has.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hopend::config::Viewers;
use hopend::primitives::shutdown::ShutdownSender;
use hopend::surface::admin::{self, Audience};
use hopend::telemetry::status::Status;
use nix::sys::signal::Signal;
use nix::unistd::User;
use simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::configuration::{Configuration, DaemonTable};
use crate::support::{Daemon, Log, QClient, Stage, account};
use crate::telemetry::ask;

/// A user's name that would be more, were it not shown as text.
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";
/// An account that is neither root nor this one.
const STRANGER: u32 = 65_534;
/// What a page takes in virtual time: over a hundred looks at the facts, as fast as they are answered.
const BUDGET: &str = "--virtual-time-budget=250000";
/// Chromium's numbers of colour schemes.
const DARK: &str = "0";
const LIGHT: &str = "1";

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
                "--disable-lcd-text",
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

    /// A picture of a page that has been open for so many seconds, of virtual time.
    async fn picture(&self, url: &str, size: &str, scheme: &str, file: &Path, seconds: u32) {
        let arguments = [
            &*format!("--virtual-time-budget={seconds}000"),
            &format!("--window-size={size}"),
            &format!("--blink-settings=preferredColorScheme={scheme}"),
            &format!("--screenshot={}", file.display()),
        ];
        self.run(&arguments, url).await;
    }
}

/// The admin address of a stage's daemon, for these viewers too. Served until `ShutdownSender` is dropped.
async fn page(stage: &Stage, stop: &ShutdownSender, viewers: Viewers) -> SocketAddr {
    page_at("127.0.0.1:0", stage, stop, viewers).await
}

async fn page_at(
    bound: &str,
    stage: &Stage,
    stop: &ShutdownSender,
    viewers: Viewers,
) -> SocketAddr {
    let listener = admin::bind(bound.parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let services = Arc::clone(stage.app.services());
    let audience = watch::channel(Audience {
        viewers,
        ..Audience::default()
    });
    tokio::spawn(admin::serve(
        listener,
        stop.subscribe(),
        services,
        audience.1,
    ));
    address
}

/// A daemon at work: sessions that ask all the time, one that waits, and refusals.
async fn at_work() -> (Stage, JoinSet<()>) {
    let stage = Stage::builder()
        .endpoint("rdb", |rdb| rdb.warm(2))
        .start()
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
    let stop = ShutdownSender::default();
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
        "it has no user &quot;bob&quot;. Fix: add a [[user]]",
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

/// The status and the body of what a stranger is answered.
async fn stranger_sees(address: SocketAddr, path: &str) -> String {
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
    String::from_utf8(output.await.unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_over_the_address_and_its_viewers() {
    let mut daemon = Daemon::start().await;
    let path = daemon.config_path();
    let original = daemon.configuration();
    let write = |change: &dyn Fn(DaemonTable) -> DaemonTable| {
        original.clone().daemon(change).write(&path);
    };
    let name = User::from_uid(STRANGER.into()).unwrap().unwrap().name;
    let root = crate::support::root::is_root();

    write(&|daemon| daemon.admin("127.0.0.1:0").viewers(&name));
    daemon.process.signal(Signal::SIGHUP);
    let line = daemon.process.line_with("admin address=");
    let address = line.split("admin address=").nth(1).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    daemon.process.line_with("reloaded: ");
    let sees = async |status: &str| {
        let (head, _) = ask(address, "GET /status", "localhost").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        if root {
            let said = stranger_sees(address, "/status").await;
            assert!(said.starts_with(status), "{said}");
        }
    };
    sees("200").await;

    write(&|daemon| daemon.admin("127.0.0.1:0").log("json").confine("off"));
    daemon.process.signal(Signal::SIGHUP);
    daemon
        .process
        .line_with("[daemon] log, confine: a change takes a restart");
    daemon.process.line_with("reloaded: ");
    sees("403").await;

    write(&|daemon| daemon);
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.line_with("reloaded: ");
    let gone = async { while TcpStream::connect(address).await.is_ok() {} };
    let gone = timeout(Duration::from_secs(30), gone).await;
    assert!(gone.is_ok(), "still served");
}

#[tokio::test]
async fn an_address_that_is_taken_is_served_once_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (log, _guard) = Log::capture();
    let _stage = Stage::builder()
        .daemon(|daemon| daemon.admin(address.to_string()))
        .start()
        .await;
    log.line_with(&["can't be bound", "hopend goes on trying"])
        .await;
    drop(taken);
    log.line_with(&["admin address="]).await;
    let (head, _) = ask(address, "GET /livez", "localhost").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn only_viewers_see_it() {
    if !crate::support::root::is_root() {
        return;
    }
    let (stage, _busy) = at_work().await;
    let stop = ShutdownSender::default();
    for (viewers, seen) in [(vec![], "403"), (vec![STRANGER], "200")] {
        let address = page(&stage, &stop, viewers.into_iter().collect()).await;
        for path in ["/status", "/status/facts", "/status.json", "/livez"] {
            let said = stranger_sees(address, path).await;
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
    let stop = ShutdownSender::default();
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

    // The page's ground, by its first pixel.
    for (size, scheme, ground) in [
        ("1440,1240", LIGHT, "f6f7f8"),
        ("1440,1240", DARK, "14181c"),
        ("420,1400", LIGHT, "f6f7f8"),
    ] {
        let file = stage.folder.path().join("page.png");
        browser.picture(&url, size, scheme, &file, 10).await;
        assert_eq!(first_pixel(&file).await, ground, "{scheme} {size}");
    }
    drop(busy);
}

/// Red, green and blue of a picture's upper left corner. Whatever filter its row has, its first pixel is
/// as it is.
async fn first_pixel(file: &Path) -> String {
    const READ: &str = "import struct, sys, zlib\n\
        png, at, data = open(sys.argv[1], 'rb').read(), 8, b''\n\
        while at < len(png):\n\
        \x20   size, kind = struct.unpack('>I4s', png[at:at + 8])\n\
        \x20   data += png[at + 8:at + 8 + size] if kind == b'IDAT' else b''\n\
        \x20   at += 12 + size\n\
        print(zlib.decompress(data)[1:4].hex())";
    let mut python = tokio::process::Command::new("python3");
    let output = python.args(["-c", READ]).arg(file).output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Programs of several accounts at work, and two things that are wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the pictures in docs/"]
async fn the_picture_in_readme() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let accounts = [
        ("risk", "www-data"),
        ("reports", "backup"),
        ("feed", "daemon"),
        ("quant", "proxy"),
    ];
    for (user, _) in accounts {
        sim.add_user(user);
    }
    let quant = "*:assumed-role/user-quant/*";
    sim.faults()
        .deny(quant, "finspace:GetKxConnectionString", "*");
    let with_users = |config: Configuration| {
        accounts.iter().fold(config, |config, (user, account)| {
            config.add_user(user, |table| table.os_user(*account))
        })
    };
    let stage = Stage::builder()
        .simulator(sim)
        .configure(with_users)
        .endpoint("hdb", |hdb| {
            hdb.max_sessions(6).users(["reports", "alice", "quant"])
        })
        .endpoint("rdb", |rdb| {
            rdb.max_sessions(40).warm(1).users(["risk", "feed"])
        })
        .start()
        .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let script = folder.path().join("at_work.py");
    std::fs::write(&script, include_str!("clients/at_work.py")).unwrap();
    let alice = stage.password();
    let mut programs = Vec::new();
    for (program, account, endpoint, name, most) in [
        ("risk-intraday", "www-data", "rdb", "", 900),
        ("eod-report", "backup", "hdb", "", 12_000),
        ("feed-monitor", "daemon", "rdb", "", 120),
        ("feed-monitor", "daemon", "plain", "", 400),
        ("tca-study", "www-data", "hdb", "alice", 4_000),
        ("eod-report", "backup", "hdb", "", 7_000),
        ("backtest", "proxy", "hdb", "", 100),
    ] {
        let uid = User::from_name(account).unwrap().unwrap().uid.to_string();
        // What a program is called is the name that it was started by.
        let link = folder.path().join(program);
        if !link.exists() {
            std::os::unix::fs::symlink("/usr/bin/python3", &link).unwrap();
        }
        let password = if name.is_empty() { "" } else { &alice };
        let port = stage.address(endpoint).port().to_string();
        let (most, phase) = (most.to_string(), programs.len().to_string());
        let child = tokio::process::Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
            .args([&link, &script])
            .args([&port, name, password, &most, &phase])
            .current_dir("/")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.unwrap();
        let mut said = [0; 5];
        let output = child.stdout.as_mut().unwrap();
        let opened = output.read_exact(&mut said).await;
        assert_eq!(opened.is_ok(), program != "backtest", "{program}");
        programs.push(child);
    }
    let hdb = stage.address("hdb");
    assert!(QClient::open(hdb, "bob", "guess").await.is_err());
    let stop = ShutdownSender::default();
    let address = slowly(page(&stage, &stop, Viewers::default()).await).await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (file, scheme) in [("status-light.png", LIGHT), ("status-dark.png", DARK)] {
        let url = format!("http://{address}/status");
        let file = docs.join(file);
        let browser = Browser::new();
        browser.picture(&url, "1280,1720", scheme, &file, 124).await;
        let mut pngquant = Command::new("pngquant");
        pngquant.args(["--force", "--strip", "--output"]);
        let smaller = pngquant.args([&file, &file]).status();
        assert!(smaller.expect("apt-get install pngquant").success());
    }
}

/// An address that leads to another, with a pause before what is asked there: as a browser's virtual time
/// stands still for it, every look finds something new.
async fn slowly(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move {
                let ((mut asked, mut answered), (mut answer, mut ask)) =
                    (near.into_split(), far.into_split());
                let back =
                    tokio::spawn(async move { tokio::io::copy(&mut answer, &mut answered).await });
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = asked.read(&mut buffer).await {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    if ask.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                back.abort();
            });
        }
    });
    address
}
