//! Prepares a configuration, so that the daemon can put it into force without waiting.
//!
//! Everything that reads files, asks the account database or binds addresses is here. It runs on a
//! thread that serves nothing: if a mount or a name service hangs, only the reload waits.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::listeners::{ListenerKey, WantedListener, wanted_listeners};
use super::warnings::{warn_of_plain_passwords, warn_of_private_sockets};
use super::{ReloadError, RunningEndpoint};
use crate::config::{
    self, AccountDatabase, Config, Endpoint, ListenAddress, PartialConfig, Problems,
};
use crate::daemon::confine::Confinement;
use crate::identity::client_tls::Certificates;
use crate::listener::{
    BindError, EndpointService, Listener, PassedSockets, ReusableSockets, SocketKeeper,
};
use crate::route::PreparedTarget;
use crate::route::nodes::{NodeListing, Nodes};
use crate::session::Services;
use crate::surface::admin::{PreparedAdmin, RunningAdmin};
use crate::surface::control::{BoundControl, ControlSocket};
use crate::telemetry::audit::AuditChange;
use crate::upstream::tls::TlsConfigs;

/// The facts about the running daemon that the preparation of a reload needs.
///
/// It keeps no endpoint alive, because a preparation that hangs may outlive the endpoint.
pub(super) struct DaemonSnapshot {
    /// By name.
    pub(super) endpoints: HashMap<String, EndpointSnapshot>,
    pub(super) listeners: HashMap<ListenerKey, ListenerSnapshot>,
    pub(super) passed_sockets: Arc<PassedSockets>,
    pub(super) confinement: Arc<Confinement>,
    pub(super) accounts: AccountDatabase,
    pub(super) control: Option<ControlSocket>,
    pub(super) admin: Option<RunningAdmin>,
    pub(super) nodes: Nodes,
    pub(super) services: Arc<Services>,
}

/// A listener of the running daemon.
#[derive(Debug)]
pub(super) struct ListenerSnapshot {
    /// None if the address is not bound.
    pub(super) bound: Option<ListenAddress>,
    /// Keeps duplicates of the listener's sockets. It keeps none after the daemon has closed the listener.
    pub(super) keeper: SocketKeeper,
}

/// An endpoint of the running daemon.
#[derive(Debug, Clone)]
pub(super) struct EndpointSnapshot {
    pub(super) endpoint: Arc<Endpoint>,
    /// The content of `ca_file` when the endpoint was built.
    pub(super) authorities: Option<Vec<u8>>,
    pub(super) certificates: Option<Arc<Certificates>>,
}

/// A configuration that the daemon can put into force without waiting.
pub(super) struct PreparedReload {
    pub(super) loaded: PartialConfig,
    /// By name.
    pub(super) endpoints: HashMap<String, PreparedEndpoint>,
    pub(super) fresh_listeners: Vec<FreshListener>,
    pub(super) audit: AuditChange,
    pub(super) control: ControlChange,
    pub(super) admin: PreparedAdmin,
}

/// An endpoint of the new configuration.
pub(super) enum PreparedEndpoint {
    /// The running endpoint stays as it is.
    Unchanged,
    /// It is new, or it replaces the running one.
    Fresh(RunningEndpoint),
}

/// A listener of the new configuration whose address was not bound before.
pub(super) struct FreshListener {
    pub(super) wanted: WantedListener,
    /// On failure the daemon tries again, as at the start.
    pub(super) bound: Result<Listener, BindError>,
}

/// The new state of the control socket.
pub(super) enum ControlChange {
    Unchanged,
    /// The new configuration sets no control socket, or the socket could not be bound.
    Removed,
    Replaced(BoundControl),
}

/// The reason why a reload was rejected.
pub(super) enum RejectedReload {
    /// Errors in the configuration file.
    File(Problems),
    /// Any other reason, in one line.
    Reason(String),
}

impl From<ReloadError> for RejectedReload {
    fn from(error: ReloadError) -> Self {
        Self::Reason(base::error::chain(&error))
    }
}

impl DaemonSnapshot {
    /// Reads the configuration file and prepares its content. Blocks. Must be called within a tokio
    /// runtime.
    pub(super) fn prepare_file(self, path: &Path) -> Result<PreparedReload, RejectedReload> {
        let endpoints = self.endpoints.values();
        let running: Vec<_> = endpoints.map(|it| Arc::clone(&it.endpoint)).collect();
        let loaded = match config::load_to_serve(path, &*self.accounts, &running) {
            Ok(loaded) => loaded,
            Err(problems) => {
                let confined = self.confinement.find_unreadable(problems.files());
                let file = || RejectedReload::File(problems);
                return Err(confined.map_or_else(file, RejectedReload::Reason));
            }
        };
        self.check_confinement(&loaded)
            .map_err(RejectedReload::Reason)?;
        Ok(self.prepare(loaded)?)
    }

    /// Rejects a configuration that needs files beyond the confinement. Only a restart widens it.
    fn check_confinement(&self, loaded: &PartialConfig) -> Result<(), String> {
        let files = loaded.problems.as_ref().map_or(&[][..], Problems::files);
        match self.confinement.find_unreadable(files) {
            Some(why) => Err(why),
            None => self.confinement.covers(&loaded.config),
        }
    }

    /// Prepares a configuration. Blocks. Must be called within a tokio runtime.
    pub(super) fn prepare(self, loaded: PartialConfig) -> Result<PreparedReload, ReloadError> {
        let fresh_listeners = self.bind_fresh(&loaded.config);
        let daemon = &loaded.config.daemon;
        let audit = self.services.audit.prepare(daemon.audit.as_deref())?;
        for running in self.endpoints.values() {
            if let Some(certificates) = &running.certificates {
                certificates.look();
            }
        }
        let control = self.prepare_control(daemon.control.as_deref());
        let admin = PreparedAdmin::new(daemon.admin.as_ref(), &daemon.viewers, self.admin.as_ref());
        let running = |name: &str| self.endpoints.get(name);
        let endpoints = prepare_endpoints(&loaded.config, running, &self.nodes, &self.services);
        Ok(PreparedReload {
            loaded,
            endpoints,
            fresh_listeners,
            audit,
            control,
            admin,
        })
    }

    /// Binds the addresses that are not bound yet.
    ///
    /// A new address reuses the sockets of an address that the new configuration drops, if they fit. For
    /// example, `localhost` takes over the socket of `127.0.0.1` at the same port, and vice versa.
    fn bind_fresh(&self, config: &Config) -> Vec<FreshListener> {
        let wanted = wanted_listeners(config);
        let dropped: Vec<_> = self
            .listeners
            .iter()
            .filter(|(key, _)| !wanted.iter().any(|wanted| wanted.key == **key))
            // This thread may hang. With duplicates, the daemon can close its own sockets all the same.
            .flat_map(|(_, running)| running.keeper.duplicates())
            .collect();
        let fresh = wanted.into_iter().filter(|it| !self.is_bound(&it.key));
        fresh
            .map(|wanted| {
                let address = &wanted.key.address;
                let reusable: ReusableSockets<'_> =
                    self.passed_sockets.sockets().chain(&dropped).collect();
                let bound = Listener::bind_reusing(&reusable, address).map_err(|error| BindError {
                    own: self.bound_address_that_clashes(address),
                    ..error
                });
                FreshListener { wanted, bound }
            })
            .collect()
    }

    fn is_bound(&self, key: &ListenerKey) -> bool {
        let running = self.listeners.get(key);
        running.is_some_and(|running| running.bound.is_some())
    }

    /// The address at which the daemon itself listens, if that prevents it from binding `address`.
    fn bound_address_that_clashes(&self, address: &ListenAddress) -> Option<ListenAddress> {
        let running = self.listeners.values();
        let mut bound = running.filter_map(|running| running.bound.as_ref());
        bound.find(|bound| bound.clashes(address)).cloned()
    }

    fn prepare_control(&self, wanted: Option<&Path>) -> ControlChange {
        match (wanted, &self.control) {
            (None, None) => ControlChange::Unchanged,
            (None, Some(_)) => ControlChange::Removed,
            (Some(path), Some(control)) if control.is_at(path) => ControlChange::Unchanged,
            (Some(path), _) => {
                BoundControl::bind(path).map_or(ControlChange::Removed, ControlChange::Replaced)
            }
        }
    }
}

impl EndpointSnapshot {
    fn is_same(&self, endpoint: &Endpoint, authorities: Option<&[u8]>) -> bool {
        *self.endpoint == *endpoint && self.authorities.as_deref() == authorities
    }
}

/// Builds the endpoints of a configuration. `running` looks up a running endpoint by its name. If the
/// settings of that endpoint and the content of its `ca_file` have not changed, the endpoint stays as it is.
///
/// Blocks while it reads files. Must be called within a tokio runtime.
pub(super) fn prepare_endpoints<'r>(
    config: &Config,
    running: impl Fn(&str) -> Option<&'r EndpointSnapshot>,
    nodes: &Nodes,
    services: &Arc<Services>,
) -> HashMap<String, PreparedEndpoint> {
    for found in config::loopback_warnings(config, Path::new(config::HOSTS_FILE)) {
        tracing::warn!("{found}");
    }
    let tls_configs = TlsConfigs::default();
    let endpoints = config.endpoints.iter();
    endpoints
        .map(|endpoint| {
            warn_of_plain_passwords(endpoint);
            warn_of_private_sockets(endpoint);
            // The route reports a file that cannot be read.
            let authorities = endpoint.ca_file().and_then(|path| std::fs::read(path).ok());
            let is_same = |it: &EndpointSnapshot| it.is_same(endpoint, authorities.as_deref());
            let prepared = if running(&endpoint.name).is_some_and(is_same) {
                PreparedEndpoint::Unchanged
            } else {
                let route = PreparedTarget::new(Arc::clone(endpoint), &tls_configs, nodes);
                PreparedEndpoint::Fresh(build_endpoint(
                    endpoint,
                    authorities,
                    Arc::new(route),
                    services,
                ))
            };
            (endpoint.name.clone(), prepared)
        })
        .collect()
}

fn build_endpoint(
    endpoint: &Arc<Endpoint>,
    authorities: Option<Vec<u8>>,
    target: Arc<PreparedTarget>,
    services: &Arc<Services>,
) -> RunningEndpoint {
    let tls = endpoint.tls.as_ref();
    let certificates = tls.map(|tls| Certificates::new(&endpoint.name, tls));
    let node_credentials = target.node_listing().map(|listing| {
        let (target, services) = (Arc::clone(&target), Arc::clone(services));
        let fetching = follow_node_credentials(listing.clone(), target, services);
        Arc::new(AbortOnDropHandle::new(tokio::spawn(fetching)))
    });
    let route_guard = target.guard().map(Arc::new);
    RunningEndpoint {
        endpoint: Arc::clone(endpoint),
        authorities,
        served: EndpointService {
            target,
            tls: certificates.map(Arc::new),
        },
        _node_credentials: node_credentials,
        route_guard,
    }
}

/// Whenever the cluster's list of nodes changes, fetches the credentials of new nodes and forgets those
/// of nodes that have disappeared.
async fn follow_node_credentials(
    mut listing: NodeListing,
    target: Arc<PreparedTarget>,
    services: Arc<Services>,
) {
    let mut fetched = HashSet::new();
    loop {
        listing.changed().await;
        let users = target.endpoint().users.iter();
        let recipes: HashSet<_> = users.flat_map(|user| target.recipes(user)).collect();
        for recipe in recipes.difference(&fetched) {
            services.credentials.prefetch(recipe);
        }
        let gone: HashSet<_> = fetched.difference(&recipes).collect();
        if !gone.is_empty() {
            // Another endpoint may still need one of them.
            let used = services.live.recipes();
            let is_useless = |recipe: &_| gone.contains(recipe) && !used.contains(recipe);
            services.credentials.forget(is_useless);
        }
        fetched = recipes;
    }
}
