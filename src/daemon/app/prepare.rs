//! A configuration made ready to be served. All that reads files, asks the account database or binds
//! addresses is here, so that it can be done off the threads that serve: a mount or a name service that
//! hangs keeps a reload waiting, and nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::DropGuard;
use tokio_util::task::AbortOnDropHandle;

use super::{Key, ReloadError, Running, expect_nodes, keys, warn_of_hidden, warn_of_plain};
use crate::config::{self, AccountDatabase, Config, Endpoint, ListenAddress, Loaded, Problems};
use crate::daemon::confine::Confinement;
use crate::daemon::listener::{BindError, HeldSockets, Listener, Listening, Passed, Served};
use crate::identity::client_tls::Certificates;
use crate::route::Route;
use crate::route::nodes::Nodes;
use crate::session::Services;
use crate::surface::admin::{PreparedAdmin, RunningAdmin};
use crate::surface::control::{BoundControl, ControlSocket};
use crate::telemetry::audit::AuditChange;
use crate::upstream::tls::TlsConfigs;

/// What a reload needs to know of the running daemon. Holds nothing that keeps an endpoint alive: a
/// preparation that hangs may outlive it.
pub(super) struct Preparation {
    pub(super) endpoints: HashMap<String, KnownEndpoint>,
    pub(super) listeners: HashMap<Key, KnownListener>,
    pub(super) passed: Arc<Passed>,
    pub(super) confinement: Arc<Confinement>,
    pub(super) accounts: AccountDatabase,
    pub(super) control: Option<ControlSocket>,
    pub(super) admin: Option<RunningAdmin>,
    pub(super) nodes: Nodes,
    pub(super) services: Arc<Services>,
}

/// A listener that runs.
#[derive(Debug)]
pub(super) struct KnownListener {
    /// Where it is bound, if it is.
    pub(super) bound: Option<ListenAddress>,
    /// Its sockets, until the daemon closes them.
    pub(super) held: HeldSockets,
}

/// An endpoint that runs.
#[derive(Debug, Clone)]
pub(super) struct KnownEndpoint {
    pub(super) endpoint: Arc<Endpoint>,
    /// Its authorities, as their file held them: it may change under its name.
    pub(super) authorities: Option<Vec<u8>>,
    pub(super) certificates: Option<Arc<Certificates>>,
}

/// A configuration that can be swapped in without waiting for anything.
pub(super) struct Prepared {
    pub(super) loaded: Loaded,
    pub(super) endpoints: HashMap<String, Ready>,
    pub(super) fresh: Vec<FreshListener>,
    pub(super) audit: AuditChange,
    pub(super) control: ControlChange,
    pub(super) admin: PreparedAdmin,
}

/// An endpoint of the new configuration.
pub(super) enum Ready {
    /// It is as it was, and goes on.
    AsBefore,
    /// It is new, or has changed.
    Fresh(Running),
}

/// An address that was not bound before.
pub(super) struct FreshListener {
    pub(super) key: Key,
    pub(super) endpoint: String,
    /// An address that cannot be bound is tried again, as at a start.
    pub(super) bound: Result<Listener, BindError>,
}

/// What becomes of the control socket.
pub(super) enum ControlChange {
    /// It is where it should be.
    Stays,
    /// There is none from now on, or it could not be bound.
    None,
    /// It is served at another place from now on.
    Fresh(BoundControl),
}

/// Why a reload changes nothing.
pub(super) enum NotPrepared {
    /// The file, as a whole.
    File(Problems),
    /// Anything else, in a line.
    Reason(String),
}

impl From<ReloadError> for NotPrepared {
    fn from(error: ReloadError) -> Self {
        Self::Reason(base::error::chain(&error))
    }
}

impl Preparation {
    /// Reads the file, and prepares what it says. Blocks. Must be called within a tokio runtime.
    pub(super) fn load(self, path: &Path) -> Result<Prepared, NotPrepared> {
        let running: Vec<_> = self
            .endpoints
            .values()
            .map(|known| Arc::clone(&known.endpoint))
            .collect();
        let loaded = config::load_to_serve(path, &*self.accounts, &running);
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => {
                let confined = self.confinement.keeps_from(problems.files());
                return Err(confined.map_or(NotPrepared::File(problems), NotPrepared::Reason));
            }
        };
        // Only a start can give the daemon what it confined itself from.
        let files = loaded.problems.as_ref().map_or(&[][..], Problems::files);
        if let Some(confined) = self.confinement.keeps_from(files) {
            return Err(NotPrepared::Reason(confined));
        }
        let covered = self.confinement.covers(&loaded.config);
        covered.map_err(NotPrepared::Reason)?;
        Ok(self.of(loaded)?)
    }

    /// Prepares what a configuration says. Blocks. Must be called within a tokio runtime.
    pub(super) fn of(self, loaded: Loaded) -> Result<Prepared, ReloadError> {
        let fresh = self.bind_new(&loaded.config);
        let daemon = &loaded.config.daemon;
        let audit = self.services.audit.prepare(daemon.audit.as_deref())?;
        for known in self.endpoints.values() {
            if let Some(certificates) = &known.certificates {
                certificates.look();
            }
        }
        let control = self.control(daemon.control.as_deref());
        let (settings, known) = (daemon.admin.as_ref(), self.admin.as_ref());
        let admin = PreparedAdmin::new(settings, &daemon.viewers, known);
        let known = |name: &str| self.endpoints.get(name);
        let endpoints = prepare(&loaded.config, known, &self.nodes, &self.services);
        Ok(Prepared {
            loaded,
            endpoints,
            fresh,
            audit,
            control,
            admin,
        })
    }

    /// Binds the addresses that are not listened at yet. A socket that the new configuration gives up
    /// serves `localhost` with its port, and the other way round.
    fn bind_new(&self, config: &Config) -> Vec<FreshListener> {
        let wanted = keys(config);
        let stays = |key: &Key| wanted.iter().any(|(wanted, _)| wanted == key);
        let given_up = self.listeners.iter().filter(|(key, _)| !stays(key));
        // A bind may hang, and the daemon closes these sockets when it stops.
        let given_up: Vec<_> = given_up
            .flat_map(|(_, known)| known.held.duplicates())
            .collect();
        let is_bound = |key: &Key| {
            self.listeners
                .get(key)
                .is_some_and(|known| known.bound.is_some())
        };
        let new = wanted.iter().filter(|(key, _)| !is_bound(key));
        new.map(|(key, endpoint)| {
            let listening: Listening<'_> = self.passed.sockets().chain(&given_up).collect();
            let bound = Listener::with(&listening, &key.address).map_err(|error| BindError {
                own: self.in_the_way_of(&key.address),
                ..error
            });
            FreshListener {
                key: key.clone(),
                endpoint: endpoint.clone(),
                bound,
            }
        })
        .collect()
    }

    /// An address of its own that keeps it from binding another.
    fn in_the_way_of(&self, address: &ListenAddress) -> Option<ListenAddress> {
        let mut own = self
            .listeners
            .values()
            .filter_map(|known| known.bound.as_ref());
        own.find(|own| own.clashes(address)).cloned()
    }

    fn control(&self, wanted: Option<&Path>) -> ControlChange {
        match (wanted, &self.control) {
            (None, None) => ControlChange::Stays,
            (None, Some(_)) => ControlChange::None,
            (Some(path), Some(control)) if control.is_at(path) => ControlChange::Stays,
            (Some(path), _) => {
                BoundControl::bind(path).map_or(ControlChange::None, ControlChange::Fresh)
            }
        }
    }
}

impl KnownEndpoint {
    pub(super) fn is(&self, endpoint: &Endpoint, authorities: Option<&[u8]>) -> bool {
        *self.endpoint == *endpoint && self.authorities.as_deref() == authorities
    }
}

/// Every endpoint ready for use. Reads files. Must be called within a tokio runtime.
pub(super) fn prepare<'k>(
    config: &Config,
    known: impl Fn(&str) -> Option<&'k KnownEndpoint>,
    nodes: &Nodes,
    services: &Arc<Services>,
) -> HashMap<String, Ready> {
    for found in config::single_families(config, Path::new(config::HOSTS)) {
        tracing::warn!("{found}");
    }
    let authorities_made = TlsConfigs::default();
    let endpoints = config.endpoints.iter();
    endpoints
        .map(|endpoint| {
            warn_of_plain(endpoint);
            warn_of_hidden(endpoint);
            // A file that can't be read is told by the route.
            let authorities = endpoint.ca_file().and_then(|path| std::fs::read(path).ok());
            let same = |known: &KnownEndpoint| known.is(endpoint, authorities.as_deref());
            let ready = if known(&endpoint.name).is_some_and(same) {
                Ready::AsBefore
            } else {
                let tls = endpoint.tls.as_ref();
                let certificates = tls.map(|tls| Certificates::new(&endpoint.name, tls));
                let route = Arc::new(Route::new(Arc::clone(endpoint), &authorities_made, nodes));
                let expecting = route.listing().map(|_| {
                    let expecting = expect_nodes(Arc::clone(&route), Arc::clone(services));
                    Arc::new(AbortOnDropHandle::new(tokio::spawn(expecting)))
                });
                let in_service: Option<Arc<DropGuard>> = Some(Arc::new(route.guard()));
                Ready::Fresh(Running {
                    endpoint: Arc::clone(endpoint),
                    authorities,
                    served: Served {
                        route,
                        tls: certificates.map(Arc::new),
                    },
                    _expecting: expecting,
                    in_service,
                })
            };
            (endpoint.name.clone(), ready)
        })
        .collect()
}
