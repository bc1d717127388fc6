//! The reload: another configuration replaces the one in force.
//!
//! [`App::reload`] does it in one step. The running daemon does it in two: a thread prepares the new
//! configuration, and [`App::commit`] puts it into force.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::in_force::apply_host_zone;
use super::listeners::{ListenerKey, WantedListener, wanted_listeners};
use super::prepare::{
    ControlChange, DaemonSnapshot, EndpointSnapshot, FreshListener, PreparedEndpoint,
    PreparedReload, RejectedReload,
};
use super::reload_queue::{FinishedReload, ReloadQueue};
use super::warnings::warn_of_restart_only_changes;
use super::{App, RunningEndpoint};
use crate::config::PartialConfig;
use crate::primitives::service;
use crate::surface::admin::Admin;
use crate::surface::control::Control;
use crate::telemetry::audit::AuditFileError;
use crate::telemetry::live::Grants;

/// The reason why a reload was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The audit file of the new configuration could not be opened.
    #[error(transparent)]
    Audit(#[from] AuditFileError),
}

/// The names of the endpoints that a reload changed, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadChanges {
    /// New endpoints.
    pub added: Vec<String>,
    /// Endpoints that serve the next sessions in another way.
    pub changed: Vec<String>,
    /// Endpoints that accept no more connections.
    pub removed: Vec<String>,
    /// Sessions that the reload ends, because their users have lost access.
    pub sessions_ended: usize,
}

impl App {
    /// Replaces the configuration. Unchanged endpoints go on as they are. A session ends only if its
    /// user has lost access. If an address cannot be bound, the daemon keeps trying, as at the start.
    /// Blocks while it reads files.
    ///
    /// # Errors
    /// The audit file cannot be opened. The old configuration stays in force.
    pub fn reload(
        &mut self,
        loaded: impl Into<PartialConfig>,
    ) -> Result<ReloadChanges, ReloadError> {
        let prepared = self.snapshot().prepare(loaded.into())?;
        Ok(self.commit(prepared))
    }

    /// Begins to prepare a reload, unless another one is being prepared.
    pub(super) fn begin_reload(&self, reloads: &mut ReloadQueue) {
        if reloads.request(|| self.snapshot()) {
            service::reloading();
        }
    }

    /// Puts a prepared configuration into force, or reports why the old one stays.
    pub(super) fn finish_reload(&mut self, finished: FinishedReload) {
        match finished {
            FinishedReload::Prepared(prepared) => {
                let changes = self.commit(*prepared);
                tracing::info!(
                    sessions_ended = changes.sessions_ended,
                    "reloaded: {changes}"
                );
                service::ready(&self.summary());
            }
            FinishedReload::Rejected(rejected) => self.report_rejected(rejected),
            FinishedReload::Abandoned => {}
        }
    }

    fn report_rejected(&self, rejected: RejectedReload) {
        let why = match rejected {
            RejectedReload::File(problems) => {
                // One line for each problem, with file and line number, as a start prints them.
                for problem in problems.to_string().lines() {
                    tracing::error!("{problem}");
                }
                "the configuration is not right".to_owned()
            }
            RejectedReload::Reason(why) => why,
        };
        tracing::error!("reload changed nothing: {why}");
        service::ready(&format!(
            "{}; the last reload changed nothing: {why}",
            self.summary()
        ));
    }

    /// The facts about the running daemon that the preparation of a reload needs.
    fn snapshot(&self) -> DaemonSnapshot {
        let endpoints = self.endpoints.iter();
        let listeners = self.listeners.iter();
        DaemonSnapshot {
            endpoints: endpoints
                .map(|(name, running)| (name.clone(), running.snapshot()))
                .collect(),
            listeners: listeners
                .map(|(key, listener)| (key.clone(), listener.snapshot()))
                .collect(),
            passed_sockets: Arc::clone(&self.passed_sockets),
            confinement: Arc::clone(&self.confinement),
            accounts: self.accounts.clone(),
            control: self.control.as_ref().map(Control::socket),
            admin: self.admin.as_ref().map(Admin::running),
            nodes: self.nodes.clone(),
            services: Arc::clone(&self.services),
        }
    }

    /// Puts a prepared configuration into force. Waits for nothing, and cannot fail.
    fn commit(&mut self, prepared: PreparedReload) -> ReloadChanges {
        let PreparedReload {
            loaded,
            endpoints,
            fresh_listeners,
            audit,
            control,
            admin,
        } = prepared;
        self.services.audit.apply(audit);
        apply_host_zone(&loaded.config, &self.nodes);
        let grants = Grants::of(&loaded);
        let mut changes = self.replace_endpoints(endpoints);
        let PartialConfig {
            config, left_out, ..
        } = loaded;
        warn_of_restart_only_changes(&self.config.daemon, &config.daemon);
        self.config = config;
        self.left_out = left_out;

        let wanted = WantedByKey::new(wanted_listeners(&self.config));
        self.add_listeners(fresh_listeners);
        self.close_unwanted_listeners(&wanted);
        self.update_listeners(&wanted);
        self.replace_control(control);
        self.put_config_in_force();
        self.serve_admin(admin);
        // This step comes last. The new configuration is in force now, so that only sessions that opened
        // before can have lost access.
        changes.sessions_ended = self.services.live.apply_grants(grants);
        changes
    }

    fn replace_endpoints(&mut self, prepared: HashMap<String, PreparedEndpoint>) -> ReloadChanges {
        let mut old = std::mem::take(&mut self.endpoints);
        let mut changes = ReloadChanges::default();
        for (name, endpoint) in prepared {
            let running = match (endpoint, old.remove(&name)) {
                (PreparedEndpoint::Unchanged, Some(before)) => before,
                // Does not happen: the endpoint ran when the reload was prepared, and only a reload removes
                // an endpoint.
                (PreparedEndpoint::Unchanged, None) => continue,
                (PreparedEndpoint::Fresh(running), Some(_)) => {
                    changes.changed.push(name.clone());
                    running
                }
                (PreparedEndpoint::Fresh(running), None) => {
                    changes.added.push(name.clone());
                    running
                }
            };
            self.endpoints.insert(name, running);
        }
        changes.removed.extend(old.into_keys());
        changes.added.sort();
        changes.changed.sort();
        changes.removed.sort();
        changes
    }

    fn add_listeners(&mut self, fresh: Vec<FreshListener>) {
        for FreshListener { wanted, bound } in fresh {
            match (self.listeners.get(&wanted.key), &bound) {
                // A task tries to bind it already.
                (Some(_), Err(_)) => continue,
                (Some(trying), Ok(_)) => trying.task.abort(),
                (None, _) => {}
            }
            self.spawn_listener(wanted, bound);
        }
    }

    /// Closes the listeners that the configuration no longer has. An endpoint keeps its old addresses
    /// while one of the new ones is not bound. Otherwise clients could reach it nowhere, and another
    /// account could bind the old address.
    fn close_unwanted_listeners(&mut self, wanted: &WantedByKey) {
        let lacking: HashSet<String> = self
            .listeners
            .iter()
            .filter(|(key, listener)| wanted.has(key) && listener.bound_address().is_none())
            .map(|(_, listener)| listener.endpoint.clone())
            .collect();
        self.listeners.retain(|key, listener| {
            if wanted.has(key) {
                return true;
            }
            let is_kept =
                lacking.contains(&listener.endpoint) && listener.bound_address().is_some();
            if is_kept {
                tracing::warn!(
                    endpoint = listener.endpoint,
                    "goes on listening at {}, which the configuration no longer has, because another \
                     address is not bound. Fix: see the error above, then reload.",
                    key.address
                );
            } else {
                listener.task.abort();
                listener.keeper.give_up();
            }
            is_kept
        });
    }

    /// Assigns each listener to its endpoint, and sends it what the endpoint serves now.
    fn update_listeners(&mut self, wanted: &WantedByKey) {
        for (key, listener) in &mut self.listeners {
            if let Some(endpoint) = wanted.endpoint_of(key) {
                endpoint.clone_into(&mut listener.endpoint);
            }
            if let Some(running) = self.endpoints.get(&listener.endpoint) {
                listener.served.send_if_modified(|served| {
                    let is_same = Arc::ptr_eq(&served.target, &running.served.target);
                    *served = running.served.clone();
                    !is_same
                });
            }
        }
    }

    fn replace_control(&mut self, change: ControlChange) {
        match change {
            ControlChange::Unchanged => {}
            ControlChange::Removed => self.control = None,
            ControlChange::Replaced(bound) => {
                self.control = Some(Control::serve(bound, Arc::clone(&self.services) as _));
            }
        }
    }
}

impl RunningEndpoint {
    fn snapshot(&self) -> EndpointSnapshot {
        EndpointSnapshot {
            endpoint: Arc::clone(&self.endpoint),
            authorities: self.authorities.clone(),
            certificates: self.served.tls.clone(),
        }
    }
}

/// The listeners of the new configuration: the name of the endpoint for each key.
struct WantedByKey(HashMap<ListenerKey, String>);

impl WantedByKey {
    fn new(wanted: Vec<WantedListener>) -> Self {
        let wanted = wanted.into_iter();
        Self(wanted.map(|it| (it.key, it.endpoint)).collect())
    }

    fn has(&self, key: &ListenerKey) -> bool {
        self.0.contains_key(key)
    }

    fn endpoint_of(&self, key: &ListenerKey) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl fmt::Display for ReloadChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ];
        let lists = lists.iter().filter(|(_, names)| !names.is_empty());
        let lists: Vec<_> = lists
            .map(|(change, names)| format!("{change} {}", names.join(" ")))
            .collect();
        match &lists[..] {
            [] => f.write_str("no endpoint changed")?,
            lists => f.write_str(&lists.join(", "))?,
        }
        match self.sessions_ended {
            0 => Ok(()),
            1 => f.write_str("; 1 session ends, as its user has lost access"),
            count => write!(f, "; {count} sessions end, as their users have lost access"),
        }
    }
}
