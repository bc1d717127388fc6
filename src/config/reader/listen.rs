//! The addresses that the daemon binds, each of which only one key may have.

use std::net::SocketAddr;

use super::diagnostics::Evidence;
use super::document::TomlValue;
use super::privileged_port;
use crate::config::config_part::ConfigPart;
use crate::config::listen_address::ListenAddress;
use crate::config::notice::Severity;
use crate::config::problem_scope::ProblemScope;

/// The addresses that keys of the file have so far.
#[derive(Default)]
pub(super) struct AddressClaims(Vec<AddressClaim>);

struct AddressClaim {
    address: ListenAddress,
    key: String,
    line: usize,
    /// The part that has the key. `None` for the admin address.
    part: Option<ConfigPart>,
}

impl AddressClaims {
    /// Claims an address, and reports if an earlier claim clashes with it.
    pub(super) fn claim(&mut self, value: &TomlValue<'_>, address: &ListenAddress) {
        let mut earlier = self.0.iter();
        if let Some(taken) = earlier.find(|claim| claim.address.clashes(address)) {
            // hopend cannot know which of the two endpoints the clients mean, so it serves neither.
            let reach = match (value.part(), &taken.part) {
                (Some(part), Some(other)) => ProblemScope::Parts(vec![part.clone(), other.clone()]),
                _ => ProblemScope::Daemon,
            };
            let AddressClaim {
                address: other,
                key,
                line,
                ..
            } = taken;
            value.report_reaching(
                Evidence::Present,
                reach,
                format!("{address} is taken: {key} has {other} on line {line}"),
                "give each key an address of its own",
            );
        }
        self.0.push(AddressClaim {
            address: address.clone(),
            key: value.key().to_owned(),
            line: value.line(),
            part: value.part().cloned(),
        });
    }
}

/// Adds a notice if this host does not let hopend bind the address.
pub(super) fn notice_if_unbindable(value: &TomlValue<'_>, address: &ListenAddress) {
    match address {
        ListenAddress::Localhost(_) | ListenAddress::Tcp(_) => {
            let port = address.tcp_sockets().first().map_or(0, SocketAddr::port);
            if let Some(first) = privileged_port::first_unprivileged_above(port) {
                value.notice(
                    Severity::Warning,
                    format!("this account may not bind port {port}"),
                    format!(
                        "choose a port from {first} up, let systemd bind it (hopend.socket), or give \
                         the service CAP_NET_BIND_SERVICE (AmbientCapabilities=)"
                    ),
                );
            }
        }
        ListenAddress::Path(path) => {
            value.notice_if_directory_is_missing(path);
        }
        ListenAddress::Abstract(_) => {}
    }
}
