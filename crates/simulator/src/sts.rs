//! STS in its query protocol: requests are forms, responses are XML.
//!
//! Source: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>.

use std::time::Duration;

use jiff::Timestamp;

use super::arn::{self, ACCOUNT};
use super::call::{ApiError, Call, request_id};
use super::state::AssumedRole;

/// The operations that the simulated STS offers.
pub const OFFERED: &[&str] = &["AssumeRole", "GetCallerIdentity"];

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The operation that a request names.
pub(crate) fn operation(body: &[u8]) -> Option<String> {
    field(body, "Action")
}

pub(crate) fn answer(call: &Call<'_>) -> Result<String, ApiError> {
    match operation(call.body).as_deref() {
        Some("AssumeRole") => assume_role(call),
        Some("GetCallerIdentity") => caller_identity(call),
        Some(other) => Err(ApiError::new(
            400,
            "InvalidAction",
            format!("the simulator does not offer {other}"),
        )),
        None => Err(ApiError::new(
            400,
            "MissingAction",
            "the form has no Action",
        )),
    }
}

pub(crate) fn error(error: &ApiError) -> String {
    let side = if error.status < 500 {
        "Sender"
    } else {
        "Receiver"
    };
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{side}</Type><Code>{}</Code>\
         <Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        escape(&error.code),
        escape(&error.message),
        request_id(),
    )
}

fn assume_role(call: &Call<'_>) -> Result<String, ApiError> {
    let need = |name: &str| {
        field(call.body, name).ok_or_else(|| {
            invalid(format!(
                "1 validation error detected: Value at '{name}' failed to satisfy constraint: \
                 Member must not be null"
            ))
        })
    };
    let role = need("RoleArn")?;
    let name = need("RoleSessionName")?;
    session_name("roleSessionName", &name)?;
    let identity = field(call.body, "SourceIdentity");
    if let Some(identity) = &identity {
        session_name("sourceIdentity", identity)?;
    }
    let life = match field(call.body, "DurationSeconds") {
        None => 3600,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| (900..=43_200).contains(seconds))
            .ok_or_else(|| {
                invalid(format!(
                    "1 validation error detected: Value '{text}' at 'durationSeconds' failed to \
                     satisfy constraint: Member must have value between 900 and 43200"
                ))
            })?,
    };
    if !role.starts_with("arn:aws:iam::") || !role.contains(":role/") {
        return Err(invalid(format!("{role} is invalid")));
    }
    let mut context = vec![("sts:RoleSessionName", &*name)];
    context.extend(identity.as_deref().map(|name| ("sts:SourceIdentity", name)));
    call.authorize_role("sts:AssumeRole", &role, &context)?;
    if identity.is_some() {
        call.authorize_role("sts:SetSourceIdentity", &role, &context)?;
    }
    let known = call
        .simulation
        .read(|state| state.users.values().any(|user| user.role == role));
    if !known {
        return Err(call.denied("sts:AssumeRole", &role));
    }
    let session = call
        .simulation
        .issue_session(&role, &name, Duration::from_secs(life));
    call.simulation.update(|state| {
        state.assumed.push(AssumedRole {
            role: role.clone(),
            session_name: name.clone(),
            source_identity: identity.clone(),
        });
    });
    let session_arn = arn::assumed_role(&role, &name);
    let expiration = Timestamp::try_from(session.expires)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default();
    Ok(format!(
        "<AssumeRoleResponse xmlns=\"{NAMESPACE}\"><AssumeRoleResult>\
         <AssumedRoleUser><AssumedRoleId>AROASIMULATEDROLE0001:{name}</AssumedRoleId>\
         <Arn>{session_arn}</Arn></AssumedRoleUser>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         {}</AssumeRoleResult>\
         <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></AssumeRoleResponse>",
        session.access_key,
        session.secret_key,
        session.token,
        identity
            .map(|identity| format!("<SourceIdentity>{identity}</SourceIdentity>"))
            .unwrap_or_default(),
        request_id(),
    ))
}

fn caller_identity(call: &Call<'_>) -> Result<String, ApiError> {
    call.authorize("sts:GetCallerIdentity", "*")?;
    Ok(format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult>\
         <Arn>{}</Arn><UserId>{}</UserId><Account>{ACCOUNT}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>{}</RequestId>\
         </ResponseMetadata></GetCallerIdentityResponse>",
        call.caller.arn,
        call.caller.user_id,
        request_id(),
    ))
}

/// Checks a session name or SourceIdentity against the pattern `[\w+=,.@-]{2,64}`. `what` is the name
/// of the parameter.
fn session_name(what: &str, name: &str) -> Result<(), ApiError> {
    let good = (2..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b));
    if good {
        return Ok(());
    }
    Err(invalid(format!(
        "1 validation error detected: Value '{}' at '{what}' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: [\\w+=,.@-]*, between 2 and 64 long",
        name.escape_debug()
    )))
}

fn invalid(message: String) -> ApiError {
    ApiError::new(400, "ValidationError", message)
}

fn field(body: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(body)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
