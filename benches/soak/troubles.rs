//! What goes wrong meanwhile: one thing after the other, at the troubled cluster and with AWS.

use std::time::{Duration, Instant};

use simulator::{ApiFault, ClusterFault, Cut, Times};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::Result;
use crate::figures::Figures;
use crate::stage::{Stage, TROUBLED_CLUSTER, VISITOR_LOGIN};
use crate::ways::{At, TROUBLED, Way};

/// Between two troubles.
const PAUSE: Duration = Duration::from_secs(3);
/// How long the daemon may take to end the sessions of a user whom a reload removes.
const LOCKED_OUT: Duration = Duration::from_secs(10);
/// Between two tries of the removed user to open.
const RETRY: Duration = Duration::from_millis(100);
/// Connections or calls that a fault hits.
const HITS: usize = 20;

impl Stage {
    /// One trouble, and the time until the next.
    pub(crate) async fn make_trouble(&mut self, figures: &Figures, end: Instant) -> Result<()> {
        self.ask_console(figures).await?;
        // What is refused or delayed is so for some seconds, whether or not anybody has come.
        if self.random.u8(..3) == 0 {
            self.simulator.faults().clear();
        }
        match self.random.u8(..10) {
            0 | 1 => self.cut(figures),
            2 => self.stop_a_node(figures).await,
            3 => self.refuse(figures),
            4 => self.trouble_aws(figures),
            5 => self.kill_some(figures)?,
            6 => self.feed.publish(figures).await?,
            7 => self.remove_a_user(figures).await?,
            8 => {
                self.daemon.stall_log(true);
                tokio::time::sleep(PAUSE).await;
                self.daemon.stall_log(false);
                figures.trouble("the log's reader stalled");
            }
            _ => {
                self.simulator.end_sessions();
                figures.trouble("STS sessions ended");
            }
        }
        if self.random.bool() {
            self.reload(figures)?;
        }
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(PAUSE.min(left)).await;
        Ok(())
    }

    /// Everything is as it was at the start.
    pub(crate) async fn end_trouble(&mut self) {
        self.simulator.faults().clear();
        for node in self.simulator.nodes(TROUBLED_CLUSTER) {
            self.simulator.start_node(&node).await;
        }
    }

    fn cut(&mut self, figures: &Figures) {
        let (how, name) = match self.random.u8(..4) {
            0 => (Cut::Fin, "a node's connections closed"),
            1 => (Cut::Reset, "a node's connections reset"),
            2 => (Cut::InsideFrame, "closed inside a message"),
            _ => (Cut::InsideFrameReset, "reset inside a message"),
        };
        let node = self.a_node();
        self.simulator.cut(&node, how);
        figures.trouble(name);
    }

    /// As an administrator does.
    fn kill_some(&mut self, figures: &Figures) -> Result<()> {
        let sessions = self.status()?.sessions;
        let troubled = sessions
            .iter()
            .filter(|row| row.endpoint.starts_with(TROUBLED));
        let numbers: Vec<String> = troubled.map(|row| row.session.to_string()).collect();
        for _ in 0..HITS.min(numbers.len()) {
            // One may have ended meanwhile.
            let number = &numbers[self.random.usize(..numbers.len())];
            self.command(&["kill", number])?;
        }
        figures.trouble("sessions killed");
        Ok(())
    }

    /// A reload without the user ends this user's sessions and refuses further ones; a reload with the
    /// user lets the user in again.
    async fn remove_a_user(&mut self, figures: &Figures) -> Result<()> {
        let at = At {
            way: Way::Tcp(self.feed.address),
            hello: VISITOR_LOGIN.to_vec(),
            troubled: false,
        };
        // The last reload may have been of a broken file, or be under way still.
        std::fs::write(&self.config, &self.text)?;
        self.daemon.reload()?;
        figures.count(&figures.reloads);
        let mut handle = timeout(PATIENCE, async {
            loop {
                match at.open().await {
                    Ok(handle) => return handle,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        })
        .await
        .map_err(|_| "the user was not let in again in time")?;
        std::fs::write(&self.config, &self.text_without_visitor)?;
        self.daemon.reload()?;
        figures.count(&figures.reloads);
        // An end of the stream, or a reset.
        let ended = timeout(LOCKED_OUT, handle.read(&mut [0])).await;
        figures.judge(matches!(ended, Ok(Ok(0) | Err(_))), || {
            format!("a session of a removed user goes on: {ended:?}")
        });
        figures.judge(at.open().await.is_err(), || {
            "a removed user was let in".to_owned()
        });
        std::fs::write(&self.config, &self.text)?;
        self.daemon.reload()?;
        figures.count(&figures.reloads);
        figures.trouble("users removed");
        Ok(())
    }

    async fn stop_a_node(&mut self, figures: &Figures) {
        let node = self.a_node();
        self.simulator.stop_node(&node).await;
        tokio::time::sleep(PAUSE).await;
        self.simulator.start_node(&node).await;
        figures.trouble("a node stopped and started");
    }

    fn refuse(&mut self, figures: &Figures) {
        let (fault, name) = match self.random.u8(..7) {
            0 => (ClusterFault::RefuseLogin, "logins refused"),
            1 => (ClusterFault::CloseAtAccept, "closed at accept"),
            2 => (ClusterFault::ResetAtAccept, "reset at accept"),
            3 => (ClusterFault::CloseAtTls, "closed within TLS"),
            4 => (ClusterFault::CloseAfterTls, "closed behind TLS"),
            5 => (ClusterFault::ResetAfterLogin, "reset behind the login"),
            _ => (ClusterFault::StallAfterTls, "silent behind TLS"),
        };
        let faults = self.simulator.faults();
        faults.cluster(TROUBLED_CLUSTER, fault, Times::Next(HITS));
        figures.trouble(name);
        self.cut(figures);
    }

    fn trouble_aws(&mut self, figures: &Figures) {
        let (fault, name) = match self.random.u8(..5) {
            0 => (ApiFault::Throttle, "AWS throttles"),
            1 => (ApiFault::Close, "AWS closes"),
            2 => (ApiFault::Garbage, "AWS answers with garbage"),
            3 => (ApiFault::Delay(PAUSE), "AWS is slow"),
            _ => (
                ApiFault::Error {
                    status: 500,
                    code: "InternalServerException".into(),
                    message: "it is not well".into(),
                },
                "AWS fails",
            ),
        };
        self.simulator.faults().api("*", fault, Times::Next(HITS));
        figures.trouble(name);
    }

    /// SIGHUP with another file, a broken one at times, and at times twice at once.
    fn reload(&mut self, figures: &Figures) -> Result<()> {
        let text = match self.random.u8(..4) {
            0 => format!("{}\n[[endpoint]]\nname = \n", self.text),
            1 => self.text.clone(),
            2 => format!(
                "{}\n[[endpoint]]\nname = \"more\"\nkind = \"console\"\nlisten = [\"127.0.0.1:0\"]\n",
                self.text
            ),
            _ => {
                let every = self.random.u8(3..9);
                self.text
                    .replace("keepalive = \"5s\"", &format!("keepalive = \"{every}s\""))
            }
        };
        std::fs::write(&self.config, text)?;
        for _ in 0..=self.random.usize(..2) {
            self.daemon.reload()?;
            figures.count(&figures.reloads);
        }
        Ok(())
    }

    fn a_node(&mut self) -> String {
        let nodes = self.simulator.nodes(TROUBLED_CLUSTER);
        nodes[self.random.usize(..nodes.len())].clone()
    }
}
