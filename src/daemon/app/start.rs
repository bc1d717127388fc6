//! The start: build the services and the endpoints, bind the addresses, accept connections.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::in_force::apply_host_zone;
use super::listeners::{WantedListener, wanted_listeners};
use super::prepare::{PreparedEndpoint, prepare_endpoints};
use super::{App, ProcessContext, RunningEndpoint};
use crate::config::{Config, DaemonSettings, ListenAddress, PartialConfig};
use crate::console::DiscoveryCache;
use crate::credential::{Clock, Credentials, ExternalSource};
use crate::identity::{Authenticator, Penalties};
use crate::limits::Limits;
use crate::listener::{BindError, Listener, PassedSockets};
use crate::primitives::lines::LostLines;
use crate::primitives::service;
use crate::primitives::shutdown::ShutdownSender;
use crate::primitives::workers::Workers;
use crate::route::nodes::Nodes;
use crate::session::{Services, SessionNumbers};
use crate::surface::admin::PreparedAdmin;
use crate::surface::control::{BoundControl, Control};
use crate::telemetry::audit::{AuditFile, AuditFileError, Repeats};
use crate::telemetry::live::{Live, SharedSnapshots};
use base::error::chain;

/// The reason why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No address could be bound. If another account holds an address, or a directory is missing, the daemon
    /// starts all the same and tries again, because an administrator can repair that while it runs.
    #[error("no address could be bound; the first: {}", chain(.0))]
    NothingBound(BindError),
    /// The audit file could not be opened.
    #[error(transparent)]
    Audit(#[from] AuditFileError),
}

/// A listener of the configuration, bound or not.
struct AttemptedListener {
    wanted: WantedListener,
    bound: Result<Listener, BindError>,
}

impl App {
    /// Starts on one runtime, in a process without passed sockets and confinement, as tests do. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// As [`Self::start_on`].
    pub fn start(
        config: impl Into<PartialConfig>,
        source: Arc<dyn ExternalSource>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let context = ProcessContext::default();
        Self::start_on(None, context, config.into(), source, clock)
    }

    /// Starts: binds every address and accepts connections. Sessions run on `workers`, or on the
    /// current runtime without them. Must be called within a tokio runtime.
    ///
    /// An address that cannot be bound prevents no other endpoint from starting. The daemon tries it
    /// again until it is bound.
    ///
    /// # Errors
    /// - The audit file cannot be opened.
    /// - No address can be bound, and neither another account nor a missing directory causes a failure.
    pub fn start_on(
        workers: Option<Workers>,
        context: ProcessContext,
        loaded: PartialConfig,
        source: Arc<dyn ExternalSource>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let PartialConfig {
            config, left_out, ..
        } = loaded;
        let mut passed_sockets = context.passed_sockets;
        let services = build_services(workers, context.lost_log_lines, &source, clock);
        open_audit_file(&services, &config)?;
        let nodes = Nodes::new(source);
        apply_host_zone(&config, &nodes);
        let endpoints = build_endpoints(&config, &nodes, &services);
        let attempts = bind_all(&config, &passed_sockets)?;
        close_stored_sockets(&mut passed_sockets, &attempts);
        let mut app = Self {
            config,
            left_out,
            services,
            nodes,
            shutdown: ShutdownSender::default(),
            endpoints,
            listeners: HashMap::new(),
            passed_sockets: Arc::new(passed_sockets),
            confinement: Arc::new(context.confinement),
            accounts: context.accounts,
            account_lookups: None,
            machine: context.machine,
            control: None,
            admin: None,
        };
        for AttemptedListener { wanted, bound } in attempts {
            app.spawn_listener(wanted, bound);
        }
        app.start_control();
        let admin = app.prepare_admin();
        app.put_config_in_force();
        app.serve_admin(admin);
        Ok(app)
    }

    fn start_control(&mut self) {
        let path = self.config.daemon.control.as_deref();
        let bound = path.and_then(BoundControl::bind);
        self.control = bound.map(|bound| Control::serve(bound, Arc::clone(&self.services) as _));
    }

    fn prepare_admin(&self) -> PreparedAdmin {
        let DaemonSettings { admin, viewers, .. } = &self.config.daemon;
        PreparedAdmin::new(admin.as_ref(), viewers, None)
    }
}

fn build_services(
    workers: Option<Workers>,
    lost_log_lines: LostLines,
    source: &Arc<dyn ExternalSource>,
    clock: Clock,
) -> Arc<Services> {
    Arc::new(Services {
        authenticator: Authenticator::default(),
        penalties: Penalties::default(),
        credentials: Credentials::new(Arc::clone(source) as _, clock),
        tasks: TaskTracker::new(),
        workers,
        sessions: SessionNumbers::of_this_run(),
        live: Live::default(),
        snapshots: SharedSnapshots::default(),
        discovery: DiscoveryCache::new(Arc::clone(source) as _),
        limits: Limits::default(),
        audit: AuditFile::default(),
        lost_log_lines,
        repeats: Repeats::default(),
    })
}

fn open_audit_file(services: &Services, config: &Config) -> Result<(), AuditFileError> {
    let opened = services.audit.prepare(config.daemon.audit.as_deref())?;
    services.audit.apply(opened);
    Ok(())
}

fn build_endpoints(
    config: &Config,
    nodes: &Nodes,
    services: &Arc<Services>,
) -> HashMap<String, RunningEndpoint> {
    let prepared = prepare_endpoints(config, |_| None, nodes, services);
    let endpoints = prepared.into_iter();
    endpoints
        .filter_map(|(name, endpoint)| match endpoint {
            PreparedEndpoint::Fresh(running) => Some((name, running)),
            // Does not happen: no endpoint runs before the start.
            PreparedEndpoint::Unchanged => None,
        })
        .collect()
}

/// Tries to bind every address. Fails if no address could be bound.
///
/// The daemon starts all the same if one of the failures passes without a new configuration: another
/// account may hold the address, or the directory of a socket file is missing. Otherwise that account could
/// prevent the start.
fn bind_all(
    config: &Config,
    passed_sockets: &PassedSockets,
) -> Result<Vec<AttemptedListener>, StartError> {
    let wanted = wanted_listeners(config).into_iter();
    let attempts = wanted.map(|wanted| {
        let reusable = passed_sockets.sockets().collect();
        let bound = Listener::bind_reusing(&reusable, &wanted.key.address);
        AttemptedListener { wanted, bound }
    });
    let mut attempts: Vec<_> = attempts.collect();
    let is_fatal = |attempt: &AttemptedListener| {
        let failure = attempt.bound.as_ref().err();
        failure
            .is_some_and(|error| !error.is_taken_by_another_account() && !error.lacks_directory())
    };
    if !attempts.is_empty() && attempts.iter().all(is_fatal) {
        let first = attempts.swap_remove(0);
        if let Err(error) = first.bound {
            return Err(StartError::NothingBound(error));
        }
    }
    Ok(attempts)
}

/// Closes the process's copies of the sockets from the service manager's store. A listener that uses one
/// has its own duplicate. The sockets that no listener uses are removed from the store, too.
fn close_stored_sockets(passed_sockets: &mut PassedSockets, attempts: &[AttemptedListener]) {
    let is_used = |socket: &ListenAddress| {
        let mut listeners = attempts
            .iter()
            .filter_map(|attempt| attempt.bound.as_ref().ok());
        listeners.any(|listener| listener.address().includes(socket))
    };
    for unused in passed_sockets.close_stored(is_used) {
        service::remove_stored(&unused);
    }
}
