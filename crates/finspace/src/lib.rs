//! Amazon FinSpace and AWS STS. This crate alone uses the AWS SDK.
//!
//! hopend assumes a user's IAM role, and asks FinSpace for a signed connection string as that role.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod calls;
mod clock;
pub mod connection_string;
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
pub use calls::{CallCount, Outcome};
use calls::{Calls, Counter};
use clock::AwsClock;
pub use clock::{AwsTime, ClockSkew};
pub use discovery::{Cluster, Node};
pub use error::{AwsError, Missing};
use profile::Profile;
pub use steps::{Caller, KxUser, RoleSession};
pub use zone::zone_of_host;

/// The AWS side of every environment; clients are made when first needed.
#[derive(Debug, Default)]
pub struct FinSpace {
    clients: Mutex<HashMap<Arc<Environment>, Arc<Clients>>>,
    patience: Patience,
    calls: Calls,
}

/// How long AWS is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts of one call.
    pub attempts: u32,
    /// One attempt.
    pub attempt: Duration,
    /// One call with its repetitions.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 3,
            attempt: Duration::from_secs(5),
            call: Duration::from_secs(12),
        }
    }
}

#[derive(Debug)]
struct Clients {
    finspace: finspace::Client,
    sts: sts::Client,
    clock: AwsClock,
}

/// A user of FinSpace.
#[derive(Debug, Clone, Copy)]
pub struct FinSpaceUser<'a> {
    /// The name in FinSpace.
    pub kx_user: &'a str,
    /// The user's role. hopend asks FinSpace for it (GetKxUser) where the configuration has none.
    pub role: Option<&'a RoleArn>,
    /// The user's name in the configuration, which CloudTrail shows.
    pub local_user: &'a str,
}

/// Whose string, and for what.
#[derive(Debug, Clone, Copy)]
pub struct StringRequest<'a> {
    /// Where the cluster is.
    pub environment: &'a Arc<Environment>,
    /// Its name.
    pub cluster: &'a str,
    /// The FinSpace user.
    pub kx_user: &'a str,
    /// The user's role; asked of FinSpace (GetKxUser) without one.
    pub role: Option<&'a RoleArn>,
    /// The name that CloudTrail is to show.
    pub local_user: &'a str,
}

/// A connection string and the earliest of all that ends it.
#[derive(Debug)]
pub struct SignedString {
    /// Where to, as whom, with what.
    pub string: ConnectionString,
    /// The end of the signature or of the session that signed it, by AWS's clock.
    pub expires: SystemTime,
    /// How long the signature is good for from the moment it was made.
    pub valid_for: Option<Duration>,
    /// What time it was for AWS when it answered.
    pub aws_time: Option<AwsTime>,
}

impl FinSpace {
    /// With a patience of its own.
    pub fn with_patience(patience: Patience) -> Self {
        Self {
            patience,
            ..Self::default()
        }
    }

    /// How AWS has answered so far.
    pub fn calls(&self) -> Vec<CallCount> {
        self.calls.counts()
    }

    /// What time it is for AWS; none until it has answered a call to this environment.
    pub async fn aws_time(&self, environment: &Arc<Environment>) -> Option<AwsTime> {
        self.clients(environment).await.clock.time()
    }

    /// GetKxUser (unless the role is known), AssumeRole, and as that role GetKxConnectionString.
    pub async fn connection_string(
        &self,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let clients = self.clients(request.environment).await;
        let signed = clients.signed_string(request).await;
        self.told(request.environment, &clients, signed).await
    }

    /// Hands an answer on. Clients whose credentials it finds unfit are used no more: the SDK keeps
    /// what it once read, and only new ones read it anew.
    async fn told<T>(
        &self,
        environment: &Arc<Environment>,
        clients: &Arc<Clients>,
        answer: Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        if answer.as_ref().is_err_and(|error| error.credentials) {
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
        let counter = || self.calls.of(&environment.name);
        let made = Arc::new(Clients::new(environment, self.patience, counter).await);
        clients.insert(Arc::clone(environment), Arc::clone(&made));
        made
    }
}

impl Clients {
    async fn new(
        environment: &Environment,
        patience: Patience,
        counter: impl Fn() -> Counter,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(patience.attempt)
            .operation_attempt_timeout(patience.attempt)
            .operation_timeout(patience.call)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(environment.region.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(patience.attempts))
            .timeout_config(timeouts);
        // A profile that is named is meant: the default chain would let variables go first.
        if environment.profile.is_some() || environment.credentials_file.is_some() {
            loader = loader.credentials_provider(Profile::of(environment));
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
