//! Errors of calls to AWS, in words that name the action, the identity, the resource and the remedy.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use serde::Serialize;

use super::denial::{DenialRemedy, is_denial, remedy_of_denial};
use crate::policy_document::Statement;
use base::error::{ErrorKind, with_fix};
use base::file_access::FileAccessError;

/// The identity in messages about calls with the base credentials.
pub(super) const DAEMON_IDENTITY: &str = "the daemon's own AWS credentials";

/// The failure of a call to AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", with_fix(.message, self.advice()))]
pub struct AwsError {
    /// The party that caused the failure: the configuration, a policy, or AWS.
    pub kind: ErrorKind,
    /// Whether the same call may succeed later without any change.
    pub is_transient: bool,
    /// Whether the AWS credentials that signed the call are the cause.
    pub is_credential_fault: bool,
    /// The failure, without its remedy.
    pub message: String,
    /// The action that lets the next call succeed.
    pub remedy: String,
    /// The permission that a policy lacks, if that is the cause.
    pub missing: Option<Box<MissingPermission>>,
}

/// A permission that an identity lacks. It displays as the statement in JSON, on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingPermission {
    /// The ARN of the role or user whose policy lacks it. A description if AWS does not tell the ARN.
    pub identity: String,
    /// The statement to add to the policy.
    pub statement: Statement,
}

/// The facts about a call that its error message needs.
#[derive(Debug)]
pub(super) struct CallContext {
    /// The action, as IAM policies name it.
    pub(super) action: &'static str,
    /// All actions that a policy has to allow for this call.
    pub(super) needed_actions: &'static [&'static str],
    /// The identity whose credentials sign the call.
    pub(super) identity: String,
    /// The resource, in words.
    pub(super) resource: String,
    /// The resource, as IAM policies name it, with `*` for an account that is not known.
    pub(super) resource_arn: String,
    /// The change of a policy that allows the call.
    pub(super) remedy: String,
}

/// A service of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AwsService {
    FinSpace,
    Sts,
}

impl AwsService {
    /// The key of the configuration that sets the URL of the service.
    fn endpoint_key(self) -> &'static str {
        match self {
            Self::FinSpace => "endpoint_url",
            Self::Sts => "sts_endpoint_url",
        }
    }

    /// Replaces FinSpace's key in a remedy by the key of this service.
    fn with_own_key(self, remedy: &str) -> String {
        remedy.replace(Self::FinSpace.endpoint_key(), self.endpoint_key())
    }
}

impl CallContext {
    fn service(&self) -> AwsService {
        if self.action.starts_with("sts:") {
            AwsService::Sts
        } else {
            AwsService::FinSpace
        }
    }
}

impl AwsError {
    /// The remedy, with the statement that a policy lacks.
    pub fn advice(&self) -> String {
        match &self.missing {
            Some(missing) => format!("{}: {missing}", self.remedy),
            None => self.remedy.clone(),
        }
    }

    /// The error of an answer that is not what the API of AWS promises.
    pub(super) fn malformed(service: AwsService, message: String) -> Self {
        let key = service.endpoint_key();
        Self {
            kind: ErrorKind::ControlPlane,
            is_transient: true,
            is_credential_fault: false,
            message,
            remedy: format!("check {key}, and report it to AWS if it leads there"),
            missing: None,
        }
    }

    /// The error of a call that the SDK reports as failed.
    pub(super) fn of_call<E>(context: &CallContext, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let response = service.raw();
                let answer = Answer {
                    status: response.status().as_u16(),
                    request_id: response.headers().get("x-amzn-requestid"),
                };
                of_answer(context, service.err(), &answer)
            }
            _ => of_no_answer(context, error),
        }
    }
}

impl fmt::Display for MissingPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(&self.statement).map_err(|_| fmt::Error)?;
        f.write_str(&json)
    }
}

/// The parts of an HTTP answer that an error message repeats.
struct Answer<'a> {
    status: u16,
    request_id: Option<&'a str>,
}

/// The error of a call that AWS answered with an error.
fn of_answer<E>(context: &CallContext, error: &E, answer: &Answer<'_>) -> AwsError
where
    E: ProvideErrorMetadata,
{
    let without_code = format!("HTTP {} and no error code", answer.status);
    let code = error.code().unwrap_or(&without_code);
    // The later lines of a message repeat the request, its session token included.
    let first_line = error.message().and_then(|message| message.lines().next());
    let aws_message = first_line.unwrap_or("no message");
    let request_id = answer
        .request_id
        .map_or_else(String::new, |id| format!(" (request {id})"));
    let CallContext {
        action,
        identity,
        resource,
        ..
    } = context;
    let message = format!(
        "{action} on {resource}, as {identity}: AWS answered {code}: {aws_message}{request_id}"
    );
    if is_denial(code) {
        let DenialRemedy { text, missing } = remedy_of_denial(context, aws_message);
        return AwsError {
            kind: ErrorKind::Denied,
            is_transient: false,
            is_credential_fault: false,
            message,
            remedy: text,
            missing,
        };
    }
    let credential_remedy = remedy_of_credentials(code, aws_message);
    let (kind, is_transient, remedy) = match (code, credential_remedy) {
        ("ResourceNotFoundException", _) => (
            ErrorKind::Configuration,
            false,
            "check the name and the environment's id and region in the configuration",
        ),
        (
            "ThrottlingException"
            | "Throttling"
            | "TooManyRequestsException"
            | "RequestLimitExceeded",
            _,
        ) => (
            ErrorKind::ControlPlane,
            true,
            "ask AWS for a higher rate if it lasts; hopend goes on trying with growing pauses",
        ),
        (_, Some(remedy)) => (ErrorKind::ControlPlane, true, remedy),
        ("ValidationException" | "ValidationError", None) => (
            ErrorKind::Configuration,
            false,
            "check the names in the configuration",
        ),
        (_, None) if error.code().is_none() => (
            ErrorKind::ControlPlane,
            true,
            "check endpoint_url, and for a proxy on the way, as that is no answer of AWS",
        ),
        (_, None) => (
            ErrorKind::ControlPlane,
            true,
            "read AWS's health page if it lasts; hopend goes on trying",
        ),
    };
    AwsError {
        kind,
        is_transient,
        is_credential_fault: credential_remedy.is_some(),
        message,
        remedy: context.service().with_own_key(remedy),
        missing: None,
    }
}

/// The remedy if AWS does not accept the credentials, or the time of the signature. None for other errors.
pub(super) fn remedy_of_credentials(code: &str, message: &str) -> Option<&'static str> {
    let is_clock_skew = matches!(
        code,
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture"
    ) || message.contains("Signature expired")
        || message.contains("Signature not yet current");
    if is_clock_skew {
        return Some(
            "set the clock (chronyc tracking, timedatectl): this host's clock is wrong, or AWS's \
             credentials are used too late; AWS takes signatures within five minutes of its own",
        );
    }
    Some(match code {
        "ExpiredToken" | "ExpiredTokenException" => {
            "renew them with what wrote them, as the session of the daemon's AWS credentials is over; or \
             give the host an instance role, whose sessions renew themselves"
        }
        "SignatureDoesNotMatch" | "InvalidSignatureException" => {
            "renew the daemon's AWS credentials, as the secret key does not belong to the access key, \
             and check this host's clock"
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" => {
            "renew the daemon's AWS credentials, as AWS does not know the access key or its session; \
             check that they are of this partition"
        }
        "MissingAuthenticationToken" | "MissingAuthenticationTokenException" => {
            "check endpoint_url and what is between this host and AWS, as the daemon's AWS credentials \
             did not arrive"
        }
        _ => return None,
    })
}

/// The error of a call to which AWS gave no answer.
fn of_no_answer<E>(context: &CallContext, error: &SdkError<E, HttpResponse>) -> AwsError
where
    E: Error + 'static,
{
    if let Some(cause) = no_credentials(error) {
        return of_no_credentials(context, cause);
    }
    let failure = match error {
        SdkError::TimeoutError(_) => "no answer in time".into(),
        SdkError::DispatchFailure(_) => "the endpoint can't be reached".into(),
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            format!("the answer, HTTP {status}, could not be read")
        }
        _ => "the request could not be made".to_owned(),
    };
    // The causes of these errors name addresses and system errors, never the request.
    let cause = causes(error)
        .last()
        .map_or_else(String::new, |cause| format!(" ({cause})"));
    AwsError {
        kind: ErrorKind::ControlPlane,
        is_transient: true,
        is_credential_fault: false,
        message: format!(
            "{} on {}: {failure}{cause}",
            context.action, context.resource
        ),
        remedy: format!(
            "check the way from this host to AWS (VPC endpoint, proxy, DNS), or {}",
            context.service().endpoint_key()
        ),
        missing: None,
    }
}

/// The error of a call that could not be signed, because there are no base credentials.
fn of_no_credentials(context: &CallContext, cause: &CredentialsError) -> AwsError {
    let exposed = causes(cause).find_map(<dyn Error>::downcast_ref::<FileAccessError>);
    let (message, remedy) = match exposed {
        Some(exposed) => (
            format!(
                "{}: no AWS credentials: {}",
                context.action,
                exposed.message()
            ),
            exposed.remedy(),
        ),
        None => (
            format!(
                "{}: the daemon has no AWS credentials: {}",
                context.action,
                base::error::chain(cause)
            ),
            "give the host an instance role, or set profile (and credentials_file) on the environment"
                .into(),
        ),
    };
    AwsError {
        kind: ErrorKind::Configuration,
        is_transient: true,
        is_credential_fault: true,
        message,
        remedy,
        missing: None,
    }
}

/// The cause of the missing base credentials, if they are missing.
pub(super) fn no_credentials<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_out_of_time_is_the_clocks_fault_and_another_one_is_not() {
        let of = |code, message| remedy_of_credentials(code, message).unwrap_or_default();
        let expired = "Signature expired: 20260101T000000Z is now earlier than 20260101T010000Z";
        assert!(of("SignatureDoesNotMatch", expired).contains("clock is wrong"));
        assert!(of("InvalidSignatureException", expired).contains("clock is wrong"));
        assert!(of("SignatureDoesNotMatch", "we calculated another").contains("secret key"));
        assert_eq!(remedy_of_credentials("InternalFailure", ""), None);
    }
}
