//! Counters of the calls to AWS, by environment, operation and outcome.
//!
//! They count attempts, not calls: the SDK retries by itself, and a throttled attempt counts even if the
//! next one succeeds.

use base::mutex::locked;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex};

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

use super::denial::is_denial;
use super::error::{no_credentials, remedy_of_credentials};

/// The outcome of one attempt of a call to AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallOutcome {
    /// AWS answered as requested.
    Ok,
    /// AWS refused the attempt because of too many requests.
    Throttled,
    /// A policy does not allow the action.
    Denied,
    /// The process has no AWS credentials, or AWS does not accept them.
    Credentials,
    /// AWS refused the request for another reason, such as a name that does not exist.
    Refused,
    /// AWS failed, or the answer is not one of AWS.
    Failed,
    /// No answer arrived in time.
    Timeout,
    /// The connection could not be made.
    Unreachable,
}

impl CallOutcome {
    /// All outcomes.
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

    /// The value of the label `outcome` in the metrics.
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

/// How often an operation had an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallCount {
    /// The name of the environment.
    pub environment: Arc<str>,
    /// The operation, as AWS names it, such as `GetKxUser`.
    pub operation: Arc<str>,
    /// The outcome.
    pub outcome: CallOutcome,
    /// Attempts since the start of the process.
    pub count: u64,
}

/// The counters of all environments. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct CallCounters(Arc<Mutex<Counts>>);

/// The attempts of each operation by outcome. An outcome that never happened is missing.
type Counts = BTreeMap<OperationKey, BTreeMap<CallOutcome, u64>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct OperationKey {
    environment: Arc<str>,
    operation: Arc<str>,
}

/// Counts the attempts of the clients of one environment.
#[derive(Debug)]
pub(super) struct AttemptCounter {
    counters: CallCounters,
    environment: Arc<str>,
}

impl CallCounters {
    pub(super) fn counter_of(&self, environment: &str) -> AttemptCounter {
        AttemptCounter {
            counters: self.clone(),
            environment: environment.into(),
        }
    }

    /// A count for every outcome of each operation that was called at least once.
    pub(super) fn counts(&self) -> Vec<CallCount> {
        let mut rows = Vec::new();
        for (key, counts) in &*locked(&self.0) {
            let row = |outcome: CallOutcome| CallCount {
                environment: Arc::clone(&key.environment),
                operation: Arc::clone(&key.operation),
                outcome,
                count: counts.get(&outcome).copied().unwrap_or(0),
            };
            rows.extend(CallOutcome::ALL.map(row));
        }
        rows
    }
}

impl Intercept for AttemptCounter {
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
            Some(Ok(_)) => CallOutcome::Ok,
            Some(Err(error)) => {
                let status = context
                    .response()
                    .map(|response| response.status().as_u16());
                outcome_of(error, status)
            }
            None => CallOutcome::Failed,
        };
        let operation = bag.load::<Metadata>().map_or("", Metadata::name);
        let key = OperationKey {
            environment: Arc::clone(&self.environment),
            operation: operation.into(),
        };
        let mut counts = locked(&self.counters.0);
        *counts.entry(key).or_default().entry(outcome).or_default() += 1;
        Ok(())
    }
}

fn outcome_of(error: &OrchestratorError<Error>, status: Option<u16>) -> CallOutcome {
    if no_credentials(error).is_some() {
        return CallOutcome::Credentials;
    }
    if let Some(connector) = error.as_connector_error() {
        return if connector.is_timeout() {
            CallOutcome::Timeout
        } else {
            CallOutcome::Unreachable
        };
    }
    if error.is_timeout_error() {
        return CallOutcome::Timeout;
    }
    let details = error
        .as_operation_error()
        .map(ErrorDetails::of)
        .unwrap_or_default();
    match (details.code, status) {
        (Some(code), _) if THROTTLING_ERRORS.contains(&code) => CallOutcome::Throttled,
        (_, Some(429)) => CallOutcome::Throttled,
        (Some(code), _) if is_denial(code) => CallOutcome::Denied,
        (Some(code), _) if remedy_of_credentials(code, details.message).is_some() => {
            CallOutcome::Credentials
        }
        (Some(_), Some(400..=499)) => CallOutcome::Refused,
        _ => CallOutcome::Failed,
    }
}

/// The code and the message of an error of AWS, of any operation.
#[derive(Debug, Default)]
struct ErrorDetails<'e> {
    code: Option<&'e str>,
    message: &'e str,
}

impl<'e> ErrorDetails<'e> {
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
