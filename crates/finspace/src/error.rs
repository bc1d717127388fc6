//! What AWS answered, in words that name action, role, resource and remedy.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use serde::Serialize;

use crate::policy_document::Statement;
use base::error::{ErrorKind, with_fix};
use base::file_access::FileAccessError;

/// Why AWS did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", with_fix(.message, self.advice()))]
pub struct AwsError {
    /// Whose side.
    pub kind: ErrorKind,
    /// Whether the same call may succeed later without any change.
    pub passing: bool,
    /// Whether the AWS credentials that signed it are what is wrong.
    pub credentials: bool,
    /// What happened.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// What a policy lacks, where AWS refused for that reason.
    pub missing: Option<Box<Missing>>,
}

/// What an identity is not allowed to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Whose policy lacks it: the ARN of a role or user, or words where AWS does not tell.
    pub identity: String,
    /// What is to be added to it.
    pub statement: Statement,
}

/// A call, as a failure of it is told.
#[derive(Debug)]
pub(super) struct Asked {
    /// As IAM policies name it.
    pub(super) action: &'static str,
    /// Everything that goes with it in a policy.
    pub(super) allow: &'static [&'static str],
    /// Whose credentials signed it.
    pub(super) as_whom: String,
    /// What it was about.
    pub(super) resource: String,
    /// The same as IAM policies name it, with `*` where the account is not known.
    pub(super) arn: String,
    /// What allows it.
    pub(super) remedy: String,
}

/// Which of AWS's services is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AwsService {
    FinSpace,
    Sts,
}

impl AwsService {
    /// The key of the configuration that says where it is.
    fn endpoint_key(self) -> &'static str {
        match self {
            Self::FinSpace => "endpoint_url",
            Self::Sts => "sts_endpoint_url",
        }
    }

    /// A remedy that was written for FinSpace.
    fn named_in(self, remedy: &str) -> String {
        remedy.replace(Self::FinSpace.endpoint_key(), self.endpoint_key())
    }
}

impl Asked {
    fn service(&self) -> AwsService {
        if self.action.starts_with("sts:") {
            AwsService::Sts
        } else {
            AwsService::FinSpace
        }
    }
}

/// What a denial in AWS's words says: `User: … is not authorized to perform: … on resource: …`.
struct Denial<'s> {
    /// The ARN of a user or of a role's session.
    principal: Option<&'s str>,
    resource: Option<&'s str>,
}

impl AwsError {
    /// The remedy, with the statement that a policy lacks.
    pub fn advice(&self) -> String {
        match &self.missing {
            Some(missing) => format!("{}: {missing}", self.remedy),
            None => self.remedy.clone(),
        }
    }

    /// AWS answered, but not with what its API promises.
    pub(super) fn garbled(service: AwsService, message: String) -> Self {
        let key = service.endpoint_key();
        Self {
            kind: ErrorKind::ControlPlane,
            passing: true,
            credentials: false,
            message,
            remedy: format!("check {key}, and report it to AWS if it leads there"),
            missing: None,
        }
    }

    pub(super) fn of_call<E>(asked: &Asked, error: &SdkError<E, HttpResponse>) -> Self
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
                of_answer(asked, service.err(), &answer)
            }
            _ => of_no_answer(asked, error),
        }
    }
}

/// What an answer says beside the error itself.
struct Answer<'a> {
    status: u16,
    request_id: Option<&'a str>,
}

fn of_answer<E>(asked: &Asked, error: &E, answer: &Answer<'_>) -> AwsError
where
    E: ProvideErrorMetadata,
{
    let without_code = format!("HTTP {} and no error code", answer.status);
    let code = error.code().unwrap_or(&without_code);
    // The lines behind the first repeat the request, its session token included.
    let said = error.message().and_then(|said| said.lines().next());
    let said = said.unwrap_or("no message");
    let request_id = answer
        .request_id
        .map_or_else(String::new, |id| format!(" (request {id})"));
    let Asked {
        action,
        as_whom,
        resource,
        ..
    } = asked;
    let message =
        format!("{action} on {resource}, as {as_whom}: AWS answered {code}: {said}{request_id}");
    if is_denial(code) {
        let (remedy, missing) = remedy_of_denial(asked, said);
        return AwsError {
            kind: ErrorKind::Denied,
            passing: false,
            credentials: false,
            message,
            remedy,
            missing,
        };
    }
    let unfit = remedy_of_credentials(code, said);
    let (kind, passing, remedy) = match (code, unfit) {
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
        passing,
        credentials: unfit.is_some(),
        message,
        remedy: asked.service().named_in(remedy),
        missing: None,
    }
}

/// Whether a policy is what is in the way.
pub(super) fn is_denial(code: &str) -> bool {
    matches!(code, "AccessDenied" | "AccessDeniedException")
}

/// What to do about credentials that AWS does not accept; none where it is something else.
pub(super) fn remedy_of_credentials(code: &str, said: &str) -> Option<&'static str> {
    let clock = matches!(
        code,
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture"
    ) || said.contains("Signature expired")
        || said.contains("Signature not yet current");
    if clock {
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

/// What allows a call, and the statement that is missing for it.
fn remedy_of_denial(asked: &Asked, said: &str) -> (String, Option<Box<Missing>>) {
    let denial = Denial::parse(said);
    let identity = denial.principal.map(identity_of);
    let assumes = asked.action == "sts:AssumeRole";
    if let Some((_, which)) = said.split_once("explicit deny in ") {
        let whom = identity.unwrap_or_else(|| asked.as_whom.clone());
        let remedy = format!(
            "take the Deny out of {which}, which forbids it to {whom} whatever else allows it"
        );
        return (remedy, None);
    }
    if assumes && said.contains("no resource-based policy") {
        let whom = identity.unwrap_or_else(|| "the daemon's role".into());
        return (
            format!(
                "trust {whom} in the trust policy of {}, for sts:AssumeRole and \
                 sts:SetSourceIdentity",
                asked.resource
            ),
            None,
        );
    }
    let remedy = match &identity {
        Some(identity) if assumes => format!(
            "allow sts:AssumeRole and sts:SetSourceIdentity on it to {identity}, and trust that in \
             the role's trust policy"
        ),
        _ => asked.remedy.clone(),
    };
    let resource = denial.resource.unwrap_or(&asked.arn);
    let missing = Missing {
        identity: identity.unwrap_or_else(|| asked.as_whom.clone()),
        statement: Statement::allow(asked.allow, &[resource]),
    };
    (remedy, Some(Box::new(missing)))
}

impl<'s> Denial<'s> {
    fn parse(said: &'s str) -> Self {
        let between = |before: &str, after: char| {
            let (_, rest) = said.split_once(before)?;
            let part = rest.split(after).next()?;
            part.starts_with("arn:").then_some(part)
        };
        Self {
            principal: between("User: ", ' '),
            resource: between("on resource: ", ' '),
        }
    }
}

/// Whose policies count: for a session of a role the role, without its path, which the session does
/// not tell.
fn identity_of(principal: &str) -> String {
    let role = principal
        .split_once(":assumed-role/")
        .and_then(|(head, rest)| {
            let role = rest.split('/').next()?;
            Some(format!(
                "{}:role/{role}",
                head.replacen(":sts:", ":iam:", 1)
            ))
        });
    role.unwrap_or_else(|| principal.to_owned())
}

/// The partition of a region.
pub(super) fn partition_of(region: &str) -> &'static str {
    match region.split('-').next() {
        Some("cn") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

fn of_no_answer<E>(asked: &Asked, error: &SdkError<E, HttpResponse>) -> AwsError
where
    E: Error + 'static,
{
    if let Some(why) = no_credentials(error) {
        if let Some(exposed) = sources(why).find_map(<dyn Error>::downcast_ref::<FileAccessError>) {
            return AwsError {
                kind: ErrorKind::Configuration,
                passing: true,
                credentials: true,
                message: format!("{}: no AWS credentials: {}", asked.action, exposed.what()),
                remedy: exposed.remedy(),
                missing: None,
            };
        }
        return AwsError {
            kind: ErrorKind::Configuration,
            passing: true,
            credentials: true,
            message: format!(
                "{}: the daemon has no AWS credentials: {}",
                asked.action,
                base::error::chain(why)
            ),
            remedy: "give the host an instance role, or set profile (and credentials_file) on the \
                     environment"
                .into(),
            missing: None,
        };
    }
    let what = match error {
        SdkError::TimeoutError(_) => "no answer in time".into(),
        SdkError::DispatchFailure(_) => "the endpoint can't be reached".into(),
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            format!("the answer, HTTP {status}, could not be read")
        }
        _ => "the request could not be made".to_owned(),
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
        remedy: format!(
            "check the way from this host to AWS (VPC endpoint, proxy, DNS), or {}",
            asked.service().endpoint_key()
        ),
        missing: None,
    }
}

/// Why there are no AWS credentials, if that is what is wrong.
pub(super) fn no_credentials<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    sources(error).find_map(|cause| cause.downcast_ref())
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// The statement as JSON, on one line.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(&self.statement).map_err(|_| fmt::Error)?;
        f.write_str(&json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            action: "sts:AssumeRole",
            allow: &["sts:AssumeRole", "sts:SetSourceIdentity"],
            as_whom: "the daemon's own AWS credentials".into(),
            resource: "arn:aws:iam::111122223333:role/user-alice".into(),
            arn: "arn:aws:iam::111122223333:role/user-alice".into(),
            remedy: "allow it".into(),
        }
    }

    #[test]
    fn a_denial_names_the_role_behind_the_session_and_the_statement_it_lacks() {
        let (remedy, missing) = remedy_of_denial(
            &asked(),
            "User: arn:aws:sts::111122223333:assumed-role/bastion/i-0abc is not authorized to \
             perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/user-alice",
        );
        let bastion = "arn:aws:iam::111122223333:role/bastion";
        assert!(
            remedy.contains(bastion) && remedy.contains("trust policy"),
            "{remedy}"
        );
        let missing = missing.unwrap();
        assert_eq!(missing.identity, bastion);
        assert_eq!(
            missing.to_string(),
            r#"{"Effect":"Allow","Action":["sts:AssumeRole","sts:SetSourceIdentity"],"Resource":["arn:aws:iam::111122223333:role/user-alice"]}"#
        );
    }

    #[test]
    fn a_denial_by_the_roles_own_policy_is_mended_there() {
        let (remedy, missing) = remedy_of_denial(
            &asked(),
            "User: arn:aws:iam::111122223333:user/hopend is not authorized to perform: \
             sts:AssumeRole on resource: arn:aws:iam::111122223333:role/user-alice because no \
             resource-based policy allows the sts:AssumeRole action",
        );
        assert!(
            remedy.starts_with("trust arn:aws:iam::111122223333:user/hopend in"),
            "{remedy}"
        );
        assert_eq!(missing, None);
    }

    #[test]
    fn an_explicit_denial_is_mended_where_it_stands() {
        let (remedy, missing) = remedy_of_denial(
            &asked(),
            "User: arn:aws:iam::111122223333:user/hopend is not authorized to perform: \
             sts:AssumeRole on resource: arn:aws:iam::111122223333:role/user-alice with an \
             explicit deny in a service control policy",
        );
        assert!(
            remedy.starts_with(
                "take the Deny out of a service control policy, which forbids it to arn:"
            ),
            "{remedy}"
        );
        assert_eq!(missing, None);
    }

    #[test]
    fn a_denial_without_details_has_what_was_asked_for() {
        let (_, missing) = remedy_of_denial(&asked(), "Access denied");
        let missing = missing.unwrap();
        assert_eq!(missing.identity, "the daemon's own AWS credentials");
        assert_eq!(missing.statement.resource, [asked().arn]);
    }

    #[test]
    fn a_signature_out_of_time_is_the_clocks_fault_and_another_one_is_not() {
        let of = |code, said| remedy_of_credentials(code, said).unwrap_or_default();
        let expired = "Signature expired: 20260101T000000Z is now earlier than 20260101T010000Z";
        assert!(of("SignatureDoesNotMatch", expired).contains("clock is wrong"));
        assert!(of("InvalidSignatureException", expired).contains("clock is wrong"));
        assert!(of("SignatureDoesNotMatch", "we calculated another").contains("secret key"));
        assert_eq!(remedy_of_credentials("InternalFailure", ""), None);
    }

    #[test]
    fn partitions_of_regions() {
        assert_eq!(partition_of("us-east-1"), "aws");
        assert_eq!(partition_of("us-gov-west-1"), "aws-us-gov");
        assert_eq!(partition_of("cn-north-1"), "aws-cn");
    }
}
