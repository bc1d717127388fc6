//! Test fixtures: a simulated FinSpace with a daemon in front of it ([`Stage`], [`Daemon`]), its
//! configuration ([`Configuration`]), and a small q client ([`QClient`]).

pub mod busy_kdb;
pub mod certificates;
pub mod configuration;
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
pub use configuration::Configuration;
pub use daemon::Daemon;
pub use log::Log;
pub use process::Process;
pub use qclient::QClient;

use configuration::{DaemonTable, EndpointTable, UserTable};

/// A simulated FinSpace and a daemon, both in the process of the test.
pub struct Stage {
    pub sim: Simulator,
    pub app: App,
    pub folder: tempfile::TempDir,
}

/// Builds a [`Stage`]. Unless [`StageBuilder::fixed_ports`] says otherwise, every endpoint listens on
/// 127.0.0.1 at a port that the system chooses.
pub struct StageBuilder<'a> {
    options: Options,
    simulator: Option<Simulator>,
    fixed_ports: bool,
    changes: Vec<ConfigurationChange<'a>>,
    source: Arc<dyn ExternalSource>,
    clock: Clock,
}

type ConfigurationChange<'a> = Box<dyn FnOnce(Configuration) -> Configuration + 'a>;

impl<'a> StageBuilder<'a> {
    /// The options of the simulator that is started.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// A simulator that has been prepared.
    #[must_use]
    pub fn simulator(mut self, sim: Simulator) -> Self {
        self.simulator = Some(sim);
        self
    }

    /// Keeps the addresses that the simulator writes: fixed ports, and a Unix socket for `hdb`.
    #[must_use]
    pub fn fixed_ports(mut self) -> Self {
        self.fixed_ports = true;
        self
    }

    /// Another clock of the daemon, with credentials from a source that follows it.
    #[must_use]
    pub fn in_time(mut self, source: Arc<dyn ExternalSource>, clock: Clock) -> Self {
        (self.source, self.clock) = (source, clock);
        self
    }

    /// Changes the configuration that the simulator writes.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(Configuration) -> Configuration + 'a) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Changes an endpoint of the configuration.
    #[must_use]
    pub fn endpoint(
        self,
        name: &'a str,
        change: impl FnOnce(EndpointTable) -> EndpointTable + 'a,
    ) -> Self {
        self.configure(move |config| config.endpoint(name, change))
    }

    /// Changes a user of the configuration.
    #[must_use]
    pub fn user(self, name: &'a str, change: impl FnOnce(UserTable) -> UserTable + 'a) -> Self {
        self.configure(move |config| config.user(name, change))
    }

    /// Changes the table `[daemon]` of the configuration.
    #[must_use]
    pub fn daemon(self, change: impl FnOnce(DaemonTable) -> DaemonTable + 'a) -> Self {
        self.configure(move |config| config.daemon(change))
    }

    /// Starts the simulator and the daemon.
    pub async fn start(self) -> Stage {
        let sim = match self.simulator {
            Some(sim) => sim,
            None => Simulator::start(self.options).await.unwrap(),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = sim.write_files(folder.path(), &account()).unwrap();
        let mut configuration = Configuration::read(&path);
        if !self.fixed_ports {
            configuration = configuration.any_ports();
        }
        for change in self.changes {
            configuration = change(configuration);
        }
        configuration.write(&path);
        let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let app = App::start(config, self.source, self.clock).unwrap();
        Stage { sim, app, folder }
    }
}

impl Stage {
    pub fn builder<'a>() -> StageBuilder<'a> {
        StageBuilder {
            options: Options::default(),
            simulator: None,
            fixed_ports: false,
            changes: Vec::new(),
            source: Arc::new(Sources::default()),
            clock: Clock::system(),
        }
    }

    /// Starts a simulator and a daemon with the defaults.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("hopend.toml")
    }

    /// The configuration as it is in the file.
    pub fn configuration(&self) -> Configuration {
        Configuration::read(&self.config_path())
    }

    /// Changes the configuration file and reloads it.
    pub fn reload(
        &mut self,
        change: impl FnOnce(Configuration) -> Configuration,
    ) -> hopend::daemon::app::ReloadChanges {
        change(self.configuration()).write(&self.config_path());
        let config = config::load(&self.config_path()).unwrap_or_else(|p| panic!("{p}"));
        self.app.reload(config).unwrap()
    }

    /// The TCP address of an endpoint.
    pub fn address(&self, endpoint: &str) -> SocketAddr {
        address_of(&self.app, endpoint)
    }

    /// The password of the user `alice`.
    pub fn password(&self) -> String {
        let path = self.folder.path().join("alice.password");
        std::fs::read_to_string(path).unwrap().trim_end().to_owned()
    }

    /// Opens a handle as the account that runs the test.
    pub async fn open(&self, endpoint: &str) -> QClient {
        QClient::open(self.address(endpoint), "", "").await.unwrap()
    }
}

/// Writes a simulator's configuration into a folder, with every endpoint at a port that the system chooses,
/// and changed. Returns its path.
pub fn write_configuration(
    sim: &Simulator,
    folder: &Path,
    change: impl FnOnce(Configuration) -> Configuration,
) -> PathBuf {
    let path = sim.write_files(folder, &account()).unwrap();
    change(Configuration::read(&path).any_ports()).write(&path);
    path
}

/// The first TCP address of an endpoint.
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

/// The name of the account that runs the test.
pub fn account() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap();
    user.unwrap().name
}

/// Makes a socket drop every packet that it receives. To its peer it looks as if its host had vanished.
pub fn vanish(socket: &SockRef<'_>) {
    // BPF_RET | BPF_K: keep nothing of the packet.
    let drop_all = SockFilter::new(0x06, 0, 0, 0);
    socket.attach_filter(&[drop_all]).unwrap();
}
