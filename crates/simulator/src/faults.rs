//! What goes wrong, set at run time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::certificates::Flaw;
use super::iam::matches;

/// How a call to the management API or to STS goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiFault {
    /// An error in the service's own shape.
    Error {
        /// HTTP status.
        status: u16,
        /// The error's name, such as `InternalServerException`.
        code: String,
        /// Its message.
        message: String,
    },
    /// ThrottlingException, 429 (STS: Throttling, 400).
    Throttle,
    /// The answer comes this much later.
    Delay(Duration),
    /// The answer never comes.
    Hang,
    /// The connection is reset without an answer.
    Close,
    /// 200 with a body that is neither JSON nor XML.
    Garbage,
}

/// How a cluster or a node goes wrong when a connection comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterFault {
    /// The login is refused whatever it says: closed without an answer, as q does.
    RefuseLogin,
    /// Closed as soon as it is accepted.
    CloseAtAccept,
    /// Reset as soon as it is accepted.
    ResetAtAccept,
    /// Closed in the middle of the TLS handshake.
    CloseAtTls,
    /// Reset in the middle of the TLS handshake.
    ResetAtTls,
    /// Closed when TLS stands.
    CloseAfterTls,
    /// Reset when TLS stands.
    ResetAfterTls,
    /// Closed after the login was read and before its answer, as a refusal looks.
    CloseAfterLogin,
    /// Reset after the login was read and before its answer.
    ResetAfterLogin,
    /// Accepted, and nothing more.
    Stall,
    /// TLS stands, and nothing more.
    StallAfterTls,
    /// The login is read, and nothing more.
    StallAfterLogin,
    /// The login is accepted, and nothing more.
    Silent,
    /// The certificate is wrong.
    Certificate(Flaw),
    /// The listener speaks q without TLS.
    Plaintext,
}

/// How a live connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// FIN, after the message that is being written, if one is.
    Fin,
    /// RST at once.
    Reset,
    /// FIN inside a message: the one being written, else a header that announces 1,000 bytes and
    /// ten of them.
    InsideFrame,
    /// The same with RST.
    InsideFrameReset,
}

/// For how long a fault holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// The next so many calls or connections.
    Next(usize),
    /// Until it is cleared.
    Always,
}

/// The faults that are set. The names are those of operations (`AssumeRole`), clusters and nodes;
/// `"*"` means each of them.
#[derive(Debug, Default)]
pub struct Faults {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    api: HashMap<String, (ApiFault, Times)>,
    clusters: HashMap<String, (ClusterFault, Times)>,
    denials: Vec<[String; 3]>,
    string_life: Option<Duration>,
}

impl Faults {
    /// Makes an operation go wrong.
    pub fn api(&self, operation: &str, fault: ApiFault, times: Times) {
        self.lock().api.insert(operation.to_owned(), (fault, times));
    }

    /// Makes connections to a cluster's endpoint, or to a node however it was reached, go wrong.
    pub fn cluster(&self, name: &str, fault: ClusterFault, times: Times) {
        self.lock().clusters.insert(name.to_owned(), (fault, times));
    }

    /// Refuses an action, whoever may do it otherwise.
    ///
    /// `principal` is an ARN, `action` reads like `finspace:GetKxConnectionString`, `resource` is
    /// an ARN; each may hold `*`.
    pub fn deny(&self, principal: &str, action: &str, resource: &str) {
        self.lock()
            .denials
            .push([principal, action, resource].map(str::to_owned));
    }

    /// Gives connection strings another life than the options say.
    pub fn string_life(&self, life: Option<Duration>) {
        self.lock().string_life = life;
    }

    /// Ends the fault of an operation.
    pub fn clear_api(&self, operation: &str) {
        self.lock().api.remove(operation);
    }

    /// Ends the fault of a cluster or node.
    pub fn clear_cluster(&self, name: &str) {
        self.lock().clusters.remove(name);
    }

    /// Ends every fault and denial.
    pub fn clear(&self) {
        *self.lock() = Inner::default();
    }

    pub(super) fn take_api(&self, operation: &str) -> Option<ApiFault> {
        let mut inner = self.lock();
        take(&mut inner.api, operation).or_else(|| take(&mut inner.api, "*"))
    }

    pub(super) fn take_cluster(&self, names: &[&str]) -> Option<ClusterFault> {
        let mut inner = self.lock();
        names
            .iter()
            .chain(&["*"])
            .find_map(|name| take(&mut inner.clusters, name))
    }

    pub(super) fn denies(&self, principal: &str, action: &str, resource: &str) -> bool {
        self.lock().denials.iter().any(|[who, what, which]| {
            matches(who, principal) && matches(what, action) && matches(which, resource)
        })
    }

    pub(super) fn life(&self) -> Option<Duration> {
        self.lock().string_life
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take<F: Clone>(faults: &mut HashMap<String, (F, Times)>, name: &str) -> Option<F> {
    let (fault, times) = faults.get_mut(name)?;
    let fault = fault.clone();
    match times {
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
