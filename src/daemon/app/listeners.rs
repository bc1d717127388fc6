//! The listeners of the daemon: one task for each entry of `listen`.

use std::io;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::App;
use super::prepare::ListenerSnapshot;
use crate::config::{Config, ListenAddress};
use crate::listener::{
    self, AddressState, BindError, BindRetry, EndpointService, Listener, SocketKeeper,
    UnboundAddress,
};
use crate::primitives::shutdown::ShutdownReceiver;
use crate::session::Services;
use base::error::with_note;

/// Identifies a listener across reloads: its address, and for port 0 also its entry in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ListenerKey {
    pub(super) address: ListenAddress,
    /// Set for port 0 only: the system chose a port for this entry, so no other entry may take it over.
    any_port_of: Option<ListenEntry>,
}

/// One entry of an endpoint's `listen`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ListenEntry {
    endpoint: String,
    index: usize,
}

/// A listener that the configuration names.
#[derive(Debug, Clone)]
pub(super) struct WantedListener {
    pub(super) key: ListenerKey,
    /// The name of its endpoint.
    pub(super) endpoint: String,
}

/// A listener with its task. Its address is bound, or the task tries to bind it.
#[derive(Debug)]
pub(super) struct RunningListener {
    /// The name of its endpoint.
    pub(super) endpoint: String,
    pub(super) state: watch::Receiver<AddressState>,
    /// Keeps duplicates of its sockets while the address is bound.
    pub(super) keeper: SocketKeeper,
    /// Tells the task what to serve. A reload sends a new value.
    pub(super) served: watch::Sender<EndpointService>,
    pub(super) task: JoinHandle<()>,
}

/// Every listener that the configuration names, in its order.
pub(super) fn wanted_listeners(config: &Config) -> Vec<WantedListener> {
    let mut wanted = Vec::new();
    for endpoint in &config.endpoints {
        for (index, address) in endpoint.listen.iter().enumerate() {
            let entry = || ListenEntry {
                endpoint: endpoint.name.clone(),
                index,
            };
            wanted.push(WantedListener {
                key: ListenerKey {
                    address: address.clone(),
                    any_port_of: address.has_system_chosen_port().then(entry),
                },
                endpoint: endpoint.name.clone(),
            });
        }
    }
    wanted
}

impl RunningListener {
    /// None while the address is not bound.
    pub(super) fn bound_address(&self) -> Option<ListenAddress> {
        self.state.borrow().bound().cloned()
    }

    pub(super) fn snapshot(&self) -> ListenerSnapshot {
        ListenerSnapshot {
            bound: self.bound_address(),
            keeper: self.keeper.clone(),
        }
    }
}

impl App {
    /// Starts the task of a listener. If the address is not bound, the task binds it as soon as it can.
    pub(super) fn spawn_listener(
        &mut self,
        wanted: WantedListener,
        bound: Result<Listener, BindError>,
    ) {
        let WantedListener { key, endpoint } = wanted;
        let Some(running) = self.endpoints.get(&endpoint) else {
            return;
        };
        if let Err(error) = &bound {
            tracing::error!(endpoint, "{}", with_note(error, "hopend goes on trying"));
        }
        let (served, task_served) = watch::channel(running.served.clone());
        let keeper = SocketKeeper::default();
        let state = match &bound {
            Ok(listener) => {
                keeper.keep(listener, &self.passed_sockets);
                AddressState::Bound(listener.address().clone())
            }
            Err(error) => AddressState::Unbound(UnboundAddress::now(error)),
        };
        let (task_state, state) = watch::channel(state);
        let task = ListenerTask {
            state: task_state,
            retry: BindRetry {
                passed_sockets: Arc::clone(&self.passed_sockets),
                keeper: keeper.clone(),
                blocking: Handle::current(),
            },
            served: task_served,
            services: Arc::clone(&self.services),
            shutdown: self.shutdown.subscribe(),
        };
        // A runtime of the sessions, so that fewer clients have to move to another one.
        let runtime = match &self.services.workers {
            Some(workers) => workers.any().clone(),
            None => Handle::current(),
        };
        let task = runtime.spawn(task.run(bound.ok()));
        let listener = RunningListener {
            endpoint,
            state,
            keeper,
            served,
            task,
        };
        self.listeners.insert(key, listener);
    }
}

/// The task of a listener: binds its address if necessary, then accepts connections.
struct ListenerTask {
    state: watch::Sender<AddressState>,
    retry: BindRetry,
    served: watch::Receiver<EndpointService>,
    services: Arc<Services>,
    shutdown: ShutdownReceiver,
}

impl ListenerTask {
    async fn run(self, bound: Option<Listener>) {
        let Self {
            state,
            retry,
            served,
            services,
            mut shutdown,
        } = self;
        let listener = match bound {
            Some(listener) => listener,
            None => tokio::select! {
                listener = retry.bind_when_free(&state) => listener,
                () = shutdown.draining() => return,
            },
        };
        match listener.into_current_runtime() {
            Ok(listener) => {
                state.send_replace(AddressState::Bound(listener.address().clone()));
                listener::accept_connections(listener, served, services, shutdown).await;
            }
            Err(error) => report_lost_socket(&state, &error),
        }
    }
}

fn report_lost_socket(state: &watch::Sender<AddressState>, error: &io::Error) {
    state.send_modify(|state| state.set_lost(error));
    tracing::error!("a listening socket was lost: {error}. Fix: restart hopend.");
}
