//! Warnings about a configuration that is valid, and may not do what its author expects.

use crate::config::{self, DaemonSettings, Endpoint, ListenAddress};
use crate::primitives::service;
use base::error::with_fix;

/// Warns of changed keys that only a restart puts into force.
pub(super) fn warn_of_restart_only_changes(old: &DaemonSettings, new: &DaemonSettings) {
    let keys = [
        ("log", old.log != new.log),
        ("confine", old.confine != new.confine),
    ];
    let changed = keys.iter().filter(|(_, is_changed)| *is_changed);
    let changed: Vec<_> = changed.map(|(key, _)| *key).collect();
    if !changed.is_empty() {
        tracing::warn!("[daemon] {}: a change takes a restart", changed.join(", "));
    }
}

/// Warns of an endpoint whose clients send their passwords over a network without TLS.
pub(super) fn warn_of_plain_passwords(endpoint: &Endpoint) {
    let exposed = endpoint.listen.iter().find(|address| !address.is_local());
    if let (Some(address), None) = (exposed, &endpoint.tls) {
        tracing::warn!(
            endpoint = endpoint.name,
            %address,
            "{}",
            with_fix(config::EXPOSED_WITHOUT_TLS, config::EXPOSED_WITHOUT_TLS_REMEDY)
        );
    }
}

/// Warns of socket files in a folder that the service manager shows to this service alone.
pub(super) fn warn_of_private_sockets(endpoint: &Endpoint) {
    let paths = endpoint.listen.iter().filter_map(|address| match address {
        ListenAddress::Path(path) => Some(path),
        _ => None,
    });
    for path in paths.filter(|path| service::is_in_private_tmp(path)) {
        tracing::warn!(
            endpoint = endpoint.name,
            address = %path.display(),
            "nobody else can dial this: the service has a folder of its own there. Fix: set PrivateTmp=no \
             (systemctl edit hopend)."
        );
    }
}
