//! A reload locks a user out, and ends the sessions of nobody else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hopend::config::{self, AccountDatabase};
use hopend::credential::{Clock, Sources};
use hopend::daemon::app::{App, ProcessContext};
use hopend::telemetry::status::Status;
use nix::sys::signal::Signal;
use q_ipc::value::Value;
use simulator::{Options, Simulator};

use crate::support::configuration::{Change, UserTable};
use crate::support::qclient::Refused;
use crate::support::{
    Configuration, Daemon, QClient, account, address_of, process, write_configuration,
};

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

async fn sessions() -> Sessions {
    sessions_with(|config| config).await
}

async fn sessions_with(change: impl FnOnce(Configuration) -> Configuration) -> Sessions {
    let daemon = Daemon::with(change).await;
    Sessions {
        alice: [alice(&daemon, "hdb").await, alice(&daemon, "rdb").await],
        own: [daemon.open("hdb").await, daemon.open("rdb").await],
        daemon,
    }
}

impl Sessions {
    /// Reloads the changed file and waits until it is served.
    fn reload(&mut self, change: impl FnOnce(Configuration) -> Configuration) -> String {
        self.daemon.rewrite(change);
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

fn without_alice(config: Configuration) -> Configuration {
    config.without_user("alice")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_removed_loses_the_live_sessions() {
    let mut all = sessions().await;
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
    let mut all = sessions().await;
    all.reload(|config| config.endpoint("hdb", |hdb| hdb.users(account())));
    all.ended("was removed from endpoint \"hdb\"", 1);
    assert!(all.alice[0].ask("1+1").await.is_err());
    assert_eq!(all.alice[1].ask("1+1").await, Ok(Value::Long(2)));
    all.own_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_becomes_somebody_else_loses_the_sessions() {
    let changes: [(&str, Change<UserTable>); 5] = [
        ("kx_user", |alice| alice.kx_user("other")),
        ("os_user", |alice| alice.os_user("65534")),
        ("certificate", |alice| alice.certificate("CN=alice")),
        ("role_arn", |alice| {
            alice.role_arn("arn:aws:iam::111122223333:role/other")
        }),
        ("password", another_password),
    ];
    for (key, change) in changes {
        let mut all = sessions().await;
        all.reload(|config| config.user("alice", change));
        all.ended(&format!("{key} of user \"alice\" was changed"), 2);
        for handle in &mut all.alice {
            assert!(handle.ask("1+1").await.is_err());
        }
        all.own_go_on().await;
    }
}

/// alice's hash with another last character but one.
fn another_password(alice: UserTable) -> UserTable {
    let mut hash = alice.text("password").to_owned();
    let at = hash.len() - 5;
    let other = if &hash[at..=at] == "A" { "B" } else { "A" };
    hash.replace_range(at..=at, other);
    alice.password(hash)
}

/// None of these takes anything away from alice.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_ends_a_session() {
    let mut all = sessions().await;
    let original = all.daemon.configuration();
    let changes: [(&str, Change<Configuration>); 7] = [
        ("a broken user", |config| {
            config.user("alice", |alice| alice.key("zzz", 1))
        }),
        ("a user without a name", |config| {
            config.user("alice", |alice| alice.rename("name", "nmae"))
        }),
        ("a limit", |config| {
            config.user("alice", |alice| alice.max_sessions(9))
        }),
        ("an endpoint that is gone", |config| {
            config.without_endpoint("rdb")
        }),
        ("an endpoint that is broken", |config| {
            config.endpoint("rdb", |rdb| rdb.cluster("!"))
        }),
        ("another target", |config| {
            config.endpoint("rdb", |rdb| rdb.cluster("gateway-cluster"))
        }),
        ("the same again", |config| config),
    ];
    for (what, change) in changes {
        let said = all.reload(|_| change(original.clone()));
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
    let path = write_configuration(&sim, folder.path(), |config| config);
    let known = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&known);
    let accounts = AccountDatabase::new(move |name| match asked.load(Ordering::SeqCst) {
        true => config::system_account(name),
        false => Ok(None),
    });
    let load = || config::load_to_serve(&path, &*accounts, &[]).unwrap();
    let given = ProcessContext {
        accounts: accounts.clone(),
        ..ProcessContext::default()
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

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_where_the_configuration_says_so() {
    let mut all = sessions_with(|config| config.daemon(|daemon| daemon.on_removal("keep"))).await;
    all.reload(without_alice);
    for handle in &mut all.alice {
        assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_how_many_sessions_a_reload_would_end() {
    let mut all = sessions().await;
    let (code, said) = all.run(&["check"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("a reload would end 0 of 4 sessions"),
        "{said}"
    );
    all.daemon.rewrite(without_alice);
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
    let mut all = sessions().await;
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
    let mut all = sessions().await;
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
    let for_a_second =
        |config: Configuration| config.endpoint("hdb", |hdb| hdb.max_session_time("1s"));
    let mut daemon = Daemon::with(for_a_second).await;
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
