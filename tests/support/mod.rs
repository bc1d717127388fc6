//! What every behaviour needs: a simulated FinSpace with a daemon in front of it, and a q client of
//! a few lines.

pub mod busy_kdb;
pub mod certificates;
pub mod daemon;
pub mod kdb;
pub mod log;
pub mod process;
pub mod python;
pub mod qclient;
pub mod root;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hopend::config::{self, ListenAddress};
use hopend::credential::{Clock, ExternalSource, Sources};
use hopend::daemon::app::App;
use simulator::{Options, Simulator};
use socket2::{SockFilter, SockRef};

pub use busy_kdb::BusyKdb;
pub use daemon::Daemon;
pub use log::Log;
pub use process::Process;
pub use qclient::QClient;

/// A simulated FinSpace and a daemon in this process, at ports of their own.
pub struct Stage {
    pub sim: Simulator,
    pub app: App,
    pub folder: tempfile::TempDir,
}

impl Stage {
    /// With other options, and the configuration edited.
    pub async fn with(options: Options, edit: impl FnOnce(String) -> String) -> Self {
        let sim = Simulator::start(options).await.unwrap();
        Self::before(sim, edit).await
    }

    /// In front of a simulator that has been prepared.
    pub async fn before(sim: Simulator, edit: impl FnOnce(String) -> String) -> Self {
        Self::in_time(sim, edit, Arc::new(Sources::default()), Clock::system())
    }

    /// The same by another clock, with what comes from outside by a source that knows of it.
    pub fn in_time(
        sim: Simulator,
        edit: impl FnOnce(String) -> String,
        source: Arc<dyn ExternalSource>,
        clock: Clock,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = sim.write_files(folder.path(), &account()).unwrap();
        edit_file(&path, edit);
        let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let app = App::start(config, source, clock).unwrap();
        Self { sim, app, folder }
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("hopend.toml")
    }

    /// Changes the configuration and has it taken over.
    pub fn reload(&mut self, edit: impl FnOnce(String) -> String) -> hopend::daemon::app::Changes {
        edit_file(&self.config_path(), edit);
        let config = config::load(&self.config_path()).unwrap_or_else(|p| panic!("{p}"));
        self.app.reload(config).unwrap()
    }

    /// Where an endpoint listens.
    pub fn address(&self, endpoint: &str) -> SocketAddr {
        address_of(&self.app, endpoint)
    }

    /// Alice's password.
    pub fn password(&self) -> String {
        let path = self.folder.path().join("alice.password");
        std::fs::read_to_string(path).unwrap().trim_end().to_owned()
    }

    /// A handle as the account that runs this.
    pub async fn open(&self, endpoint: &str) -> QClient {
        QClient::open(self.address(endpoint), "", "").await.unwrap()
    }
}

/// Where an endpoint of a daemon listens.
pub fn address_of(app: &App, endpoint: &str) -> SocketAddr {
    let addresses = app.addresses();
    let found = addresses.iter().find_map(|(name, address)| match address {
        ListenAddress::Tcp(address) if name == endpoint => Some(*address),
        ListenAddress::Localhost(port) if name == endpoint => {
            Some((std::net::Ipv4Addr::LOCALHOST, *port).into())
        }
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {endpoint} in {addresses:?}"))
}

/// The account that runs this.
pub fn account() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap();
    user.unwrap().name
}

fn edit_file(path: &Path, edit: impl FnOnce(String) -> String) {
    let text = edit(std::fs::read_to_string(path).unwrap());
    std::fs::write(path, text).unwrap();
}

/// Every local address with the port left to the system, so that nobody else can have taken it.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is an edit of `Stage::with`"
)]
pub fn any_ports(text: String) -> String {
    let lines = text.lines().map(|line| {
        if line.starts_with("listen = ") {
            "listen = [\"127.0.0.1:0\"]"
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// From here on this socket takes in no packet: to its peer, or to those who dial it, it has vanished
/// without a word.
pub fn vanish(socket: &SockRef<'_>) {
    // BPF_RET | BPF_K: keep nothing of the packet.
    let drop_all = SockFilter::new(0x06, 0, 0, 0);
    socket.attach_filter(&[drop_all]).unwrap();
}

/// More keys in the `[daemon]` table of a simulator's configuration.
pub fn daemon_keys(text: &str, keys: &str) -> String {
    assert!(text.contains("\n[daemon]\n"), "no [daemon] in\n{text}");
    text.replace("\n[daemon]\n", &format!("\n[daemon]\n{keys}\n"))
}
