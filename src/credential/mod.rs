//! Logins for kdb+: what they are, where they come from, and having them ready before they are
//! asked for.

mod cache;
pub mod command;
pub(crate) mod node;
pub mod schedule;
mod skew;
mod source;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;

use crate::config::{LoginCommand, NodeVia};
use base::address::Address;
use base::error::{ErrorKind, with_fix};
use finspace::environment::Environment;
use finspace::role_arn::RoleArn;
use secret::Secret;

pub use cache::{Credentials, Standing, State};
pub use finspace::{AwsTime, CallCount};
pub use schedule::{Expiry, Now, Retry};
pub use source::{Source, Sources};

/// Everything that decides what is fetched, and so the key that a credential is kept under: only
/// who would fetch the same is ever given it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Recipe {
    /// A signed connection string of a FinSpace cluster.
    FinSpace {
        /// Where the cluster is.
        environment: Arc<Environment>,
        /// Its name.
        cluster: String,
        /// The node, where it is not the cluster's own endpoint, and how its string is had.
        node: Option<(String, NodeVia)>,
        /// Whose string.
        kx_user: String,
        /// The role to assume; asked of FinSpace without one.
        role: Option<RoleArn>,
        /// The local user, as CloudTrail will show it.
        local_user: String,
    },
    /// What a program prints.
    Command {
        /// The program, its arguments and its variables.
        command: LoginCommand,
        /// The endpoint, told to the program.
        endpoint: String,
        /// The local user, told to the program.
        local_user: String,
    },
}

impl Recipe {
    /// The `[[user]]` it is fetched for.
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
                if let Some((id, _)) = node {
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

/// A login that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where to dial, if the source says so.
    pub address: Option<Address>,
    /// q user.
    pub user: String,
    /// What kdb+ takes as the password.
    pub password: Secret,
    /// The end of its life, as far as it is known, by the clock of who issued it.
    pub expires: Option<SystemTime>,
    /// How long it is good for from the moment it was issued, as far as it says so.
    pub valid_for: Option<Duration>,
    /// What time it was for who issued it when it was fetched; where that is not known, `expires` is by
    /// this host's clock.
    pub issuer_time: Option<AwsTime>,
}

impl Credential {
    /// When it ends. A life that is told by another clock is counted from the fetch, and is never longer
    /// than the credential says: what that clock shows may be wrong.
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
pub struct Issued {
    /// The login.
    pub credential: Arc<Credential>,
    /// Which fetch brought it: what a rejection is counted against.
    pub generation: u64,
}

/// Why a login could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", with_fix(.message, .remedy))]
pub struct FetchError {
    /// Whose side.
    pub kind: ErrorKind,
    /// Whether trying again helps.
    pub retry: Retry,
    /// What happened, with action, role and resource where AWS was asked.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Where logins come from.
pub trait Fetch: Send + Sync + 'static {
    /// Fetches what the recipe says, once. Retries are the caller's.
    fn fetch<'a>(&'a self, recipe: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>>;

    /// The calls of AWS that it has made, of a source that makes any.
    fn calls(&self) -> Vec<CallCount> {
        Vec::new()
    }
}

/// The wall clock, and the one that only runs forward.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Now + Send + Sync>);

impl Clock {
    /// The host's clocks.
    pub fn system() -> Self {
        Self::from_fn(|| Now {
            wall: SystemTime::now(),
            mono: Instant::now(),
        })
    }

    /// Clocks of a test's own.
    pub fn from_fn(now: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// What both show.
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

    /// A string that AWS signed at `signed`, good for 15 minutes, in an answer of this `Date`.
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
