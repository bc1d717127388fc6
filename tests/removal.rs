//! A reload locks a user out, and ends the sessions of nobody else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hopend::config::{self, AccountDatabase};
use hopend::credential::{Clock, Sources};
use hopend::daemon::app::{App, Given};
use hopend::telemetry::status::Status;
use nix::sys::signal::Signal;
use q_ipc::value::Value;
use simulator::{Options, Simulator};

use crate::support::qclient::Refused;
use crate::support::{Daemon, QClient, account, address_of, any_ports, daemon_keys, process};

/// alice by her password, and the account that runs this, at `hdb` and `rdb` each.
struct Sessions {
    daemon: Daemon,
    alice: [QClient; 2],
    own: [QClient; 2],
}

async fn alice(daemon: &Daemon, endpoint: &str) -> QClient {
    let password = fs::read_to_string(daemon.folder.path().join("alice.password")).unwrap();
    let address = daemon.address(endpoint);
    QClient::open(address, "alice", password.trim_end())
        .await
        .unwrap()
}

async fn sessions(edit: impl FnOnce(String) -> String) -> Sessions {
    let daemon = Daemon::start("", |text| edit(any_ports(text))).await;
    Sessions {
        alice: [alice(&daemon, "hdb").await, alice(&daemon, "rdb").await],
        own: [daemon.open("hdb").await, daemon.open("rdb").await],
        daemon,
    }
}

impl Sessions {
    /// Reloads the edited file and waits until it is served.
    fn reload(&mut self, edit: impl FnOnce(String) -> String) -> String {
        let path = self.daemon.config_path();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, edit(text)).unwrap();
        self.daemon.process.signal(Signal::SIGHUP);
        self.daemon.process.line_with("reloaded: ")
    }

    /// The lines of so many sessions that ended for this reason. A session may end before the daemon has
    /// said that it has reloaded.
    fn ended(&mut self, reason: &str, count: usize) -> Vec<String> {
        loop {
            let seen = self.daemon.process.seen();
            let lines = seen.lines().filter(|line| line.contains("session ended: "));
            let lines: Vec<_> = lines.filter(|line| line.contains(reason)).collect();
            if lines.len() >= count {
                return lines.into_iter().map(str::to_owned).collect();
            }
            self.daemon.process.line_with(reason);
        }
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let config = self.daemon.config_path();
        let all = [arguments, &["--config", config.to_str().unwrap()]].concat();
        let output = process::hopend(&all);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    async fn own_go_on(&mut self) {
        for handle in &mut self.own {
            assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is an edit of a configuration"
)]
fn without_alice(text: String) -> String {
    let alice = text.find("[[user]]\nname = \"alice\"").unwrap();
    let rest = &text[alice + 1..];
    let end = rest.find("\n[").map_or(text.len(), |end| alice + 1 + end);
    format!("{}{}", &text[..alice], &text[end..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_removed_loses_the_live_sessions() {
    let mut all = sessions(|text| text).await;
    let busy = &mut all.alice[0];
    busy.send(q_ipc::frame::MessageType::Sync, "system\"sleep 600\"")
        .await;
    let said = all.reload(without_alice);
    assert!(
        said.contains("2 sessions end, as their users have lost access"),
        "{said}"
    );
    let [mut busy, idle] = all.alice;
    let lost = busy.answer().await.unwrap_err();
    assert!(!lost.is_empty());
    let mut idle = idle;
    assert!(idle.ask("1+1").await.is_err());
    all.alice = [busy, idle];
    let reason = "ended by a reload: user \"alice\" was removed from the configuration";
    for line in all.ended(reason, 2) {
        assert!(
            line.contains("kind=\"denied\"") && line.contains("user=\"alice\""),
            "{line}"
        );
    }
    all.own_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_removed_from_an_endpoint_loses_the_sessions_there() {
    let mut all = sessions(|text| text).await;
    let users = format!(
        "users = [\"{}\"]\ncluster = \"hdb-cluster\"",
        own_name(&all)
    );
    all.reload(|text| text.replacen("cluster = \"hdb-cluster\"", &users, 1));
    all.ended("was removed from endpoint \"hdb\"", 1);
    assert!(all.alice[0].ask("1+1").await.is_err());
    assert_eq!(all.alice[1].ask("1+1").await, Ok(Value::Long(2)));
    all.own_go_on().await;
}

/// What the configuration calls the account that runs this.
fn own_name(all: &Sessions) -> String {
    let text = fs::read_to_string(all.daemon.config_path()).unwrap();
    let users = text.split("[[user]]").nth(1).unwrap();
    let name = users
        .lines()
        .find_map(|line| line.strip_prefix("name = \""));
    name.unwrap().trim_end_matches('"').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_becomes_somebody_else_loses_the_sessions() {
    for (key, from, to) in [
        (
            "kx_user",
            "name = \"alice\"",
            "name = \"alice\"\nkx_user = \"other\"",
        ),
        (
            "os_user",
            "name = \"alice\"",
            "name = \"alice\"\nos_user = \"65534\"",
        ),
        (
            "certificate",
            "name = \"alice\"",
            "name = \"alice\"\ncertificate = \"CN=alice\"",
        ),
        (
            "role_arn",
            "name = \"alice\"",
            "name = \"alice\"\nrole_arn = \"arn:aws:iam::111122223333:role/other\"",
        ),
        ("password", "password = \"$", "password = \"$"),
    ] {
        let mut all = sessions(|text| text).await;
        all.reload(|text| {
            let text = text.replacen(from, to, 1);
            if key == "password" {
                another_password(&text)
            } else {
                text
            }
        });
        all.ended(&format!("{key} of user \"alice\" was changed"), 2);
        for handle in &mut all.alice {
            assert!(handle.ask("1+1").await.is_err());
        }
        all.own_go_on().await;
    }
}

/// alice's hash with another last character but one.
fn another_password(text: &str) -> String {
    let start = text.find("password = \"$argon2id").unwrap() + "password = \"".len();
    let end = start + text[start..].find('"').unwrap();
    let hash = &text[start..end];
    let at = hash.len() - 5;
    let other = if &hash[at..=at] == "A" { "B" } else { "A" };
    format!(
        "{}{}{other}{}{}",
        &text[..start],
        &hash[..at],
        &hash[at + 1..],
        &text[end..]
    )
}

/// None of these takes anything away from alice.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_session() {
    let mut all = sessions(|text| text).await;
    let original = fs::read_to_string(all.daemon.config_path()).unwrap();
    for (what, text) in [
        (
            "a broken user",
            original.replacen("name = \"alice\"", "name = \"alice\"\nzzz = 1", 1),
        ),
        (
            "a user without a name",
            original.replacen("name = \"alice\"", "nmae = \"alice\"", 1),
        ),
        (
            "a limit",
            original.replacen("name = \"alice\"", "name = \"alice\"\nmax_sessions = 9", 1),
        ),
        ("an endpoint that is gone", without_rdb(&original)),
        (
            "an endpoint that is broken",
            original.replace("\"rdb-cluster\"", "\"!\""),
        ),
        (
            "another target",
            original.replace("\"rdb-cluster\"", "\"gateway-cluster\""),
        ),
        ("the same again", original.clone()),
    ] {
        let said = all.reload(|_| text);
        assert!(!said.contains("lost access"), "{what}: {said}");
        for handle in &mut all.alice {
            assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)), "{what}");
        }
    }
    all.own_go_on().await;
}

/// Somebody whose account does not resolve has not been removed, and nobody can be that user meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_account_does_not_resolve_keeps_the_sessions() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = sim.write_files(folder.path(), &account()).unwrap();
    let text = any_ports(fs::read_to_string(&path).unwrap());
    fs::write(&path, text).unwrap();
    let known = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&known);
    let accounts = AccountDatabase::new(move |name| match asked.load(Ordering::SeqCst) {
        true => config::system_account(name),
        false => Ok(None),
    });
    let load = || config::load_to_serve(&path, &*accounts, &[]).unwrap();
    let given = Given {
        accounts: accounts.clone(),
        ..Given::default()
    };
    let sources = Arc::new(Sources::default());
    let mut app = App::start_on(None, given, load(), sources, Clock::system()).unwrap();
    let address = address_of(&app, "hdb");
    let mut live = QClient::open(address, "", "").await.unwrap();
    known.store(false, Ordering::SeqCst);
    let changes = app.reload(load()).unwrap();
    assert_eq!(changes.sessions_ended, 0);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    let another = QClient::open(address, "", "").await;
    assert!(matches!(another, Err(Refused::Access)));
}

fn without_rdb(text: &str) -> String {
    let starts: Vec<_> = text.match_indices("[[endpoint]]").map(|m| m.0).collect();
    format!("{}{}", &text[..starts[1]], &text[starts[2]..])
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_where_the_configuration_says_so() {
    let mut all = sessions(|text| daemon_keys(&text, "on_removal = \"keep\"")).await;
    all.reload(without_alice);
    for handle in &mut all.alice {
        assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_how_many_sessions_a_reload_would_end() {
    let mut all = sessions(|text| text).await;
    let (code, said) = all.run(&["check"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("a reload would end 0 of 4 sessions"),
        "{said}"
    );
    let path = all.daemon.config_path();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, without_alice(text)).unwrap();
    let (_, said) = all.run(&["check"]);
    assert!(
        said.contains("a reload would end 2 of 4 sessions"),
        "{said}"
    );
    assert!(
        said.contains("2: user \"alice\" was removed from the configuration"),
        "{said}"
    );
    for handle in &mut all.alice {
        assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    }
    // Where the daemon cannot be asked, nothing is claimed.
    all.daemon.process.signal(Signal::SIGKILL);
    while all.alice[0].ask("1+1").await.is_ok() {}
    let (_, said) = all.run(&["check"]);
    assert!(!said.contains("a reload would end"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_all_sessions_of_a_user_or_an_endpoint_or_both() {
    let mut all = sessions(|text| text).await;
    let (code, said) = all.run(&["kill", "--user", "alice", "--endpoint", "hdb"]);
    assert_eq!((code, &*said), (Some(0), "1 session has ended\n"));
    assert!(all.alice[0].ask("1+1").await.is_err());
    assert_eq!(all.alice[1].ask("1+1").await, Ok(Value::Long(2)));
    let (code, said) = all.run(&["kill", "--endpoint", "rdb"]);
    assert_eq!((code, &*said), (Some(0), "2 sessions have ended\n"));
    assert!(all.alice[1].ask("1+1").await.is_err() && all.own[1].ask("1+1").await.is_err());
    assert_eq!(all.own[0].ask("1+1").await, Ok(Value::Long(2)));
    let (code, said) = all.run(&["kill", "--user", "alice"]);
    assert_eq!((code, &*said), (Some(0), "0 sessions have ended\n"));
    let (code, said) = all.run(&["kill", "--user", "alcie"]);
    assert_eq!(code, Some(69));
    assert!(
        said.contains("no user of an endpoint is called \"alcie\""),
        "{said}"
    );
    let (code, said) = all.run(&["kill", "--endpoint", "hbd"]);
    assert_eq!(code, Some(69));
    assert!(said.contains("no endpoint is called \"hbd\""), "{said}");
    assert_eq!(all.run(&["kill"]).0, Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_number_of_an_earlier_run_is_nobodys() {
    let mut all = sessions(|text| text).await;
    let number = |all: &Sessions| {
        let (_, json) = all.run(&["status", "--json"]);
        let status: Status = serde_json::from_str(&json).unwrap();
        status.sessions[0].session.to_string()
    };
    let before = number(&all);
    all.daemon.process.signal(Signal::SIGKILL);
    while all.own[0].ask("1+1").await.is_ok() {}
    all.daemon.start_again();
    all.own = [all.daemon.open("hdb").await, all.daemon.open("rdb").await];
    assert_ne!(number(&all), before);
    let (code, said) = all.run(&["kill", &before]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("is of an earlier run of hopend"), "{said}");
    all.own_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_between_messages_when_its_time_is_up() {
    let keys = "max_session_time = \"1s\"\ncluster = \"hdb-cluster\"";
    let edit = |text: String| text.replacen("cluster = \"hdb-cluster\"", keys, 1);
    let mut daemon = Daemon::start("", |text| edit(any_ports(text))).await;
    let mut idle = daemon.open("hdb").await;
    let mut busy = daemon.open("hdb").await;
    let mut other = daemon.open("rdb").await;
    // Asked in time and answered behind it.
    busy.send(q_ipc::frame::MessageType::Sync, "system\"sleep 3\"")
        .await;
    assert!(idle.sees_end().await);
    let line = daemon
        .process
        .line_with("session ended: open for 1 s (max_session_time)");
    assert!(line.contains("kind=\"none\""), "{line}");
    busy.answer().await.unwrap();
    assert!(busy.sees_end().await);
    assert_eq!(other.ask("1+1").await, Ok(Value::Long(2)));
}
