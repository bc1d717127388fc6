//! Credentials: the logins that hopend presents to kdb+. Sources fetch credentials. A cache refreshes
//! each before it expires, so that no session has to wait.

mod cache;
pub(crate) mod command;
mod discover;
mod keeper;
pub(crate) mod node;
mod schedule;
mod skew;
mod source;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;

use crate::config::{LoginCommand, NodeVia};
use base::error::{ErrorKind, with_fix};
use base::kdb_address::KdbAddress;
use finspace::environment::Environment;
use finspace::role_arn::RoleArn;
use secret::Secret;

pub use cache::{CredentialStatus, Credentials, GenerationStatus};
pub use discover::Discover;
pub use finspace::{AwsTime, CallCount};
pub use schedule::{Expiry, Now, Retry};
pub use source::{ExternalSource, Sources};

/// All inputs that decide which credential is fetched. A recipe is the key of the cache, so sessions
/// share a credential only if each would fetch the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Recipe {
    /// A signed connection string of a FinSpace cluster.
    FinSpace {
        /// The cluster's environment.
        environment: Arc<Environment>,
        /// The cluster's name.
        cluster: String,
        /// The node to connect to. `None` for the cluster's own endpoint.
        node: Option<RequestedNode>,
        /// The FinSpace user whom the connection string names.
        kx_user: String,
        /// The role to assume. If `None`, hopend asks FinSpace for the role of `kx_user`.
        role: Option<RoleArn>,
        /// The local user. hopend makes the name of the role session in CloudTrail from this name.
        local_user: String,
    },
    /// A login that a program prints.
    Command {
        /// The program, its arguments and its environment variables.
        command: LoginCommand,
        /// The endpoint. The program gets its name in `HOPEND_ENDPOINT`.
        endpoint: String,
        /// The local user. The program gets this name in `HOPEND_USER`.
        local_user: String,
    },
}

/// A node of a cluster, and the way to its connection string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestedNode {
    /// The node's id.
    pub id: String,
    /// The source of the node's connection string: the management API, or the cluster itself.
    pub via: NodeVia,
}

impl Recipe {
    /// The name of the `[[user]]` for whom the credential is fetched.
    pub fn local_user(&self) -> &str {
        match self {
            Self::FinSpace { local_user, .. } | Self::Command { local_user, .. } => local_user,
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinSpace {
                environment,
                cluster,
                node,
                kx_user,
                ..
            } => {
                write!(f, "connection string of {kx_user} for ")?;
                if let Some(RequestedNode { id, .. }) = node {
                    write!(f, "node {id} of ")?;
                }
                write!(f, "cluster {cluster} in {}", environment.name)
            }
            Self::Command {
                endpoint,
                local_user,
                ..
            } => write!(f, "login command of endpoint {endpoint} for {local_user}"),
        }
    }
}

/// A login for kdb+ that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The address to dial, if the source returned an address.
    pub address: Option<KdbAddress>,
    /// The q user.
    pub user: String,
    /// The password for kdb+. For FinSpace it is the signed part of the connection string.
    pub password: Secret,
    /// When the credential expires by its issuer's clock, if that is known.
    pub expires: Option<SystemTime>,
    /// The validity of the credential from its issue on, if the credential states it.
    pub valid_for: Option<Duration>,
    /// The issuer's clock, read when the credential was fetched. Without it, `expires` is by this host's
    /// clock.
    pub issuer_time: Option<AwsTime>,
}

impl Credential {
    /// When the credential expires. If the issuer's clock is known, the result is a time from the fetch
    /// on. That time is at most `valid_for`, because the issuer's clock may be wrong.
    pub fn expiry(&self) -> Expiry {
        match (self.expires, self.issuer_time) {
            (None, _) => Expiry::Unknown,
            (Some(at), None) => Expiry::At(at),
            (Some(at), Some(issuer)) => {
                let left = at.duration_since(issuer.now()).unwrap_or_default();
                Expiry::After(self.valid_for.map_or(left, |most| left.min(most)))
            }
        }
    }
}

/// A credential as the cache hands it out.
#[derive(Debug, Clone)]
pub struct IssuedCredential {
    /// The credential itself.
    pub credential: Arc<Credential>,
    /// The number of the fetch that returned this credential, from 1. Callers pass it to
    /// [`Credentials::reject`].
    pub generation: u64,
}

/// Why a credential could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", with_fix(.message, .remedy))]
pub struct FetchError {
    /// The party that caused the failure.
    pub kind: ErrorKind,
    /// Whether another attempt may help.
    pub retry: Retry,
    /// The failure and its cause. For a call of AWS, the message names action, role and resource.
    pub message: String,
    /// The remedy, for an administrator.
    pub remedy: String,
}

/// Fetches credentials.
pub trait Fetch: Send + Sync + 'static {
    /// Makes one attempt to fetch a credential. The caller repeats failed attempts.
    fn fetch<'a>(&'a self, recipe: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>>;

    /// The calls of AWS so far, by kind. Empty for a source that does not call AWS.
    fn calls(&self) -> Vec<CallCount> {
        Vec::new()
    }
}

/// The wall clock and the monotonic clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Now + Send + Sync>);

impl Clock {
    /// Reads this host's clocks.
    pub fn system() -> Self {
        Self::from_fn(|| Now {
            wall: SystemTime::now(),
            mono: Instant::now(),
        })
    }

    /// Clocks that a test controls.
    pub fn from_fn(now: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A string that AWS signed at `signed` and that is valid for 15 minutes. The response had the header
    /// `Date: date`.
    fn signed(signed: SystemTime, date: SystemTime) -> Credential {
        Credential {
            address: None,
            user: "bob".into(),
            password: Secret::from("signed"),
            expires: Some(signed + 15 * MINUTE),
            valid_for: Some(15 * MINUTE),
            issuer_time: Some(AwsTime::from_date(date)),
        }
    }

    fn left(credential: &Credential) -> Duration {
        match credential.expiry() {
            Expiry::After(left) => left,
            other => panic!("by this host's clock: {other:?}"),
        }
    }

    #[test]
    fn a_life_is_counted_from_the_fetch_whatever_this_hosts_clock_shows() {
        let aws = SystemTime::now() - 60 * MINUTE;
        let left = left(&signed(aws, aws));
        assert!(left > 14 * MINUTE && left <= 15 * MINUTE, "{left:?}");
    }

    #[test]
    fn a_date_that_is_wrong_makes_no_life_longer_than_the_signature_says() {
        let now = SystemTime::now();
        for date in [
            now - 60 * MINUTE,
            now - 600 * MINUTE,
            SystemTime::UNIX_EPOCH,
        ] {
            assert_eq!(left(&signed(now, date)), 15 * MINUTE);
        }
        assert_eq!(left(&signed(now, now + 60 * MINUTE)), Duration::ZERO);
    }
}
