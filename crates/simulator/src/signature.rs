//! SigV4: requests are verified by signing them again, connection strings are signed for real.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use axum::http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::state::{Session, Shared};
use super::{ACCOUNT, REGION, access};

/// The service that connection strings are signed for.
pub(super) const LOGIN_SERVICE: &str = "finspace-apricot";

/// The action that a connection string allows.
pub(super) const LOGIN_ACTION: &str = "finspace:ConnectKxCluster";

/// How far the caller's clock may be off.
const SKEW: Duration = Duration::from_secs(300);

/// The inner port of a connection string: not the one to dial.
const INNER_PORT: &str = "5000";

/// Who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) arn: String,
    pub(super) user_id: String,
    /// The role, for a session's credentials; `None` for the base credentials.
    pub(super) role: Option<String>,
    pub(super) access_key: String,
}

impl Caller {
    /// The ARN of the role or of the IAM user, which policies go by.
    pub(super) fn principal(&self) -> &str {
        self.role.as_deref().unwrap_or(&self.arn)
    }
}

/// Why a signature does not hold. Each service has its own names for these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No signature.
    Missing,
    /// A signature that can't be read.
    Incomplete(String),
    /// Credentials that were never issued, or a token that does not belong to them.
    Unknown,
    /// The session is over.
    Expired,
    /// Another signature was expected.
    Mismatch(String),
}

/// A request as it came.
pub(super) struct Received<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

struct Keys {
    access_key: String,
    secret_key: String,
    token: Option<String>,
}

impl Session {
    /// Whoever signs with it.
    pub(super) fn caller(&self) -> Caller {
        let role_name = self.role.rsplit('/').next().unwrap_or_default();
        Caller {
            arn: format!(
                "arn:aws:sts::{ACCOUNT}:assumed-role/{role_name}/{}",
                self.name
            ),
            user_id: format!("AROASIMULATEDROLE0001:{}", self.name),
            role: Some(self.role.clone()),
            access_key: self.access_key.clone(),
        }
    }
}

impl Shared {
    /// Who signed this request for `service`.
    pub(super) fn verify(&self, request: &Received<'_>, service: &str) -> Result<Caller, Refusal> {
        let authorization = header(request.headers, "authorization").ok_or(Refusal::Missing)?;
        let incomplete = |what: &str| Refusal::Incomplete(what.to_owned());
        let fields = authorization
            .strip_prefix("AWS4-HMAC-SHA256 ")
            .ok_or_else(|| incomplete("Authorization header requires 'AWS4-HMAC-SHA256'"))?;
        let field = |name: &str| {
            fields
                .split(',')
                .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
                .ok_or_else(|| incomplete(&format!("Authorization header requires '{name}'")))
        };
        let credential = field("Credential")?;
        let signed: Vec<&str> = field("SignedHeaders")?.split(';').collect();
        let signature = field("Signature")?;
        let date = header(request.headers, "x-amz-date")
            .ok_or_else(|| incomplete("Authorization header requires 'X-Amz-Date'"))?;
        let time = parse_date(date).ok_or_else(|| incomplete("X-Amz-Date is no date"))?;
        let access_key = scope(credential, date, service)?;

        let token = header(request.headers, "x-amz-security-token");
        let (keys, caller) = self.keys(access_key, token)?;
        let now = self.now();
        if time + SKEW < now {
            return Err(Refusal::Mismatch(format!(
                "Signature expired: {date} is now earlier than {} (5 min.)",
                format_date(now - SKEW)
            )));
        }
        if time > now + SKEW {
            return Err(Refusal::Mismatch(format!(
                "Signature not yet current: {date} is still later than {} (5 min.)",
                format_date(now + SKEW)
            )));
        }
        let mut needed = vec!["host", "x-amz-date"];
        needed.extend(token.map(|_| "x-amz-security-token"));
        if needed.iter().any(|name| !signed.contains(name)) {
            return Err(incomplete("a header that must be signed is not"));
        }

        let host = header(request.headers, "host").ok_or(Refusal::Missing)?;
        let path = request.uri.path_and_query().map_or("/", |p| p.as_str());
        // The signer adds these of its own accord.
        let headers: Vec<(&str, &str)> = signed
            .iter()
            .filter(|name| !needed.contains(name))
            .filter_map(|&name| Some((name, header(request.headers, name)?)))
            .collect();
        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        let again = Again {
            method: request.method.as_str(),
            uri: &format!("http://{host}{path}"),
            headers: &headers,
            body: request.body,
        }
        .signature(&keys, service, time, settings)
        .ok_or_else(|| incomplete("the request can't be signed"))?;
        if again == signature {
            Ok(caller)
        } else {
            Err(Refusal::Mismatch(
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. \
                 Consult the service documentation for details."
                    .into(),
            ))
        }
    }

    /// A connection string signed with a session's credentials: its password, and until when.
    pub(super) fn sign_login(
        &self,
        access_key: &str,
        user: &str,
        inner_host: &str,
    ) -> Option<String> {
        let session = self.look(|state| state.sessions.get(access_key).cloned())?;
        let now = self.now();
        let life = self.faults.life().unwrap_or(self.options.string_life);
        let own = [
            ("Host", inner_host),
            ("Port", INNER_PORT),
            ("User", user),
            ("Action", LOGIN_ACTION),
        ];
        let keys = Keys {
            access_key: session.access_key.clone(),
            secret_key: session.secret_key.clone(),
            token: Some(session.token.clone()),
        };
        let signature = login_signature(&keys, &own, inner_host, now, life)?;
        let date = format_date(now);
        let credential = format!(
            "{access_key}/{}/{REGION}/{LOGIN_SERVICE}/aws4_request",
            date.get(..8).unwrap_or_default()
        );
        let password = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(own)
            .append_pair("X-Amz-Security-Token", &session.token)
            .append_pair("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
            .append_pair("X-Amz-Date", &date)
            .append_pair("X-Amz-SignedHeaders", "host")
            .append_pair("X-Amz-Expires", &life.as_secs().to_string())
            .append_pair("X-Amz-Credential", &credential)
            .append_pair("X-Amz-Signature", &signature)
            .finish();
        self.with(|state| {
            state.secrets.push(password.clone());
            state.secrets.push(signature);
        });
        Some(password)
    }

    /// Whether a login opens a cluster, or one of its nodes; the reason if not.
    pub(super) fn verify_login(
        &self,
        user: &str,
        password: &[u8],
        (cluster, node): (&str, Option<&str>),
    ) -> Result<(), String> {
        let inner_host = self.inner_host(cluster, node);
        let mut own = Vec::new();
        let mut amz: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(password) {
            if name.starts_with("X-Amz-") {
                amz.push((name.into_owned(), value.into_owned()));
            } else {
                own.push((name.into_owned(), value.into_owned()));
            }
        }
        let find = |pairs: &[(String, String)], name: &str| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| format!("the password has no {name}"))
        };
        let date = find(&amz, "X-Amz-Date")?;
        let time = parse_date(&date).ok_or("X-Amz-Date is no date")?;
        let life = find(&amz, "X-Amz-Expires")?
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| "X-Amz-Expires is no number")?;
        let credential = find(&amz, "X-Amz-Credential")?;
        let access_key = scope(&credential, &date, LOGIN_SERVICE)
            .map_err(|_| "X-Amz-Credential is for something else")?;
        let token = find(&amz, "X-Amz-Security-Token")?;
        let (keys, caller) = self
            .keys(access_key, Some(&token))
            .map_err(|refusal| format!("the session that signed it: {refusal:?}"))?;
        let pairs: Vec<(&str, &str)> = own.iter().map(|(k, v)| (&**k, &**v)).collect();
        let host = find(&own, "Host")?;
        let again = login_signature(&keys, &pairs, &host, time, life)
            .ok_or("the password can't be signed again")?;
        if again != find(&amz, "X-Amz-Signature")? {
            return Err("the signature does not match".into());
        }
        let now = self.now();
        if time > now + SKEW {
            return Err("signed in the future".into());
        }
        if time + life <= now {
            return Err("the connection string has expired".into());
        }
        if find(&own, "Action")? != LOGIN_ACTION {
            return Err("signed for another action".into());
        }
        if host != inner_host {
            return Err(format!("signed for {host}, not for {inner_host}"));
        }
        if find(&own, "User")? != user {
            return Err("signed for another user".into());
        }
        let role = self.look(|state| state.users.get(user).map(|user| user.role.clone()));
        if role.is_none() || role != caller.role {
            return Err("signed by another role than the user's".into());
        }
        self.permit(&caller, LOGIN_ACTION, &self.cluster_arn(cluster))
    }

    fn keys(&self, access_key: &str, token: Option<&str>) -> Result<(Keys, Caller), Refusal> {
        if access_key == self.base.access_key {
            if token.is_some() {
                return Err(Refusal::Unknown);
            }
            let keys = Keys {
                access_key: access_key.to_owned(),
                secret_key: self.base.secret_key.clone(),
                token: None,
            };
            let caller = Caller {
                arn: access::base_arn(),
                user_id: "AIDASIMULATEDHOPEND01".into(),
                role: None,
                access_key: access_key.to_owned(),
            };
            return Ok((keys, caller));
        }
        let session = self
            .look(|state| state.sessions.get(access_key).cloned())
            .ok_or(Refusal::Unknown)?;
        if token != Some(session.token.as_str()) {
            return Err(Refusal::Unknown);
        }
        if session.expires <= self.now() {
            return Err(Refusal::Expired);
        }
        let caller = session.caller();
        let keys = Keys {
            access_key: session.access_key,
            secret_key: session.secret_key,
            token: Some(session.token),
        };
        Ok((keys, caller))
    }
}

struct Again<'a> {
    method: &'a str,
    uri: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

impl Again<'_> {
    fn signature(
        &self,
        keys: &Keys,
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

fn login_signature(
    keys: &Keys,
    own: &[(&str, &str)],
    host: &str,
    time: SystemTime,
    life: Duration,
) -> Option<String> {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(own)
        .finish();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(life);
    Again {
        method: "GET",
        uri: &format!("https://{host}:{INNER_PORT}/?{query}"),
        headers: &[],
        body: &[],
    }
    .signature(keys, LOGIN_SERVICE, time, settings)
}

/// The access key of a credential scope, which must be of this day, region and service.
fn scope<'a>(credential: &'a str, date: &str, service: &str) -> Result<&'a str, Refusal> {
    let parts: Vec<&str> = credential.split('/').collect();
    let [access_key, day, region, for_service, "aws4_request"] = parts[..] else {
        return Err(Refusal::Incomplete(
            "Credential must have exactly 5 slash-delimited elements".into(),
        ));
    };
    let mismatch = |text: String| Err(Refusal::Mismatch(text));
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

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `20230712T205206Z`.
pub(super) fn parse_date(text: &str) -> Option<SystemTime> {
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

/// `20230712T205206Z`.
pub(super) fn format_date(time: SystemTime) -> String {
    Timestamp::try_from(time)
        .map(|time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
        .unwrap_or_default()
}
