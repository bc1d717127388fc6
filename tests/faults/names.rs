//! The name of a kdb+ leads nowhere, or to another address: by an `/etc/hosts` of the daemon's own,
//! in a mount namespace. That takes root.

use std::fs;
use std::path::Path;
use std::time::Duration;

use q_ipc::value::Value;
use simulator::{ClusterFault, Times};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};

use super::{Row, Sees, keeps_secrets};
use crate::support::configuration::EndpointTable;
use crate::support::qclient::Refused;
use crate::support::root::is_root;
use crate::support::{Daemon, QClient};

/// Long enough for a busy machine, short enough to fail in good time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon whose endpoint `plain` dials `kdb.test` without TLS, and the files that name it.
async fn daemon(folder: &Path) -> Option<Daemon> {
    if !is_root() {
        return None;
    }
    let (hosts, resolver) = (folder.join("hosts"), folder.join("resolv.conf"));
    fs::write(&hosts, "127.0.0.2 kdb.test\n").unwrap();
    // Nobody answers there, and that is told at once.
    fs::write(&resolver, "nameserver 127.0.0.53\noptions attempts:1\n").unwrap();
    let shell = format!(
        "exec unshare --mount sh -c 'mount --bind {} /etc/hosts && mount --bind {} /etc/resolv.conf \
         && exec \"$@\"' sh \"$@\"",
        hosts.display(),
        resolver.display()
    );
    let by_name = |plain: EndpointTable| {
        let port = plain.texts("connect")[0]
            .rsplit(':')
            .next()
            .unwrap()
            .to_owned();
        plain.connect(format!(":kdb.test:{port}"))
    };
    let daemon = Daemon::under_shell(&shell, |config| config.endpoint("plain", by_name)).await;
    daemon
        .sim
        .faults()
        .cluster("plain", ClusterFault::Plaintext, Times::Always);
    Some(daemon)
}

async fn hopen(daemon: &Daemon) -> Result<QClient, Refused> {
    QClient::open(daemon.address("plain"), "", "").await
}

/// What listens at the other address, and passes on to the simulator's.
async fn other_address(port: u16) {
    let listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // However it ends.
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
}

async fn gone(row: &Row) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut daemon) = daemon(folder.path()).await else {
        return;
    };
    other_address(daemon.sim.plain().port).await;
    let mut live = daemon.open("plain").await;
    fs::write(folder.path().join("hosts"), "").unwrap();
    // What was found a moment ago still counts, for a second.
    let refused = timeout(PATIENCE, async {
        loop {
            match Sees::of(hopen(&daemon).await) {
                Sees::Nothing => {}
                refused => break refused,
            }
        }
    });
    row.saw(refused.await.unwrap());
    row.logged_by(&mut daemon.process);
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    fs::write(folder.path().join("hosts"), "127.0.0.1 kdb.test\n").unwrap();
    daemon.open("plain").await;
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

async fn changed(row: &Row) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut daemon) = daemon(folder.path()).await else {
        return;
    };
    other_address(daemon.sim.plain().port).await;
    let mut live = daemon.open("plain").await;
    daemon.process.line_with("to=127.0.0.2:");
    fs::write(folder.path().join("hosts"), "127.0.0.1 kdb.test\n").unwrap();
    // Slow enough that each session has a line of its own in the log.
    let mut pace = interval(Duration::from_millis(100));
    let moved = timeout(PATIENCE, async {
        loop {
            pace.tick().await;
            row.saw(Sees::of(hopen(&daemon).await));
            let line = daemon.process.line_with(row.log[0]);
            if row.log.iter().all(|part| line.contains(part)) {
                return;
            }
        }
    });
    moved.await.unwrap();
    assert_eq!(live.ask("1+1").await, Ok(Value::Long(2)));
    keeps_secrets(&daemon.process.seen(), &daemon.sim.issued_secrets());
}

faults! {
    #[tokio::test(flavor = "multi_thread")]
    the_name_is_gone {
        fault: "DNS has no address for kdb+",
        sees: Sees::Reset,
        log: &["session refused", "the name kdb.test does not resolve: ", "Fix: check the name and this host's DNS", "kind=\"upstream\""],
        recovers: "the next hopen, as soon as the name resolves; an address found less than a second ago is still dialled; live sessions stay",
        test(row): gone(row),
    }
    the_name_leads_elsewhere {
        fault: "DNS names another address",
        sees: Sees::Nothing,
        log: &["session open", "to=127.0.0.1:"],
        recovers: "a hopen a second later goes there; live sessions stay where they are",
        test(row): changed(row),
    }
}
