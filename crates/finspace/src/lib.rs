//! Amazon FinSpace and AWS STS: signed connection strings for kdb+ clusters, and discovery.
//!
//! A FinSpace cluster accepts a q client that presents a connection string. FinSpace signs such a string for
//! a user's IAM role, and it expires after some minutes. [`FinSpace::connection_string`] carries out the
//! calls that lead to one:
//!
//! 1. GetKxUser with the base credentials, unless the role of the user is known,
//! 2. AssumeRole with the base credentials,
//! 3. GetKxConnectionString as the role.
//!
//! The base credentials come from the SDK's default chain, or from the profile of the [`Environment`].
//! Every failure is an [`AwsError`] that names the action, the identity, the resource and the remedy. For a
//! denial it has the statement that a policy lacks.
//!
//! This is the only crate of the workspace that uses the AWS SDK.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), finspace::AwsError> {
//! use std::sync::Arc;
//!
//! use finspace::environment::Environment;
//! use finspace::{FinSpace, StringRequest};
//!
//! let environment = Arc::new(Environment {
//!     name: "prod".into(),
//!     id: "sdb3moagybykax4oexvsq4".into(),
//!     region: "us-east-1".into(),
//!     ..Environment::default()
//! });
//! let finspace = FinSpace::default();
//! for cluster in finspace.clusters(&environment, None).await? {
//!     println!("{} is {}", cluster.name, cluster.status);
//! }
//! let signed = finspace
//!     .connection_string(&StringRequest {
//!         environment: &environment,
//!         cluster: "hdb",
//!         kx_user: "bob",
//!         role: None,
//!         local_user: "bob",
//!     })
//!     .await?;
//! println!("dial {} until {:?}", signed.string.address, signed.expires);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod arn;
mod calls;
mod clock;
pub mod connection_string;
mod denial;
mod discovery;
pub mod environment;
mod error;
pub mod policy_document;
mod profile;
pub mod profile_files;
pub mod q_api;
pub mod role_arn;
pub mod role_session;
mod steps;
mod zone;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_finspace as finspace;
use aws_sdk_sts as sts;
use tokio::sync::Mutex;

use crate::connection_string::ConnectionString;
use crate::environment::Environment;
use crate::role_arn::RoleArn;
use calls::{AttemptCounter, CallCounters};
pub use calls::{CallCount, CallOutcome};
use clock::AwsClock;
pub use clock::{AwsTime, ClockSkew};
pub use discovery::{Cluster, Node};
pub use error::{AwsError, MissingPermission};
use profile::ProfileCredentials;
pub use steps::{CallerIdentity, KxUser, RoleSession};
pub use zone::zone_of_host;

/// The AWS side of every environment.
///
/// It makes the SDK's clients of an environment when it first needs them, and keeps them.
#[derive(Debug, Default)]
pub struct FinSpace {
    clients: Mutex<HashMap<Arc<Environment>, Arc<Clients>>>,
    limits: CallLimits,
    counters: CallCounters,
}

/// The limits of a call to AWS. The default is three attempts of 5 s each, within 12 s.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// The most attempts of a call, the first one included.
    pub attempts: u32,
    /// The time limit of one attempt, and of its connect.
    pub attempt_timeout: Duration,
    /// The time limit of a call with all its attempts.
    pub call_timeout: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            attempts: 3,
            attempt_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(12),
        }
    }
}

/// The SDK's clients of one environment, with its base credentials.
#[derive(Debug)]
struct Clients {
    finspace: finspace::Client,
    sts: sts::Client,
    clock: AwsClock,
}

/// A FinSpace user whose role makes a call.
#[derive(Debug, Clone, Copy)]
pub struct FinSpaceUser<'a> {
    /// The name of the user in FinSpace.
    pub kx_user: &'a str,
    /// The role of the user. None means that GetKxUser returns it.
    pub role: Option<&'a RoleArn>,
    /// The name that CloudTrail shows for the role session.
    pub local_user: &'a str,
}

/// A request for a connection string.
#[derive(Debug, Clone, Copy)]
pub struct StringRequest<'a> {
    /// The environment of the cluster.
    pub environment: &'a Arc<Environment>,
    /// The name of the cluster.
    pub cluster: &'a str,
    /// The name of the user in FinSpace.
    pub kx_user: &'a str,
    /// The role of the user. None means that GetKxUser returns it.
    pub role: Option<&'a RoleArn>,
    /// The name that CloudTrail shows for the role session.
    pub local_user: &'a str,
}

/// A connection string with its validity.
#[derive(Debug)]
pub struct SignedString {
    /// The address, the q user and the signed password.
    pub string: ConnectionString,
    /// The end of the signature or of the role session that signed it, whichever is earlier, by AWS's
    /// clock.
    pub expires: SystemTime,
    /// The lifetime of the signature.
    pub valid_for: Option<Duration>,
    /// A reading of AWS's clock from the same call. None if the answer had no date.
    pub aws_time: Option<AwsTime>,
}

impl FinSpace {
    /// Makes calls with other limits than the default.
    pub fn with_limits(limits: CallLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The number of attempts so far, by environment, operation and outcome.
    pub fn calls(&self) -> Vec<CallCount> {
        self.counters.counts()
    }

    /// The last reading of AWS's clock. None until AWS has answered a call to this environment.
    pub async fn aws_time(&self, environment: &Arc<Environment>) -> Option<AwsTime> {
        self.clients(environment).await.clock.time()
    }

    /// Gets a connection string: GetKxUser (unless the role is known), AssumeRole, and
    /// GetKxConnectionString as that role.
    ///
    /// # Errors
    /// AWS refuses a call or does not answer, or its answer is no connection string.
    pub async fn connection_string(
        &self,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let clients = self.clients(request.environment).await;
        let signed = clients.signed_string(request).await;
        self.checked(request.environment, &clients, signed).await
    }

    /// Returns an answer, and drops the clients if their credentials are the fault. The SDK keeps the
    /// credentials that a client has read, so only a new client reads them again.
    async fn checked<T>(
        &self,
        environment: &Arc<Environment>,
        clients: &Arc<Clients>,
        answer: Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        if answer
            .as_ref()
            .is_err_and(|error| error.is_credential_fault)
        {
            self.forget(environment, clients).await;
        }
        answer
    }

    async fn forget(&self, environment: &Arc<Environment>, unfit: &Arc<Clients>) {
        let mut clients = self.clients.lock().await;
        if clients
            .get(environment)
            .is_some_and(|now| Arc::ptr_eq(now, unfit))
        {
            clients.remove(environment);
        }
    }

    async fn clients(&self, environment: &Arc<Environment>) -> Arc<Clients> {
        let mut clients = self.clients.lock().await;
        if let Some(made) = clients.get(environment) {
            return Arc::clone(made);
        }
        let counter = || self.counters.counter_of(&environment.name);
        let made = Arc::new(Clients::new(environment, self.limits, counter).await);
        clients.insert(Arc::clone(environment), Arc::clone(&made));
        made
    }
}

impl Clients {
    async fn new(
        environment: &Environment,
        limits: CallLimits,
        counter: impl Fn() -> AttemptCounter,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(limits.attempt_timeout)
            .operation_attempt_timeout(limits.attempt_timeout)
            .operation_timeout(limits.call_timeout)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(environment.region.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(limits.attempts))
            .timeout_config(timeouts);
        // The named profile must win. In the default chain, environment variables would.
        if environment.profile.is_some() || environment.credentials_file.is_some() {
            loader = loader.credentials_provider(ProfileCredentials::of(environment));
        }
        let config = loader.load().await;
        let clock = AwsClock::default();
        let mut finspace = finspace::config::Builder::from(&config)
            .interceptor(counter())
            .interceptor(clock.clone());
        finspace.set_endpoint_url(environment.endpoint_url.clone());
        let mut sts = sts::config::Builder::from(&config)
            .interceptor(counter())
            .interceptor(clock.clone());
        sts.set_endpoint_url(environment.sts_endpoint_url.clone());
        Self {
            finspace: finspace::Client::from_conf(finspace.build()),
            sts: sts::Client::from_conf(sts.build()),
            clock,
        }
    }
}
