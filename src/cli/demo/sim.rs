//! `hopend sim`.

use std::path::PathBuf;
use std::time::Duration;

use super::shell::{own_command, quoted};
use crate::cli::{Exit, LogArgument, parse_duration, print_line, runtime, signals, start_log};
use crate::config::LogFormat;
use crate::daemon::app::DaemonCommand;
use simulator::{OFFERED_EXPRESSIONS, Options, SimError, Simulator};

/// The sections of `hopend sim --help` after the options.
pub(in crate::cli) const EXAMPLES: &str = "\
Files:
  DIR/hopend.toml     the configuration for hopend run
  DIR/ca.pem          the authority that signs the certificates of the clusters
  DIR/credentials     AWS credentials, in the profile sim
  DIR/alice.password  the password of the user alice

Examples:
  hopend sim --dir sim
  hopend run --config sim/hopend.toml
  hopend sim --dir sim --idle-limit 30s --string-life 2m
  hopend sim --expressions";

/// The description in `hopend sim --help`.
pub(in crate::cli) const ABOUT: &str = "\
Run a simulated FinSpace on this host's loopback, and write a configuration for it: the management \
API and STS, with signatures verified, and clusters with nodes over TLS that check the signed login \
and drop idle connections. hopend prints the line `ready` when all of them listen. SIGTERM ends it.

The nodes are test doubles, not q processes. They evaluate the few expressions that --expressions lists, \
and accept data of any size.";

/// Arguments of `hopend sim`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SimArguments {
    /// The directory for hopend.toml and its files; hopend creates it if necessary
    #[arg(long, value_name = "DIR", required_unless_present = "expressions")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) simulator: SimulatorArguments,
    /// List the expressions that the nodes can evaluate, and exit
    #[arg(long)]
    expressions: bool,
    #[command(flatten)]
    log: LogArgument,
}

/// The options of the simulated FinSpace.
#[derive(Debug, clap::Args)]
pub(super) struct SimulatorArguments {
    /// Cut a connection that has been silent for this long
    #[arg(long, value_name = "TIME", default_value = "350s", value_parser = parse_duration)]
    idle_limit: Duration,
    /// The lifetime of a connection string
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    string_life: Duration,
    /// The number of nodes of each cluster
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
}

impl SimulatorArguments {
    pub(super) fn options(&self) -> Options {
        Options {
            idle_limit: self.idle_limit,
            string_life: self.string_life,
            nodes: self.nodes.into(),
            ..Options::default()
        }
    }
}

pub(in crate::cli) fn run(arguments: &SimArguments) -> Exit {
    if arguments.expressions {
        print_line(OFFERED_EXPRESSIONS);
        return Exit::Ok;
    }
    let Some(dir) = &arguments.dir else {
        return Exit::Usage;
    };
    let log = match start_log(LogFormat::Text, &arguments.log) {
        Ok(log) => log,
        Err(exit) => return exit,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let served: Result<(), SimError> = runtime.block_on(async {
        let mut orders = signals::orders().map_err(SimError::Listen)?;
        let simulator = Simulator::start(arguments.simulator.options()).await?;
        let path = simulator.write_files(dir, &account())?;
        print_line(format_args!(
            "simulated FinSpace {}",
            simulator.environment_id()
        ));
        print_line(format_args!("  management API  {}", simulator.api_url()));
        print_line(format_args!("  STS             {}", simulator.sts_url()));
        print_line(format_args!(
            "  clusters        {}",
            simulator.clusters().join(" ")
        ));
        print_line(
            "the nodes are test doubles: `hopend sim --expressions` lists what they can evaluate",
        );
        print_line("next:");
        let path = quoted(&path.to_string_lossy());
        print_line(format_args!("  {} run --config {path}", own_command()));
        print_line("ready");
        while let Some(DaemonCommand::Reload) = orders.recv().await {}
        simulator.shutdown().await;
        Ok(())
    });
    match served {
        Ok(()) => Exit::Ok,
        Err(error) => {
            log.complain(format_args!("hopend sim: {}", base::error::chain(&error)));
            Exit::Unavailable
        }
    }
}

/// The account of this process: its name, or its uid if it has no name.
pub(super) fn account() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}
