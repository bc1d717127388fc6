//! q clients that others wrote work through hopend as they do in front of q.

mod kdb_codec;

use std::time::Duration;

use simulator::{ClusterFault, ConnectionEnd, Cut, Options, Times};

use crate::support::python::Script;
use crate::support::{Stage, account};

/// One in Python, by its script.
struct Client {
    script: &'static str,
    /// It says who it runs as, where no user is given; the others say nothing.
    names_itself: bool,
}

const PYKX: Client = Client {
    script: "pykx_client.py",
    names_itself: false,
};
const KOLA: Client = Client {
    script: "kola_client.py",
    names_itself: true,
};
const AIOKDB: Client = Client {
    script: "aiokdb_client.py",
    names_itself: false,
};

impl Client {
    /// As the account that runs this.
    async fn start(&self, stage: &Stage, step: &str) -> Script {
        let user = if self.names_itself {
            account()
        } else {
            String::new()
        };
        let kx_user = kx_user(&account());
        self.start_as(stage, step, [&user, "", &kx_user]).await
    }

    async fn start_as(&self, stage: &Stage, step: &str, [user, password, kx]: [&str; 3]) -> Script {
        let port = |endpoint| stage.address(endpoint).port().to_string();
        let (hdb, console) = (port("hdb"), port("console"));
        let variables = [
            ("HOPEND_PORT", hdb.as_str()),
            ("HOPEND_CONSOLE_PORT", console.as_str()),
            ("HOPEND_USER", user),
            ("HOPEND_PASSWORD", password),
            ("HOPEND_KX_USER", kx),
            ("PYKX_UNLICENSED", "true"),
        ];
        Script::start(self.script, &[step], &variables).await
    }

    async fn asks_and_is_answered(&self) {
        let stage = stage().await;
        self.start(&stage, "asks").await.succeeds().await;
        let password = stage.password();
        let alice = self.start_as(&stage, "asks", ["alice", &password, "alice"]);
        alice.await.succeeds().await;

        let users = [kx_user(&account()), "alice".into()];
        stage
            .sim
            .wait_until(|sim| sim.live("hdb-cluster") == 0)
            .await;
        let connections = stage.sim.connections();
        assert_eq!(connections.len(), users.len());
        for (connection, user) in connections.iter().zip(users) {
            assert_eq!(connection.user, user);
            assert_eq!(connection.asyncs, 1, "{user}");
            assert_eq!(connection.syncs, 6, "{user}");
        }
    }

    async fn gets_and_puts_100_mb(&self) {
        let stage = stage().await;
        self.start(&stage, "large").await.succeeds().await;
        stage
            .sim
            .wait_until(|sim| sim.live("hdb-cluster") == 0)
            .await;
        let connection = stage.sim.connections().remove(0);
        assert!(connection.bytes_in > 100_000_000, "{connection:?}");
        assert!(connection.bytes_out > 100_000_000, "{connection:?}");
    }

    async fn is_told_that_a_password_is_wrong(&self) {
        let stage = stage().await;
        let script = self.start_as(&stage, "wrong-password", ["alice", "wrong", ""]);
        script.await.succeeds().await;
        assert_eq!(stage.sim.connections().len(), 0);
    }

    async fn is_told_that_the_cluster_went_away_in_a_query(&self) {
        let stage = stage().await;
        for how in [Cut::Fin, Cut::Reset] {
            self.loses_its_cluster(&stage, "killed", how).await;
        }
    }

    /// A part of an answer is no answer, and no client waits for the rest of it.
    async fn is_told_that_the_cluster_went_away_in_an_answer(&self) {
        let stage = stage().await;
        for how in [Cut::InsideFrame, Cut::InsideFrameReset] {
            self.loses_its_cluster(&stage, "torn", how).await;
        }
    }

    /// The connection is cut while the cluster is at the script's query.
    async fn loses_its_cluster(&self, stage: &Stage, step: &str, how: Cut) {
        let mut script = self.start(stage, step).await;
        script.says("waiting").await;
        stage
            .sim
            .wait_until(|sim| {
                let connections = sim.connections();
                let mut live = connections.iter().filter(|c| c.ended.is_none());
                live.any(|connection| connection.syncs == 1)
            })
            .await;
        assert_eq!(stage.sim.cut("hdb-cluster", how), 1);
        script.succeeds().await;
    }

    /// No client takes that for a wrong password.
    async fn is_told_that_the_cluster_cannot_be_had(&self) {
        let stage = stage().await;
        let fault = ClusterFault::CloseAtAccept;
        stage.sim.faults().cluster("*", fault, Times::Always);
        self.start(&stage, "unreachable").await.succeeds().await;
    }

    /// Compressed messages reach the client as they are.
    async fn reads_what_the_cluster_compressed(&self) {
        let options = Options {
            compress: true,
            ..Options::default()
        };
        let stage = Stage::builder().options(options).start().await;
        self.start(&stage, "compressed").await.succeeds().await;
        let sent = stage.sim.connections()[0].bytes_out;
        assert!(sent < 100_000, "{sent} bytes: not compressed");
    }

    /// Tables of hopend's own, and discovery with the columns and types that a cluster answers with.
    async fn reads_a_console(&self) {
        let stage = stage().await;
        self.start(&stage, "console").await.succeeds().await;
    }

    /// Idle for longer than the limit, and then waiting for an answer for longer than it.
    async fn outlives_the_idle_limit(&self) {
        let options = Options {
            idle_limit: Duration::from_millis(900),
            ..Options::default()
        };
        let stage = Stage::builder().options(options).start().await;
        self.start(&stage, "idle").await.succeeds().await;
        stage.sim.wait_for_connections("hdb-cluster", 0).await;
        let connection = stage.sim.connections().remove(0);
        assert_eq!(connection.ended, Some(ConnectionEnd::ByClient));
        assert!(connection.pings >= 8, "{connection:?}");
    }
}

async fn stage() -> Stage {
    Stage::start().await
}

/// What FinSpace knows an account as.
fn kx_user(account: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let letters = account.chars().map(|c| if allowed(c) { c } else { '-' });
    letters.collect()
}

macro_rules! behaviours {
    ($name:ident, $client:expr) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn asks_and_is_answered() {
                $client.asks_and_is_answered().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn gets_and_puts_100_mb() {
                $client.gets_and_puts_100_mb().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn is_told_that_a_password_is_wrong() {
                $client.is_told_that_a_password_is_wrong().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn is_told_that_the_cluster_went_away_in_a_query() {
                let client = $client;
                client.is_told_that_the_cluster_went_away_in_a_query().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn is_told_that_the_cluster_went_away_in_an_answer() {
                let client = $client;
                client
                    .is_told_that_the_cluster_went_away_in_an_answer()
                    .await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn is_told_that_the_cluster_cannot_be_had() {
                $client.is_told_that_the_cluster_cannot_be_had().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn reads_what_the_cluster_compressed() {
                $client.reads_what_the_cluster_compressed().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn reads_a_console() {
                $client.reads_a_console().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn outlives_the_idle_limit() {
                $client.outlives_the_idle_limit().await;
            }
        }
    };
}

behaviours!(pykx, super::PYKX);
behaviours!(kola, super::KOLA);
behaviours!(aiokdb, super::AIOKDB);

/// As q does for `` `:unix://5010 ``: the abstract socket, by its exact name.
#[tokio::test(flavor = "multi_thread")]
async fn pykx_dials_the_unix_socket() {
    // The simulator's files give the socket the number of the TCP port.
    let stage = Stage::builder().fixed_ports().start().await;
    PYKX.start(&stage, "unix").await.succeeds().await;
}

/// Where there is no terminal, kola says that it is `unknown`.
#[tokio::test(flavor = "multi_thread")]
async fn kola_without_a_terminal_names_nobody() {
    let stage = stage().await;
    let kx_user = kx_user(&account());
    let script = KOLA.start_as(&stage, "asks-without-terminal", ["", "", &kx_user]);
    script.await.succeeds().await;
    assert_eq!(stage.sim.connections()[0].user, kx_user);
}

/// A client that reads for itself hears what the cluster says unasked.
#[tokio::test(flavor = "multi_thread")]
async fn kola_and_aiokdb_are_called_back() {
    let stage = stage().await;
    KOLA.start(&stage, "told").await.succeeds().await;
    AIOKDB.start(&stage, "told").await.succeeds().await;
    assert_eq!(stage.sim.connections()[1].responses, 1);
}
