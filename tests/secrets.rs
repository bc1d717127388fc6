//! No secret stands in any line of the log, at the finest level, whatever goes wrong.

use simulator::{ApiFault, ClusterFault, Cut, Options, Simulator, Times};

use crate::support::configuration::{Configuration, UserTable};
use crate::support::{Process, QClient, write_configuration};

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_in_any_log_line_at_the_finest_level() {
    for format in ["text", "json"] {
        let (output, secrets) = everything_that_logs(format).await;
        assert!(secrets.len() >= 20, "{} secrets were issued", secrets.len());
        assert!(output.lines().count() >= 30, "little was logged:\n{output}");
        for secret in &secrets {
            // A secret may be long and be shown in part.
            let head: String = secret.chars().take(16).collect();
            for part in [secret, &head] {
                let line = output.lines().find(|line| line.contains(part.as_str()));
                assert_eq!(line, None, "{part} was logged");
            }
        }
        for password in ["mistyped-password", "another-mistake"] {
            assert!(!output.contains(password), "{password} was logged");
        }
    }
}

/// Good sessions, bad ones, failures of every part, at level trace; and every secret that the
/// simulator gave out.
async fn everything_that_logs(format: &str) -> (String, Vec<String>) {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), |config| {
        config.daemon(|daemon| daemon.log(format).drain("100ms"))
    });
    let mut daemon = Process::start(&[
        "run",
        "--config",
        path.to_str().unwrap(),
        "--log-level",
        "trace",
    ]);
    let mut addresses = Vec::new();
    for _ in 0..4 {
        let line = daemon.line_with("listening");
        if let Some(at) = line.find("127.0.0.1:") {
            let digits: String = line[at + 10..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            let address = format!("127.0.0.1:{digits}").parse().unwrap();
            let at = if line.contains("hdb") {
                0
            } else {
                addresses.len()
            };
            addresses.insert(at, address);
        }
    }
    daemon.line_with("ready");
    sim.wait_for_calls("GetKxConnectionString", 4).await;
    let password = std::fs::read_to_string(folder.path().join("alice.password")).unwrap();

    for &address in &addresses {
        let mut mine = QClient::open(address, "", "").await.unwrap();
        // The console answers with an error: it knows its own tables only.
        let answer = mine.ask("1+1").await;
        assert!(answer.is_ok() || mine.ask("credentials").await.is_ok());
        let mut hers = QClient::open(address, "alice", password.trim_end())
            .await
            .unwrap();
        let _ = hers.ask("til 10").await;
    }
    // Each failure makes the next one slower, so there are few.
    for (user, wrong) in [
        ("alice", "mistyped-password"),
        ("nobody-here", "another-mistake"),
    ] {
        let refused = QClient::open(addresses[0], user, wrong).await;
        assert!(refused.is_err());
    }
    for fault in [
        ClusterFault::RefuseLogin,
        ClusterFault::ResetAfterLogin,
        ClusterFault::CloseAtTls,
        ClusterFault::Plaintext,
    ] {
        sim.faults().cluster("*", fault, Times::Next(2));
        let _ = QClient::open(addresses[0], "", "").await;
        sim.faults().clear();
    }
    let mut busy = QClient::open(addresses[0], "", "").await.unwrap();
    sim.cut("hdb-cluster", Cut::InsideFrame);
    let _ = busy.ask("1+1").await;
    // Each kind of failure of each call, met by a login that has to be fetched anew.
    for fault in [ApiFault::Throttle, ApiFault::Garbage, ApiFault::Close] {
        for operation in ["GetKxUser", "AssumeRole", "GetKxConnectionString"] {
            sim.faults().api(operation, fault.clone(), Times::Always);
        }
        sim.faults()
            .cluster("*", ClusterFault::RefuseLogin, Times::Next(2));
        let _ = QClient::open(addresses[0], "alice", password.trim_end()).await;
        sim.faults().clear();
    }
    let broken_hash = |alice: UserTable| {
        let hash = format!("§{}", alice.text("password"));
        alice.password(hash)
    };
    let config = Configuration::read(&path);
    config.user("alice", broken_hash).write(&path);
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.line_with("is left out");
    daemon.line_with("reloaded");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, output) = daemon.end();
    (output, sim.issued_secrets())
}
