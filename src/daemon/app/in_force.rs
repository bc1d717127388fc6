//! The configuration takes effect. Start and reload both end here, once endpoints and listeners exist.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::App;
use super::listeners::wanted_listeners;
use crate::config::{Config, Endpoint, LeftOutCause, NodeSelector};
use crate::identity::account_lookup;
use crate::route::nodes::Nodes;
use crate::surface::admin::{Admin, PreparedAdmin};
use crate::telemetry::live::ServedEndpoint;

impl App {
    /// Applies the limits, publishes the endpoints and fetches their credentials.
    pub(super) fn put_config_in_force(&mut self) {
        self.services.limits.configure(&self.config, self.machine);
        self.report_left_out();
        self.look_up_unknown_accounts();
        self.warn_of_misfit_sockets();
        self.publish_endpoints();
        self.fetch_known_credentials();
        self.forget_unused_credentials();
    }

    /// Serves the admin address as prepared: for the new audience, at the new address, or no longer.
    pub(super) fn serve_admin(&mut self, prepared: PreparedAdmin) {
        match (prepared, &self.admin) {
            (PreparedAdmin::None, _) => self.admin = None,
            (PreparedAdmin::Stays(audience), Some(admin)) => admin.set_audience(audience),
            // It was served when the reload was prepared, and only a reload removes it.
            (PreparedAdmin::Stays(_), None) => {}
            (PreparedAdmin::Fresh(bound), _) => {
                let (shutdown, services) = (self.shutdown.subscribe(), Arc::clone(&self.services));
                self.admin = Some(Admin::start(bound, shutdown, services as _));
            }
        }
    }

    fn report_left_out(&self) {
        for left_out in &self.left_out {
            match left_out.cause {
                LeftOutCause::AccountUnknown(_) => tracing::warn!("{left_out}"),
                _ => tracing::error!("{left_out}"),
            }
        }
        self.services.live.set_left_out(self.left_out.clone());
    }

    /// Asks the account database again and again for the accounts that it does not know yet.
    fn look_up_unknown_accounts(&mut self) {
        let lookups = account_lookup::resolve(self.left_out.clone(), self.accounts.clone());
        self.account_lookups = Some(AbortOnDropHandle::new(tokio::spawn(lookups)));
    }

    fn warn_of_misfit_sockets(&self) {
        let wanted = wanted_listeners(&self.config).into_iter();
        let addresses = wanted.map(|wanted| (wanted.key.address, wanted.endpoint));
        for misfit in self.passed_sockets.misfits(&addresses.collect::<Vec<_>>()) {
            tracing::warn!("{misfit}");
        }
    }

    /// Shows the endpoints and the state of their addresses to status, metrics and console.
    fn publish_endpoints(&self) {
        let wanted = wanted_listeners(&self.config);
        let endpoints = self.config.endpoints.iter().filter_map(|endpoint| {
            let running = self.endpoints.get(&endpoint.name)?;
            let configured = wanted
                .iter()
                .filter(|wanted| wanted.endpoint == endpoint.name)
                .filter_map(|wanted| self.listeners.get(&wanted.key));
            // The addresses that the endpoint keeps although the configuration no longer has them.
            let kept = self.listeners.iter().filter(|(key, listener)| {
                let is_wanted = wanted.iter().any(|wanted| wanted.key == **key);
                listener.endpoint == endpoint.name && !is_wanted
            });
            let listeners = configured.chain(kept.map(|(_, listener)| listener));
            Some(ServedEndpoint {
                route: Arc::clone(&running.served.target) as _,
                listen: listeners.map(|listener| listener.state.clone()).collect(),
            })
        });
        self.services.live.set_endpoints(endpoints.collect());
    }

    /// Fetches the credentials that can be known before a client connects.
    fn fetch_known_credentials(&self) {
        for running in self.endpoints.values() {
            let route = &running.served.target;
            for user in &running.endpoint.users {
                for recipe in route.recipes(user) {
                    self.services.credentials.prefetch(&recipe);
                }
            }
        }
    }

    fn forget_unused_credentials(&self) {
        let used: HashSet<_> = self.services.live.recipes();
        let credentials = &self.services.credentials;
        credentials.forget(|recipe| !used.contains(recipe));
    }
}

/// Sets the availability zone for endpoints with `node = "zone"`. If the configuration names none, the
/// daemon asks the instance metadata, but only if such an endpoint exists.
pub(super) fn apply_host_zone(config: &Config, nodes: &Nodes) {
    let by_zone = |endpoint: &Arc<Endpoint>| endpoint.target.node() == Some(&NodeSelector::Zone);
    nodes.tell_zone(
        config.daemon.zone.as_deref(),
        config.endpoints.iter().any(by_zone),
    );
}
