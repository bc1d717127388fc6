//! The faults of the simulation. Tests set and clear them while it runs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::certificates::CertificateFlaw;
use super::iam::matches;

/// A fault of the management API or of STS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiFault {
    /// The service answers with this error, in its own format.
    Error {
        /// HTTP status.
        status: u16,
        /// Name of the error, such as `InternalServerException`.
        code: String,
        /// Text of the error.
        message: String,
    },
    /// The service answers with ThrottlingException and status 429 (STS: Throttling and 400).
    Throttle,
    /// The service delays its answer by this time.
    Delay(Duration),
    /// The service never answers.
    Hang,
    /// The service resets the connection without an answer.
    Close,
    /// The service answers with status 200 and a body that is neither JSON nor XML.
    Garbage,
}

/// A fault of a cluster or node, for new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterFault {
    /// The node refuses every login: it closes the connection without an answer, as q does.
    RefuseLogin,
    /// The node closes the connection as soon as it has accepted it.
    CloseAtAccept,
    /// The node resets the connection as soon as it has accepted it.
    ResetAtAccept,
    /// The node closes the connection during the TLS handshake.
    CloseAtTls,
    /// The node resets the connection during the TLS handshake.
    ResetAtTls,
    /// The node closes the connection after the TLS handshake.
    CloseAfterTls,
    /// The node resets the connection after the TLS handshake.
    ResetAfterTls,
    /// The node reads the login and closes the connection. To a client this looks like a refusal.
    CloseAfterLogin,
    /// The node reads the login and resets the connection.
    ResetAfterLogin,
    /// The node accepts the connection and does nothing more.
    Stall,
    /// The node completes the TLS handshake and does nothing more.
    StallAfterTls,
    /// The node reads the login and does nothing more.
    StallAfterLogin,
    /// The node accepts the login and does nothing more: it neither reads nor answers messages.
    Silent,
    /// The node presents a certificate with this flaw.
    Certificate(CertificateFlaw),
    /// The node speaks q without TLS.
    Plaintext,
}

/// A way to cut a live connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// FIN, after the message that is being written, if any.
    Fin,
    /// RST at once.
    Reset,
    /// FIN inside a message: the one that is being written, or else a header that announces 1,000 bytes,
    /// and ten of them.
    InsideFrame,
    /// RST inside a message, as [`Self::InsideFrame`].
    InsideFrameReset,
}

/// The number of calls or connections that a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// The next calls or connections, this many; at least one.
    Next(usize),
    /// All, until the fault is cleared.
    Always,
}

/// The faults that are set, by the name of an operation (such as `AssumeRole`), a cluster or a node. The
/// name `"*"` stands for all of them.
#[derive(Debug, Default)]
pub struct Faults {
    settings: Mutex<FaultSettings>,
}

#[derive(Debug, Default)]
struct FaultSettings {
    api: HashMap<String, ScheduledFault<ApiFault>>,
    clusters: HashMap<String, ScheduledFault<ClusterFault>>,
    denials: Vec<Denial>,
    /// In place of [`Options::string_life`](super::options::Options::string_life).
    string_life: Option<Duration>,
}

#[derive(Debug)]
struct ScheduledFault<F> {
    fault: F,
    times: Times,
}

/// Patterns of the requests that are denied.
#[derive(Debug)]
struct Denial {
    principal: String,
    action: String,
    resource: String,
}

impl Faults {
    /// Sets a fault of an operation.
    pub fn api(&self, operation: &str, fault: ApiFault, times: Times) {
        let scheduled = ScheduledFault { fault, times };
        self.lock().api.insert(operation.to_owned(), scheduled);
    }

    /// Sets a fault of a cluster's endpoint, or of a node. A node's fault also affects connections that
    /// reach it through its cluster's endpoint.
    pub fn cluster(&self, name: &str, fault: ClusterFault, times: Times) {
        let scheduled = ScheduledFault { fault, times };
        self.lock().clusters.insert(name.to_owned(), scheduled);
    }

    /// Denies an action, even where a policy allows it.
    ///
    /// `principal` and `resource` are ARNs, `action` has the form `finspace:GetKxConnectionString`. Each
    /// may contain the wildcards `*` and `?`.
    pub fn deny(&self, principal: &str, action: &str, resource: &str) {
        self.lock().denials.push(Denial {
            principal: principal.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
        });
    }

    /// Sets the life of connection strings that are signed from now on; `None` returns to
    /// [`Options::string_life`](super::options::Options::string_life).
    pub fn string_life(&self, life: Option<Duration>) {
        self.lock().string_life = life;
    }

    /// Clears the fault of an operation.
    pub fn clear_api(&self, operation: &str) {
        self.lock().api.remove(operation);
    }

    /// Clears the fault of a cluster or node.
    pub fn clear_cluster(&self, name: &str) {
        self.lock().clusters.remove(name);
    }

    /// Clears every fault and denial.
    pub fn clear(&self) {
        *self.lock() = FaultSettings::default();
    }

    /// The fault of the next call of an operation, which counts as used.
    pub(crate) fn take_api(&self, operation: &str) -> Option<ApiFault> {
        let mut settings = self.lock();
        take(&mut settings.api, operation).or_else(|| take(&mut settings.api, "*"))
    }

    /// The fault of the next connection to the first of these names that has one.
    pub(crate) fn take_cluster(&self, names: &[&str]) -> Option<ClusterFault> {
        let mut settings = self.lock();
        names
            .iter()
            .chain(&["*"])
            .find_map(|name| take(&mut settings.clusters, name))
    }

    pub(crate) fn denies(&self, principal: &str, action: &str, resource: &str) -> bool {
        self.lock().denials.iter().any(|denial| {
            matches(&denial.principal, principal)
                && matches(&denial.action, action)
                && matches(&denial.resource, resource)
        })
    }

    pub(crate) fn life(&self) -> Option<Duration> {
        self.lock().string_life
    }

    fn lock(&self) -> MutexGuard<'_, FaultSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take<F: Clone>(faults: &mut HashMap<String, ScheduledFault<F>>, name: &str) -> Option<F> {
    let scheduled = faults.get_mut(name)?;
    let fault = scheduled.fault.clone();
    match &mut scheduled.times {
        Times::Always => {}
        Times::Next(left) => {
            *left = left.saturating_sub(1);
            if *left == 0 {
                faults.remove(name);
            }
        }
    }
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_holds_for_as_many_calls_as_it_says() {
        let faults = Faults::default();
        faults.api("AssumeRole", ApiFault::Throttle, Times::Next(2));
        faults.api("GetKxUser", ApiFault::Garbage, Times::Always);
        assert_eq!(faults.take_api("AssumeRole"), Some(ApiFault::Throttle));
        assert_eq!(faults.take_api("AssumeRole"), Some(ApiFault::Throttle));
        assert_eq!(faults.take_api("AssumeRole"), None);
        assert_eq!(faults.take_api("GetKxUser"), Some(ApiFault::Garbage));
        assert_eq!(faults.take_api("GetKxUser"), Some(ApiFault::Garbage));
        faults.clear_api("GetKxUser");
        assert_eq!(faults.take_api("GetKxUser"), None);
    }

    #[test]
    fn patterns() {
        assert!(matches("*", "anything"));
        assert!(matches("finspace:*", "finspace:GetKxUser"));
        assert!(matches(
            "*role/user-alice",
            "arn:aws:iam::1:role/user-alice"
        ));
        assert!(matches("a*b*c", "a--b--c"));
        assert!(!matches("a*b", "a-c"));
        assert!(!matches("finspace:GetKxUser", "finspace:ListKxUsers"));
    }
}
