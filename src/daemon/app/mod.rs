//! The daemon from start to stop: [`run`] starts it, serves with it and drains it.
//!
//! The three transitions have a file each: [`App::start_on`], [`App::reload`] and [`App::stop`]. A reload
//! has two halves. `prepare.rs` reads, resolves and binds on a thread of its own, and `reload.rs` puts the
//! result into force without waiting for anything.

mod in_force;
mod listeners;
mod prepare;
mod reload;
mod reload_queue;
mod start;
mod stop;
mod warnings;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{
    AccountDatabase, Config, Endpoint, LeftOutPart, ListenAddress, MachineMemory, PartialConfig,
};
use crate::credential::{Clock, Sources};
use crate::daemon::confine::Confinement;
use crate::daemon::memory;
use crate::limits;
use crate::listener::{EndpointService, PassedSockets};
use crate::primitives::lines::LostLines;
use crate::primitives::service::{self, watchdog};
use crate::primitives::shutdown::ShutdownSender;
use crate::primitives::workers::Workers;
use crate::route::nodes::Nodes;
use crate::session::Services;
use crate::surface::admin::Admin;
use crate::surface::control::Control;
use crate::telemetry::status::Status;
use listeners::{ListenerKey, RunningListener};
pub use reload::{ReloadChanges, ReloadError};
use reload_queue::ReloadQueue;
pub use start::StartError;
pub use stop::DrainSummary;

/// A command to the running daemon. Signals are the source of all commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonCommand {
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Drain and end (SIGTERM, SIGINT).
    Stop,
}

/// The process that the daemon runs in: its sockets, its confinement and what it knows of the host.
///
/// The default suits tests: no passed sockets, no confinement, the account database of the host.
#[derive(Debug, Default)]
pub struct ProcessContext {
    /// The listening sockets that the service manager passed to the process.
    pub passed_sockets: PassedSockets,
    /// The files and system calls that the process has given up.
    pub confinement: Confinement,
    /// The account database, which resolves `os_user` to a uid.
    pub accounts: AccountDatabase,
    /// Counts the lines that the log of the process has lost.
    pub lost_log_lines: LostLines,
    /// The memory that the system grants to the process.
    pub machine: MachineMemory,
}

/// Starts the daemon, serves until the stop command, drains, and returns.
///
/// `path` is the configuration file, which a reload reads again. `loaded` is its content at the start.
pub async fn run(
    path: &Path,
    loaded: PartialConfig,
    context: ProcessContext,
    commands: mpsc::Receiver<DaemonCommand>,
) -> Result<DrainSummary, StartError> {
    limits::files::raise();
    let workers = Workers::start()
        .inspect_err(|error| tracing::warn!("sessions share one runtime: {error}"))
        .ok();
    let sources = Arc::new(Sources::default());
    let app = App::start_on(workers, context, loaded, sources, Clock::system())?;
    Ok(serve(app, path, commands).await)
}

/// Serves until the stop command, then drains. A reload command reads the file at `path` again.
pub async fn serve(app: App, path: &Path, commands: mpsc::Receiver<DaemonCommand>) -> DrainSummary {
    let services = Arc::clone(&app.services);
    tokio::select! {
        summary = serve_and_drain(app, path, commands) => summary,
        never = watchdog::feed(|| visit_every_runtime(&services)) => match never {},
        never = memory::trim_periodically(|| services.connection_changes()) => match never {},
    }
}

async fn serve_and_drain(
    mut app: App,
    path: &Path,
    commands: mpsc::Receiver<DaemonCommand>,
) -> DrainSummary {
    app.announce_ready();
    app.serve_until_stopped(path, commands).await;
    app.announce_drain();
    app.stop().await
}

/// Runs an empty task on each runtime, and returns when all of them have run. If it returns, then every
/// runtime makes progress, and so does the task that called it.
async fn visit_every_runtime(services: &Services) {
    // First the runtime of the caller, then those of the sessions.
    let _ = tokio::spawn(async {}).await;
    if let Some(workers) = &services.workers {
        workers.turn().await;
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct App {
    config: Config,
    /// The parts of the configuration that the daemon does not serve, each with its cause.
    left_out: Vec<LeftOutPart>,
    services: Arc<Services>,
    nodes: Nodes,
    shutdown: ShutdownSender,
    endpoints: HashMap<String, RunningEndpoint>,
    listeners: HashMap<ListenerKey, RunningListener>,
    passed_sockets: Arc<PassedSockets>,
    confinement: Arc<Confinement>,
    accounts: AccountDatabase,
    /// Looks up the accounts that the account database did not know so far.
    account_lookups: Option<AbortOnDropHandle<()>>,
    machine: MachineMemory,
    /// None if the configuration sets no control socket, or if the socket could not be bound.
    control: Option<Control>,
    /// None if the configuration sets no admin address.
    admin: Option<Admin>,
}

/// An endpoint that is served, with the parts that its listeners share.
#[derive(Debug, Clone)]
struct RunningEndpoint {
    endpoint: Arc<Endpoint>,
    /// The content of `ca_file`. A reload compares it, because the content can change while the path stays
    /// the same.
    authorities: Option<Vec<u8>>,
    served: EndpointService,
    /// Fetches the credentials of nodes that appear. It ends with the last clone of this endpoint.
    _node_credentials: Option<Arc<AbortOnDropHandle<()>>>,
    /// Ends the probes and the warm connections of the route when it is dropped.
    route_guard: Option<Arc<DropGuard>>,
}

impl App {
    /// The bound addresses, each with the name of its endpoint, sorted.
    pub fn addresses(&self) -> Vec<(String, ListenAddress)> {
        let listeners = self.listeners.values();
        let mut addresses: Vec<_> = listeners
            .filter_map(|listener| Some((listener.endpoint.clone(), listener.bound_address()?)))
            .collect();
        addresses.sort_by_cached_key(|(endpoint, address)| (endpoint.clone(), address.to_string()));
        addresses
    }

    /// The state that all sessions share.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// The status of the daemon, as `hopend status` shows it. Blocks, as [`Services::status`] does.
    pub fn status(&self) -> Status {
        self.services.status()
    }

    /// Carries out reloads until the stop command.
    async fn serve_until_stopped(
        &mut self,
        path: &Path,
        mut commands: mpsc::Receiver<DaemonCommand>,
    ) {
        let mut reloads = ReloadQueue::new(path);
        loop {
            tokio::select! {
                // The stop command wins over a reload that finishes at the same moment.
                biased;
                command = commands.recv() => match command {
                    Some(DaemonCommand::Reload) => self.begin_reload(&mut reloads),
                    Some(DaemonCommand::Stop) | None => return,
                },
                finished = reloads.next() => {
                    self.finish_reload(finished);
                    if reloads.has_pending_request() {
                        self.begin_reload(&mut reloads);
                    }
                }
            }
        }
    }

    fn announce_ready(&self) {
        for (endpoint, address) in self.addresses() {
            tracing::info!(endpoint, %address, "listening");
        }
        service::ready(&self.summary());
        tracing::info!(endpoints = self.config.endpoints.len(), "ready");
    }

    fn announce_drain(&self) {
        service::stopping(&format!(
            "draining {} sessions for up to {} s",
            self.services.tasks.len(),
            self.config.daemon.drain.as_secs()
        ));
    }

    /// One line about the daemon, for the service manager.
    fn summary(&self) -> String {
        let left_out = match self.services.live.left_out().len() {
            0 => String::new(),
            1 => "; 1 part of the configuration is left out or stays as it was".into(),
            count => {
                format!("; {count} parts of the configuration are left out or stay as they were")
            }
        };
        let bound = self.addresses().len();
        let unbound = match self.listeners.len() - bound {
            0 => String::new(),
            count => format!("; {count} could not be bound (hopend status)"),
        };
        let endpoints = self.config.endpoints.len();
        format!("serving {endpoints} endpoints at {bound} addresses{unbound}{left_out}")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        for listener in self.listeners.values() {
            listener.task.abort();
        }
    }
}
