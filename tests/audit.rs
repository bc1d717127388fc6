//! Audit lines: each stands alone, in the log and in a file that is rotated under the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use q_ipc::value::Value as QValue;
use serde_json::Value;

use crate::support::process::hopend;
use crate::support::root::is_root;
use crate::support::{Configuration, Daemon, QClient};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn start() -> Daemon {
    Daemon::with(audited).await
}

fn audited(config: Configuration) -> Configuration {
    config.daemon(|daemon| daemon.audit("audit.log"))
}

fn file(daemon: &Daemon) -> PathBuf {
    daemon.folder.path().join("audit.log")
}

/// Which session of its daemon it was, from 1: numbers go on from the daemon's start time. `folder` is
/// the daemon's own, and the first look there is at a file that begins with the first session.
fn nth(folder: &Path, line: &Value, lines: &[Value]) -> Option<u64> {
    static FIRST: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());
    let lowest = lines.iter().filter_map(|line| line["session"].as_u64());
    let lowest = lowest.min()?;
    let mut all = FIRST.lock().unwrap();
    let first = *all.entry(folder.to_owned()).or_insert(lowest);
    Some(line["session"].as_u64()? - first + 1)
}

/// The lines of a file, once there is one with this event and of this session, counted from 1, among
/// them.
async fn lines_with(path: &Path, event: &str, session: u64) -> Vec<Value> {
    let started = Instant::now();
    let folder = path.parent().unwrap();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The last one may not be whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines: Vec<Value> = whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"))
            })
            .collect();
        if lines
            .iter()
            .any(|line| line["event"] == event && nth(folder, line, &lines) == Some(session))
        {
            return lines;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "no {event} of {session}: {text}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_and_end_alike_tell_who_and_where() {
    let mut daemon = start().await;
    let mut handle = daemon.open("hdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(QValue::Long(2)));
    drop(handle);
    daemon.process.line_with("session ended");
    let refused = QClient::open(daemon.address("hdb"), "alice", "x\"\\y").await;
    assert!(refused.is_err());
    let path = file(&daemon);
    let lines = lines_with(&path, "refused", 2).await;
    let [open, ended, refused] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    let account = crate::support::account();
    for line in [open, ended] {
        for key in ["timestamp", "listen", "client", "to"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
        assert_eq!(line["session"], open["session"]);
        assert_eq!(line["endpoint"], "hdb");
        assert_eq!(line["uid"], nix::unistd::getuid().as_raw());
        assert_eq!(line["account"], account);
        assert_eq!(line["user"], account);
        assert!(line["role_session"].as_str().unwrap().contains(&account));
    }
    assert!(open["open_ms"].is_u64(), "{open}");
    assert_eq!(
        (&ended["messages_up"], &ended["messages_down"]),
        (&1.into(), &1.into())
    );
    assert!(ended["bytes_up"].as_u64() > Some(0) && ended["bytes_down"].as_u64() > Some(0));
    assert_eq!(ended["reason"], "the client closed");
    assert_eq!(refused["hopen_user"], "alice");
    assert_eq!(refused["kind"], "denied");
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("does not match")
    );
    let time = open["timestamp"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == 24, "{time}");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let text = fs::read_to_string(&path).unwrap();
    crate::faults::keeps_secrets(&text, &daemon.sim.issued_secrets());
    assert!(!text.contains("x\\\"\\\\y"), "the password: {text}");
    // The log has them, too.
    let log = daemon.process.seen();
    assert!(
        log.contains(&format!("session open session={}", open["session"]))
            && log.contains("role_session="),
        "{log}"
    );
}

/// The kernel tells the number of an account that the account database does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_account_has_no_name_is_told_by_its_number_and_the_line_says_why() {
    const NAMELESS: u32 = 1_999_999_999;
    if !is_root() {
        return;
    }
    let mut daemon = start().await;
    let port = daemon.address("hdb").port();
    let id = NAMELESS.to_string();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf ':\\3\\0' >&3; cat <&3");
    let refused = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["bash", "-c", &script])
        .current_dir("/")
        .status();
    assert!(refused.unwrap().success());
    let lines = lines_with(&file(&daemon), "refused", 1).await;
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(line["uid"], NAMELESS, "{line}");
    assert_eq!(line["account_unknown"], "no such account", "{line}");
    assert!(line["account"].is_null(), "{line}");
    let logged = daemon.process.line_with("session refused");
    let why = format!("uid={NAMELESS} account_unknown=\"no such account\"");
    assert!(logged.contains(&why), "{logged}");

    drop(daemon.open("hdb").await);
    let lines = lines_with(&file(&daemon), "ended", 2).await;
    assert!(lines[1]["account"].is_string(), "{lines:?}");
    assert!(lines[1]["account_unknown"].is_null(), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_repeat_have_one_line_together() {
    let daemon = start().await;
    for _ in 0..25 {
        let refused = QClient::open(daemon.address("hdb"), "nobody-here", "").await;
        assert!(refused.is_err());
    }
    // Another endpoint is another matter.
    let refused = QClient::open(daemon.address("rdb"), "nobody-here", "").await;
    assert!(refused.is_err());
    let path = file(&daemon);
    lines_with(&path, "refused", 26).await;
    // The minute is not over: the end tells what there is.
    daemon.process.signal(Signal::SIGTERM);
    let (_, log) = daemon.process.end();
    let lines = lines_with(&path, "refused", 25).await;
    let alone = lines.iter().filter(|line| line["times"].is_null());
    assert_eq!(alone.count(), 11, "{lines:?}");
    let together: Vec<_> = lines.iter().filter(|line| line["times"].is_u64()).collect();
    let [together] = together.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(together["times"], 15);
    // The last of them, and the one before them all.
    let first = lines[0]["session"].as_u64().unwrap();
    assert_eq!(together["session"].as_u64(), Some(first + 24));
    assert_eq!(together["hopen_user"], "nobody-here");
    assert!(together["reason"].as_str().unwrap().contains("nobody-here"));
    assert!(log.contains(" times=15 "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_sessions_that_repeat_have_one_line_together_and_long_ones_their_own() {
    const SESSIONS: u64 = 100;
    let daemon = start().await;
    for _ in 0..SESSIONS {
        let mut handle = daemon.open("hdb").await;
        handle.ask("1+1").await.unwrap();
        drop(handle);
        daemon.sim.wait_for_connections("hdb-cluster", 0).await;
    }
    let mut long = daemon.open("hdb").await;
    long.ask("1+1").await.unwrap();
    let path = file(&daemon);
    // It has a line when it has lasted ten seconds.
    let lines = lines_with(&path, "open", SESSIONS + 1).await;
    assert_eq!(
        lines.iter().filter(|line| line["event"] == "open").count(),
        61
    );
    drop(long);
    lines_with(&path, "ended", SESSIONS + 1).await;
    // The minute is not over: the end tells what there is.
    daemon.process.signal(Signal::SIGTERM);
    let (_, log) = daemon.process.end();
    let lines = lines_with(&path, "ended", SESSIONS).await;
    let ended = |session: u64| {
        let (all, mut lines) = (lines.clone(), lines.iter());
        let folder = path.parent().unwrap();
        let is = |line: &Value| nth(folder, line, &all) == Some(session);
        let found = lines.find(|line| line["event"] == "ended" && is(line));
        found.unwrap_or_else(|| panic!("no end of {session}: {log}"))
    };
    let (own, together, long) = (ended(60), ended(SESSIONS), ended(SESSIONS + 1));
    assert!(
        own["times"].is_null() && long["times"].is_null(),
        "{own} {long}"
    );
    assert_eq!(together["times"], 40);
    let before = own["session"].as_u64().unwrap();
    assert_eq!(together["first_session"].as_u64(), Some(before + 1));
    for key in ["bytes_up", "bytes_down", "messages_up", "messages_down"] {
        let one = own[key].as_u64().unwrap();
        assert!(
            one > 0 && together[key] == 40 * one,
            "{key}: {own} {together}"
        );
    }
    for key in ["user", "account", "uid", "endpoint", "kind", "reason", "to"] {
        assert_eq!(together[key], own[key], "{key}");
    }
    assert!(
        together["since"].as_str().unwrap().ends_with('Z'),
        "{together}"
    );
    assert_eq!(
        lines.iter().filter(|line| line["event"] == "ended").count(),
        62
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_unix_socket_the_process_is_told_and_the_console_is_audited() {
    let daemon = Daemon::at_fixed_ports(audited).await;
    let config = fs::read_to_string(daemon.config_path()).unwrap();
    drop(daemon.open("console").await);
    let lines = lines_with(&file(&daemon), "ended", 1).await;
    for line in &lines {
        assert_eq!(
            (&line["to"], &line["endpoint"]),
            (&"console".into(), &"console".into())
        );
        assert_eq!(line["role_session"], Value::Null);
    }
    let port = config.split("unix:").nth(1).unwrap();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let address = {
        use std::os::linux::net::SocketAddrExt;
        std::os::unix::net::SocketAddr::from_abstract_name(format!("/tmp/kx.{port}")).unwrap()
    };
    let stream = std::os::unix::net::UnixStream::connect_addr(&address);
    let mut stream = stream.unwrap();
    std::io::Write::write_all(&mut stream, b":\x06\0").unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0]).unwrap();
    let lines = lines_with(&file(&daemon), "open", 2).await;
    let line = lines.last().unwrap();
    assert_eq!(
        (&line["client"], &line["pid"]),
        (&"unix".into(), &std::process::id().into())
    );
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(line["program"], program.trim_end());
}

/// logrotate works with the rules that the package installs.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_file_is_followed_by_the_next_line_and_by_a_reload() {
    let mut daemon = start().await;
    let path = file(&daemon);
    drop(daemon.open("hdb").await);
    lines_with(&path, "ended", 1).await;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/hopend.logrotate");
    let shipped = fs::read_to_string(shipped).unwrap();
    let folder = daemon.folder.path();
    let reload = format!("kill -HUP {}", daemon.process.pid());
    let own = shipped
        .replace("/var/log/hopend/*.log", path.to_str().unwrap())
        .replace("    su hopend hopend-audit\n", "")
        .replace(
            "systemctl reload hopend.service 2>/dev/null || true",
            &reload,
        );
    let (rules, state) = (folder.join("rules"), folder.join("state"));
    fs::write(&rules, own).unwrap();
    let rotated = Command::new("logrotate")
        .args(["--force", "--state"])
        .args([&state, &rules])
        .output()
        .unwrap();
    assert!(rotated.status.success(), "{rotated:?}");
    daemon.process.line_with("reloaded");
    let old = lines_with(&path.with_extension("log.1"), "ended", 1).await;
    assert_eq!(old.len(), 2);
    drop(daemon.open("hdb").await);
    let new = lines_with(&path, "ended", 2).await;
    assert_eq!(new.len(), 2, "{new:?}");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // Without a word to the daemon, and with another file in its place.
    fs::rename(&path, path.with_extension("log.2")).unwrap();
    fs::write(&path, "").unwrap();
    let last = daemon.open("hdb").await;
    lines_with(&path, "open", 3).await;
    // Removed, and the daemon ends: what is in hand is still written.
    fs::remove_file(&path).unwrap();
    daemon.process.signal(Signal::SIGTERM);
    let (status, log) = daemon.process.end();
    assert!(status.success(), "{log}");
    let lines = lines_with(&path, "ended", 3).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    drop(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_told_by_check_by_a_start_and_by_a_reload() {
    let mut daemon = start().await;
    daemon.rewrite(|config| config.daemon(|daemon| daemon.audit("none/audit.log")));
    daemon.process.signal(Signal::SIGHUP);
    let said = daemon.process.line_with("reload changed nothing");
    assert!(
        said.ends_with("No such file or directory (os error 2). Fix: make its folder."),
        "{said}"
    );
    drop(daemon.open("hdb").await);
    lines_with(&file(&daemon), "ended", 1).await;
    let path = daemon.config_path();
    for (command, code, expected) in [
        ("check", 78, "none does not exist. Fix: make the directory"),
        (
            "run",
            69,
            "No such file or directory (os error 2). Fix: make its folder",
        ),
    ] {
        let output = hopend(&[command, "--config", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
