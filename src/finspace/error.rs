//! What AWS answered, in words that name action, role, resource and remedy.

use std::error::Error;

use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};

use crate::error::ErrorKind;

/// Why AWS did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {remedy}")]
pub struct AwsError {
    /// Whose side.
    pub kind: ErrorKind,
    /// Whether the same call may succeed later without any change.
    pub passing: bool,
    /// Whether the daemon's own AWS credentials are what is wrong.
    pub credentials: bool,
    /// What happened.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// A call, as a failure of it is told.
#[derive(Debug)]
pub(super) struct Asked {
    /// As IAM policies name it.
    pub(super) action: &'static str,
    /// Whose credentials signed it.
    pub(super) as_whom: String,
    /// What it was about.
    pub(super) resource: String,
    /// What allows it.
    pub(super) remedy: String,
}

impl AwsError {
    /// AWS answered, but not with what its API promises.
    pub(super) fn garbled(message: String) -> Self {
        Self {
            kind: ErrorKind::ControlPlane,
            passing: true,
            credentials: false,
            message,
            remedy: "check endpoint_url; if it is AWS itself, report it there".into(),
        }
    }

    pub(super) fn of_call<E>(asked: &Asked, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let request = service.raw().headers().get("x-amzn-requestid");
                of_answer(asked, service.err(), request)
            }
            _ => of_no_answer(asked, error),
        }
    }
}

fn of_answer<E>(asked: &Asked, error: &E, request_id: Option<&str>) -> AwsError
where
    E: ProvideErrorMetadata,
{
    let code = error.code().unwrap_or("an error without a code");
    let said = error.message().unwrap_or("no message");
    let request_id = request_id.map_or_else(String::new, |id| format!(" (request {id})"));
    let Asked {
        action,
        as_whom,
        resource,
        remedy,
    } = asked;
    let message =
        format!("{action} on {resource}, as {as_whom}: AWS answered {code}: {said}{request_id}");
    let credentials = matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "RequestExpired"
    );
    let (kind, passing, remedy) = match code {
        "AccessDenied" | "AccessDeniedException" => (ErrorKind::Denied, false, remedy.clone()),
        "ResourceNotFoundException" => (
            ErrorKind::Configuration,
            false,
            "check the name and the environment's id and region in the configuration".into(),
        ),
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded" => (
            ErrorKind::ControlPlane,
            true,
            "hopend goes on trying with growing pauses; ask AWS for a higher rate if it lasts"
                .into(),
        ),
        _ if credentials => (
            ErrorKind::ControlPlane,
            true,
            "the AWS credentials of the daemon are not accepted: renew them, and check this \
             host's clock"
                .into(),
        ),
        "ValidationException" | "ValidationError" => (
            ErrorKind::Configuration,
            false,
            "check the names in the configuration".into(),
        ),
        _ => (
            ErrorKind::ControlPlane,
            true,
            "hopend goes on trying; see AWS's health page if it lasts".into(),
        ),
    };
    AwsError {
        kind,
        passing,
        credentials,
        message,
        remedy,
    }
}

fn of_no_answer<E>(asked: &Asked, error: &SdkError<E, HttpResponse>) -> AwsError
where
    E: Error + 'static,
{
    let no_credentials = sources(error).find_map(|cause| {
        cause.downcast_ref::<aws_credential_types::provider::error::CredentialsError>()
    });
    if let Some(why) = no_credentials {
        return AwsError {
            kind: ErrorKind::Configuration,
            passing: true,
            credentials: true,
            message: format!(
                "{}: the daemon has no AWS credentials: {}",
                asked.action,
                crate::error::chain(why)
            ),
            remedy: "give the host an instance role, or set profile (and credentials_file) on the \
                     environment"
                .into(),
        };
    }
    let what = match error {
        SdkError::TimeoutError(_) => "no answer in time",
        SdkError::DispatchFailure(_) => "the endpoint can't be reached",
        SdkError::ResponseError(_) => "the answer could not be read",
        _ => "the request could not be made",
    };
    // The chain of these names addresses and system errors, never the request.
    let why = sources(error)
        .last()
        .map_or_else(String::new, |cause| format!(" ({cause})"));
    AwsError {
        kind: ErrorKind::ControlPlane,
        passing: true,
        credentials: false,
        message: format!("{} on {}: {what}{why}", asked.action, asked.resource),
        remedy: "check the way from this host to AWS (VPC endpoint, proxy, DNS), or endpoint_url"
            .into(),
    }
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}
