//! SigV4 signatures, computed by the AWS SDK's own signer, and the keys of this simulation.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::arn::REGION;
use super::caller::Caller;
use super::state::{RoleSession, Simulation};

/// The greatest difference between the caller's clock and the simulation's that is accepted.
pub(crate) const SKEW: Duration = Duration::from_secs(300);

/// The reason why a signature is invalid. Each service has its own names for these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignatureError {
    /// The request has no signature.
    Missing,
    /// A part of the signature is missing or malformed.
    Incomplete(String),
    /// The access key was never issued, or the session token does not belong to it.
    Unknown,
    /// The session has ended.
    Expired,
    /// The request, its scope or its time differs from the signed one.
    Mismatch(String),
}

/// The credentials that a signature is computed with.
pub(crate) struct SigningKeys {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    /// The session token; `None` for the base credentials.
    pub(crate) token: Option<String>,
}

impl From<RoleSession> for SigningKeys {
    fn from(session: RoleSession) -> Self {
        Self {
            access_key: session.access_key,
            secret_key: session.secret_key,
            token: Some(session.token),
        }
    }
}

impl Simulation {
    /// The keys that belong to an access key and its session token, and the principal that owns them.
    pub(crate) fn signing_keys(
        &self,
        access_key: &str,
        token: Option<&str>,
    ) -> Result<(SigningKeys, Caller), SignatureError> {
        if access_key == self.base.access_key {
            if token.is_some() {
                return Err(SignatureError::Unknown);
            }
            let keys = SigningKeys {
                access_key: access_key.to_owned(),
                secret_key: self.base.secret_key.clone(),
                token: None,
            };
            return Ok((keys, Caller::base(access_key)));
        }
        let session = self
            .read(|state| state.sessions.get(access_key).cloned())
            .ok_or(SignatureError::Unknown)?;
        if token != Some(session.token.as_str()) {
            return Err(SignatureError::Unknown);
        }
        if session.expires <= self.now() {
            return Err(SignatureError::Expired);
        }
        let caller = session.caller();
        Ok((session.into(), caller))
    }
}

/// The parts of a request that a signature covers.
pub(crate) struct RequestToSign<'a> {
    pub(crate) method: &'a str,
    pub(crate) uri: &'a str,
    /// The signed headers, without those that the signer adds: `host`, `x-amz-date` and
    /// `x-amz-security-token`.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// The settings for a signature in the headers of a request.
pub(crate) fn request_settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.excluded_headers = None;
    settings
}

/// The settings for a signature in the query of a URL, valid for `life`.
pub(crate) fn query_settings(life: Duration) -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(life);
    settings
}

impl RequestToSign<'_> {
    /// The signature in hexadecimal; `None` if the parts are not those of an HTTP request.
    pub(crate) fn signature(
        &self,
        keys: &SigningKeys,
        service: &str,
        time: SystemTime,
        settings: SigningSettings,
    ) -> Option<String> {
        let identity = Credentials::new(
            &keys.access_key,
            &keys.secret_key,
            keys.token.clone(),
            None,
            "simulator",
        )
        .into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name(service)
            .time(time)
            .settings(settings)
            .build()
            .ok()?
            .into();
        let body = SignableBody::Bytes(self.body);
        let request =
            SignableRequest::new(self.method, self.uri, self.headers.iter().copied(), body).ok()?;
        let (_, signature) = sign(request, &params).ok()?.into_parts();
        Some(signature)
    }
}

/// The access key of `Credential`, whose scope must name the day of `date`, the region and `service`.
pub(crate) fn access_key_of<'a>(
    credential: &'a str,
    date: &str,
    service: &str,
) -> Result<&'a str, SignatureError> {
    let parts: Vec<&str> = credential.split('/').collect();
    let [access_key, day, region, for_service, "aws4_request"] = parts[..] else {
        return Err(SignatureError::Incomplete(
            "Credential must have exactly 5 slash-delimited elements".into(),
        ));
    };
    let mismatch = |text: String| Err(SignatureError::Mismatch(text));
    if region != REGION {
        return mismatch(format!(
            "Credential should be scoped to a valid region, not '{region}'."
        ));
    }
    if for_service != service {
        return mismatch(format!(
            "Credential should be scoped to correct service: '{service}'."
        ));
    }
    if !date.starts_with(day) || day.len() != 8 {
        return mismatch("Date in Credential scope does not match X-Amz-Date.".into());
    }
    Ok(access_key)
}

/// Reads a date of the form `20230712T205206Z`.
pub(crate) fn parse_date(text: &str) -> Option<SystemTime> {
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

/// Writes a date in the form `20230712T205206Z`.
pub(crate) fn format_date(time: SystemTime) -> String {
    Timestamp::try_from(time)
        .map(|time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
        .unwrap_or_default()
}
