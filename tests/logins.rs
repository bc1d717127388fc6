//! kdb+ without FinSpace: fixed, computed and passed-on logins, several addresses, new authorities.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use q_ipc::value::Value;
use simulator::{CertificateFlaw, ClusterFault, Options, Times};

use crate::support::qclient::Refused;
use crate::support::{Log, QClient, Stage, account};

fn script(stage_folder: &std::path::Path, body: &str) -> std::path::PathBuf {
    let path = stage_folder.join("login.sh");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(&path)
        .unwrap();
    write!(file, "#!/bin/sh\n{body}\n").unwrap();
    path
}

#[tokio::test]
async fn a_fixed_login_and_a_password_that_changes() {
    let stage = Stage::start().await;
    let mut handle = stage.open("plain").await;
    assert_eq!(handle.ask(".z.u").await, Ok(Value::Symbol("svc".into())));
    let file = stage.folder.path().join("plain.password");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "old\n").unwrap();
    let refused = QClient::open(stage.address("plain"), "", "").await;
    assert!(matches!(refused, Err(Refused::Access)));
    std::fs::write(&file, right).unwrap();
    stage.open("plain").await;
}

/// While the daemon runs, too: what others could read or change is not sent, and the log says why.
#[tokio::test]
async fn a_password_file_that_others_can_read_is_used_no_more() {
    let (log, _guard) = Log::capture();
    let stage = Stage::start().await;
    stage.open("plain").await;
    let file = stage.folder.path().join("plain.password");
    let mode = |mode| std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    for (open, said) in [
        (0o644, "holds secrets and is open to every account"),
        (0o622, "chmod o-"),
    ] {
        mode(open);
        let refused = QClient::open(stage.address("plain"), "", "").await;
        assert!(matches!(refused, Err(Refused::Broken(_))), "{open:o}");
        log.line_with(&["session refused", said, "kind=\"configuration\""])
            .await;
    }
    mode(0o640);
    stage.open("plain").await;
}

#[tokio::test]
async fn a_login_command_is_told_who_and_run_again_when_its_login_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    // The first login is an old one.
    let body = |password: &str| {
        format!(
            "echo \"$HOPEND_USER at $HOPEND_ENDPOINT\" >> {runs}\n\
             if [ $(wc -l < {runs}) = 1 ]; then p=old; else p={password}; fi\n\
             echo \"{{\\\"user\\\": \\\"svc\\\", \\\"password\\\": \\\"$p\\\"}}\"",
            runs = runs.display()
        )
    };
    let path = script(folder.path(), &body("unknown-yet"));
    let stage = Stage::builder()
        .endpoint("plain", |plain| plain.users("alice").login_command(&path))
        .start()
        .await;
    let password = std::fs::read_to_string(stage.folder.path().join("plain.password")).unwrap();
    script(folder.path(), &body(password.trim_end()));
    let address = stage.address("plain");
    let mut handle = QClient::open(address, "alice", &stage.password())
        .await
        .unwrap();
    assert_eq!(handle.ask(".z.u").await, Ok(Value::Symbol("svc".into())));
    let told = std::fs::read_to_string(&runs).unwrap();
    assert_eq!(told, "alice at plain\n".repeat(2));
}

#[tokio::test]
async fn what_hopen_gave_is_passed_on() {
    let me = account();
    let stage = Stage::builder()
        .configure(|config| config.add_user("svc", |svc| svc.os_user(me)))
        .endpoint("plain", |plain| plain.users("svc").login("client"))
        .start()
        .await;
    let password = std::fs::read_to_string(stage.folder.path().join("plain.password")).unwrap();
    let address = stage.address("plain");
    QClient::open(address, "svc", password.trim_end())
        .await
        .unwrap();
    let refused = QClient::open(address, "svc", "wrong").await;
    assert!(matches!(refused, Err(Refused::Access)));
}

#[tokio::test]
async fn the_second_address_serves_while_the_first_is_down() {
    let (log, _guard) = Log::capture();
    let dead = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap().port()
    };
    let stage = Stage::builder()
        .endpoint("plain", |plain| {
            let connect = [
                &*format!(":tcps://localhost:{dead}"),
                plain.texts("connect")[0],
            ]
            .map(str::to_owned);
            plain.connect(connect)
        })
        .start()
        .await;
    stage.open("plain").await;
    log.line_with(&["WARN", &dead.to_string(), "no connection"])
        .await;
}

#[tokio::test]
async fn a_login_without_tls_is_sent_only_where_that_is_said() {
    let (log, _guard) = Log::capture();
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), "echo :localhost:1:svc:secret");
    let stage = Stage::builder()
        .endpoint("plain", |plain| {
            plain.without("connect").login_command(&path)
        })
        .start()
        .await;
    let refused = QClient::open(stage.address("plain"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    let line = log
        .line_with(&["session refused", "plaintext = true"])
        .await;
    assert!(!line.contains("secret"), "{line}");
}

#[tokio::test]
async fn a_reload_notices_that_the_authorities_changed_in_their_file() {
    let mut stage = Stage::start().await;
    let flaw = ClusterFault::Certificate(CertificateFlaw::OtherAuthority);
    stage.sim.faults().cluster("plain", flaw, Times::Always);
    let file = stage.folder.path().join("ca.pem");
    let right = std::fs::read_to_string(&file).unwrap();
    let refused = QClient::open(stage.address("plain"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    stage.sim.faults().clear();

    // Another authority in the same file: not believed until the reload, then believed.
    let other = simulator::Simulator::start(Options::default())
        .await
        .unwrap();
    std::fs::write(&file, other.ca_pem()).unwrap();
    stage.open("plain").await;
    let changes = stage.reload(|config| config);
    assert_eq!(changes.changed, ["hdb", "plain", "rdb"]);
    let refused = QClient::open(stage.address("plain"), "", "").await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    std::fs::write(&file, right).unwrap();
    stage.reload(|config| config);
    stage.open("plain").await;
}
