//! `hopend demo` and `hopend sim`, which need the simulator. A build without the feature `demo` has neither.

mod shell;
pub(super) mod sim;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Exit, LogArgument, print_line, runtime, signals, start_log};
use crate::config::{self, ListenAddress, LogFormat};
use crate::credential::{Clock, Sources};
use crate::daemon::app::{self, App, ProcessContext};
use crate::limits;
use crate::primitives::log::ProcessLog;
use base::error::chain;
use shell::{own_command, quoted};
use sim::{SimulatorArguments, account};
use simulator::{LocalPorts, Simulator};

/// The sections of `hopend demo --help` after the options.
pub(super) const EXAMPLES: &str = "Examples:\n  hopend demo\n  hopend demo --idle-limit 10s";

/// Arguments of `hopend demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    #[command(flatten)]
    simulator: SimulatorArguments,
    #[command(flatten)]
    log: LogArgument,
}

pub(super) fn run(arguments: &DemoArguments) -> Exit {
    let log = match start_log(LogFormat::Text, &arguments.log) {
        Ok(log) => log,
        Err(exit) => return exit,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let result = runtime.block_on(demonstrate(arguments, &log));
    // Does not wait for a reload that hangs.
    runtime.shutdown_background();
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => {
            log.complain(format_args!("hopend demo: {}", chain(error.as_ref())));
            Exit::Unavailable
        }
    }
}

async fn demonstrate(
    arguments: &DemoArguments,
    log: &ProcessLog,
) -> Result<(), Box<dyn std::error::Error>> {
    let orders = signals::orders()?;
    let folder = tempfile::Builder::new().prefix("hopend-demo-").tempdir()?;
    limits::files::raise();
    let simulator = Simulator::start(arguments.simulator.options()).await?;
    let mut demo = DemoDaemon::start(&simulator, log, folder.path(), &LocalPorts::of_the_demo()?)?;
    if !demo.listens() {
        // Another process took a port after hopend had chosen it.
        demo.app.stop().await;
        demo = DemoDaemon::start(&simulator, log, folder.path(), &LocalPorts::free()?)?;
    }
    demo.print_introduction(folder.path());
    app::serve(demo.app, &demo.path, orders).await;
    simulator.shutdown().await;
    Ok(())
}

/// The daemon, and the configuration that it runs with.
struct DemoDaemon {
    app: App,
    path: PathBuf,
    /// The address of the status page.
    admin: Option<SocketAddr>,
    /// The names of the endpoints.
    endpoints: Vec<String>,
}

impl DemoDaemon {
    /// Writes a configuration with these ports, and starts a daemon with it.
    fn start(
        simulator: &Simulator,
        log: &ProcessLog,
        folder: &Path,
        ports: &LocalPorts,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let path = simulator.write_files_for(folder, &account(), ports)?;
        let config = config::load(&path)?;
        let admin = config.daemon.admin.as_ref().map(|admin| admin.address);
        let endpoints = config.endpoints.iter();
        let endpoints = endpoints.map(|endpoint| endpoint.name.clone()).collect();
        let given = ProcessContext {
            lost_log_lines: log.lost(),
            ..ProcessContext::default()
        };
        let sources = Arc::new(Sources::default());
        let app = App::start_on(None, given, config.into(), sources, Clock::system())?;
        Ok(Self {
            app,
            path,
            admin,
            endpoints,
        })
    }

    /// Whether each endpoint listens at an address.
    fn listens(&self) -> bool {
        let bound = self.app.addresses();
        let mut endpoints = self.endpoints.iter();
        endpoints.all(|name| bound.iter().any(|(endpoint, _)| endpoint == name))
    }

    /// Prints commands to try. Each works in a shell of the account that runs the demo.
    fn print_introduction(&self, folder: &Path) {
        let addresses = self.app.addresses();
        let port = |name: &str| {
            addresses
                .iter()
                .find_map(|(endpoint, address)| match address {
                    ListenAddress::Localhost(port) if endpoint == name => Some(*port),
                    _ => None,
                })
        };
        let (Some(port), Some(console)) = (port("hdb"), port("console")) else {
            return;
        };
        let password = folder.join("alice.password");
        let page = self
            .admin
            .map_or_else(String::new, |admin| format!("http://{admin}/status"));
        print_line(format_args!(
            r#"A simulated FinSpace and hopend, in one process. Its clusters are behind TLS and signed
connection strings; the handle below needs neither. Ctrl-C ends it all.

q:
  h:hopen `:localhost:{port}
  h"1+1"

PyKX, without a licence:
  PYKX_UNLICENSED=true python3 -c 'import pykx as kx; h = kx.SyncQConnection("localhost", {port}, no_ctx=True); print(h("trades").pd())'

A shell, with nothing installed (the result 2 is the eighth byte from the end of the answer):
  bash -c 'exec 3<>/dev/tcp/localhost/{port}
  printf ":\6\0\1\1\0\0\21\0\0\0\12\0\3\0\0\0001+1" >&3; head -c 18 <&3 | od -An -tx1'

The state of the daemon, live (q ends the screen):
  {hopend} status --watch --config {config}

The same as a page, in a browser on this host:
  {page}

Another user, by password:
  h:hopen `$":localhost:{port}:alice:",first read0`:{password}

The same as q tables (endpoints, addresses, sessions, credentials, errors), and discovery:
  c:hopen `:localhost:{console}; c"sessions"; c".aws.list_kx_clusters[]"

The configuration of the daemon:
  cat {config}
"#,
            password = password.display(),
            hopend = own_command(),
            config = quoted(&folder.join("hopend.toml").to_string_lossy()),
        ));
    }
}
