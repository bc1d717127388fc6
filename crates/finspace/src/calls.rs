//! How AWS answered, counted attempt by attempt: the SDK repeats calls by itself, and a throttle that
//! the next attempt made good is one all the same.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_sdk_finspace::operation::{
    get_kx_connection_string::GetKxConnectionStringError, get_kx_user::GetKxUserError,
    list_kx_cluster_nodes::ListKxClusterNodesError, list_kx_clusters::ListKxClustersError,
};
use aws_sdk_sts::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::{BoxError, ProvideErrorMetadata};
use aws_sdk_sts::operation::{
    assume_role::AssumeRoleError, get_caller_identity::GetCallerIdentityError,
};
use aws_smithy_runtime_api::client::interceptors::context::Error;
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};

use super::error::{is_denial, no_credentials, remedy_of_credentials};

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// AWS gave what was asked for.
    Ok,
    /// AWS was asked too often.
    Throttled,
    /// A policy does not allow it.
    Denied,
    /// There are no AWS credentials, or AWS does not accept them.
    Credentials,
    /// AWS took the question for wrong in another way.
    Refused,
    /// AWS failed, or what answered is not AWS.
    Failed,
    /// No answer in time.
    Timeout,
    /// No connection.
    Unreachable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Throttled,
        Self::Denied,
        Self::Credentials,
        Self::Refused,
        Self::Failed,
        Self::Timeout,
        Self::Unreachable,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

/// How often it became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallCount {
    /// The environment's name.
    pub environment: Arc<str>,
    /// As AWS names it.
    pub operation: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
    /// How often so far.
    pub count: u64,
}

/// The calls of all environments.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Counts>>);

/// By environment and operation.
type Counts = BTreeMap<(Arc<str>, Arc<str>), [u64; Outcome::ALL.len()]>;

/// Counts the calls of one environment's clients.
#[derive(Debug)]
pub(super) struct Counter {
    calls: Calls,
    environment: Arc<str>,
}

impl Calls {
    pub(super) fn of(&self, environment: &str) -> Counter {
        Counter {
            calls: self.clone(),
            environment: environment.into(),
        }
    }

    /// Every outcome of each operation that was ever called.
    pub(super) fn counts(&self) -> Vec<CallCount> {
        let mut rows = Vec::new();
        for ((environment, operation), counts) in &*self.lock() {
            let row = |(outcome, count)| CallCount {
                environment: Arc::clone(environment),
                operation: Arc::clone(operation),
                outcome,
                count,
            };
            rows.extend(Outcome::ALL.into_iter().zip(*counts).map(row));
        }
        rows
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Counter {
    fn name(&self) -> &'static str {
        "calls"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let outcome = match context.output_or_error() {
            Some(Ok(_)) => Outcome::Ok,
            Some(Err(error)) => {
                let status = context
                    .response()
                    .map(|response| response.status().as_u16());
                outcome_of(error, status)
            }
            None => Outcome::Failed,
        };
        let operation = bag.load::<Metadata>().map_or("", Metadata::name);
        let key = (Arc::clone(&self.environment), operation.into());
        let mut counts = self.calls.lock();
        counts.entry(key).or_default()[outcome as usize] += 1;
        Ok(())
    }
}

fn outcome_of(error: &OrchestratorError<Error>, status: Option<u16>) -> Outcome {
    if no_credentials(error).is_some() {
        return Outcome::Credentials;
    }
    if let Some(connector) = error.as_connector_error() {
        return if connector.is_timeout() {
            Outcome::Timeout
        } else {
            Outcome::Unreachable
        };
    }
    if error.is_timeout_error() {
        return Outcome::Timeout;
    }
    let said = error.as_operation_error().map(Said::of).unwrap_or_default();
    match (said.code, status) {
        (Some(code), _) if THROTTLING_ERRORS.contains(&code) => Outcome::Throttled,
        (_, Some(429)) => Outcome::Throttled,
        (Some(code), _) if is_denial(code) => Outcome::Denied,
        (Some(code), _) if remedy_of_credentials(code, said.message).is_some() => {
            Outcome::Credentials
        }
        (Some(_), Some(400..=499)) => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// What an error of AWS's says, whichever operation's it is.
#[derive(Debug, Default)]
struct Said<'e> {
    code: Option<&'e str>,
    message: &'e str,
}

impl<'e> Said<'e> {
    fn of(error: &'e Error) -> Self {
        Self::of_type::<AssumeRoleError>(error)
            .or_else(|| Self::of_type::<GetKxUserError>(error))
            .or_else(|| Self::of_type::<GetKxConnectionStringError>(error))
            .or_else(|| Self::of_type::<ListKxClustersError>(error))
            .or_else(|| Self::of_type::<ListKxClusterNodesError>(error))
            .or_else(|| Self::of_type::<GetCallerIdentityError>(error))
            .unwrap_or_default()
    }

    fn of_type<E>(error: &'e Error) -> Option<Self>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let error = error.downcast_ref::<E>()?;
        Some(Self {
            code: error.code(),
            message: error.message().unwrap_or_default(),
        })
    }
}
