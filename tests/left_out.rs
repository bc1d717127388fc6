//! An error in the configuration leaves out what it concerns, and the rest is served.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hopend::config::{self, AccountDatabase};
use hopend::credential::{Clock, Sources};
use hopend::daemon::app::{App, ProcessContext};
use hopend::telemetry::status::Status;
use q_ipc::value::Value;
use simulator::{Options, Simulator};

use crate::attacks::as_stranger;
use crate::support::configuration::{Configuration, EndpointTable, table};
use crate::support::qclient::Refused;
use crate::support::{Daemon, Log, QClient, account, address_of, process, write_configuration};
use crate::telemetry::ask;

/// An account that no host has.
pub const NOBODY: &str = "hopend-has-no-such-account";

/// Adds a user whose account does not resolve.
pub fn with_an_unknown_account(config: Configuration) -> Configuration {
    config.add_user("mallory", |mallory| mallory.os_user(NOBODY))
}

/// The endpoint `rdb` can't be served: its cluster has a wrong name.
fn broken(rdb: EndpointTable) -> EndpointTable {
    rdb.cluster("!")
}

/// What `hopend status` says is left out: names, and why.
fn left_out(config: &Path) -> HashMap<String, (String, String)> {
    let asked = process::hopend(&["status", "--json", "--config", config.to_str().unwrap()]);
    assert!(asked.status.success(), "{asked:?}");
    let status: Status = serde_json::from_slice(&asked.stdout).unwrap();
    let rows = status.left_out.into_iter();
    rows.map(|row| (row.name, (row.state, row.reason)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_start_every_part_that_is_right_is_served() {
    let change = |config| with_an_unknown_account(config).endpoint("rdb", broken);
    let daemon = Daemon::with(change).await;
    let said = daemon.process.seen();
    for part in [
        "user \"mallory\" is left out until",
        "endpoint \"rdb\" is left out",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let mut handle = daemon.open("hdb").await;
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    let left_out = left_out(&daemon.config_path());
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert_eq!(left_out["mallory"].0, "account_unknown");
    assert!(left_out["mallory"].1.contains("no such local account"));
    assert_eq!(left_out["rdb"].0, "broken");
    assert!(left_out["rdb"].1.contains("hopend.toml:"), "{left_out:?}");

    let config = daemon.config_path();
    let config = config.to_str().unwrap();
    let shown = process::hopend(&["status", "--config", config]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("LEFT OUT"), "{shown}");
    let checked = process::hopend(&["check", "--config", config]);
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        said.contains("hopend can serve the rest, without "),
        "{said}"
    );
    daemon.process.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.process.end().0.success());
}

/// A probe of the endpoint learns that it is not served, rather than that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn readyz_names_an_endpoint_that_is_left_out_and_answers_503_for_it_with_the_reason() {
    let mut daemon = Daemon::with(|config| {
        config
            .daemon(|daemon| daemon.admin("127.0.0.1:0"))
            .endpoint("rdb", broken)
    })
    .await;
    let seen = daemon.process.seen();
    let admin = seen.split("admin address=").nth(1).unwrap();
    let admin: std::net::SocketAddr = admin.lines().next().unwrap().parse().unwrap();
    let answer = async |path: &str, host: &str| {
        let (head, body) = ask(admin, &format!("GET {path}"), host).await;
        (head.split(' ').nth(1).unwrap().to_owned(), body)
    };
    let told = |status: &str, body: &str| (status.to_owned(), body.to_owned());
    assert_eq!(
        answer("/readyz", "localhost").await,
        told("200", "degraded: rdb\n")
    );
    let (status, reason) = answer("/readyz/rdb", "localhost").await;
    assert_eq!(status, "503", "{reason}");
    let known = &left_out(&daemon.config_path())["rdb"].1;
    assert_eq!(reason, format!("left out: {known}\n"));
    // A web page whose name leads here learns no more than other hosts.
    assert_eq!(
        answer("/readyz/rdb", "attacker.example").await,
        told("503", "left out: hopend check tells why\n")
    );
    // And so does another account of this host.
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{}; \
         printf 'GET /readyz/rdb HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        admin.port()
    );
    if let Some(answer) = as_stranger(script).await {
        let said = String::from_utf8_lossy(&answer.stdout);
        assert!(said.starts_with("HTTP/1.1 503"), "{answer:?}");
        assert!(
            said.ends_with("left out: hopend check tells why\n"),
            "{said}"
        );
    }
    assert_eq!(
        answer("/readyz/hdb", "localhost").await,
        told("200", "ready\n")
    );
    assert_eq!(answer("/readyz/nowhere", "localhost").await.0, "404");

    daemon.rewrite(|config| config.endpoint("rdb", |rdb| rdb.cluster("rdb-cluster")));
    daemon.process.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.process.line_with("reloaded: added rdb");
    for page in ["/readyz", "/readyz/rdb"] {
        assert_eq!(answer(page, "localhost").await, told("200", "ready\n"));
    }
    // An endpoint that goes on as it was is served.
    daemon.rewrite(|config| config.endpoint("rdb", broken));
    daemon.process.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.process.line_with("reloaded: no endpoint changed");
    for page in ["/readyz", "/readyz/rdb"] {
        assert_eq!(answer(page, "localhost").await, told("200", "ready\n"));
    }
}

#[test]
fn a_file_without_an_endpoint_that_can_be_served_starts_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hopend.toml");
    Configuration::default()
        .add_user("alice", |alice| alice.os_user(account()))
        .add_endpoint("hdb", |hdb| hdb.key("clutser", "hdb"))
        .write(&path);
    for command in ["check", "run"] {
        let output = process::hopend(&[command, "--config", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("did you mean `cluster`?"), "{said}");
        assert!(!said.contains("hopend can serve the rest"), "{said}");
    }
}

/// The daemon's own account is unknown until `known` says otherwise, and so is alice's, who has a
/// password as well.
#[tokio::test]
async fn who_is_left_out_for_an_account_is_served_once_it_appears_and_by_no_other_proof_before() {
    let (log, _guard) = Log::capture();
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), |config| {
        config.user("alice", |alice| alice.os_user(NOBODY))
    });
    let known = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&known);
    let accounts = AccountDatabase::new(move |name| {
        if name == NOBODY || !asked.load(Ordering::SeqCst) {
            return Ok(None);
        }
        config::system_account(name)
    });
    let load = || config::load_to_serve(&path, &*accounts, &[]).unwrap();
    let given = ProcessContext {
        accounts: accounts.clone(),
        ..ProcessContext::default()
    };
    let sources = Arc::new(Sources::default());
    let mut app = App::start_on(None, given, load(), sources, Clock::system()).unwrap();
    // A reload of the same file goes on waiting.
    app.reload(load()).unwrap();
    assert_eq!(app.status().left_out.len(), 2);
    let address = address_of(&app, "hdb");
    let password = std::fs::read_to_string(folder.path().join("alice.password")).unwrap();
    let by_password = QClient::open(address, "alice", password.trim_end()).await;
    assert!(matches!(by_password, Err(Refused::Access)));
    log.line_with(&[
        "session refused",
        "user \"alice\" is left out until the account",
    ])
    .await;
    let by_account = QClient::open(address, "", "").await;
    assert!(matches!(by_account, Err(Refused::Access)));

    known.store(true, Ordering::SeqCst);
    log.line_with(&["is served: its account is known by now"])
        .await;
    let mut handle = QClient::open(address, "", "").await.unwrap();
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    let left_out = app.status().left_out;
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(left_out[0].name, "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_broken_certificate_is_not_served_in_the_clear() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tls = table([("cert", "none.pem"), ("key", "none.key")]);
    let path = write_configuration(&sim, folder.path(), |config| {
        config.endpoint("hdb", |hdb| hdb.tls(tls))
    });
    let loaded = config::load_to_serve(&path, &config::system_account, &[]).unwrap();
    let app = App::start(loaded, Arc::new(Sources::default()), Clock::system()).unwrap();
    let addresses = app.addresses();
    assert!(!addresses.is_empty());
    assert!(addresses.iter().all(|(endpoint, _)| endpoint != "hdb"));
}
