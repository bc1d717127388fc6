//! Verifies the SigV4 signatures of HTTP requests, by signing each request again.

use axum::http::{HeaderMap, Method, Uri};

use super::caller::Caller;
use super::signature::{
    RequestToSign, SKEW, SignatureError, access_key_of, format_date, parse_date, request_settings,
};
use super::state::Simulation;

/// A received request whose signature is to be verified.
pub(crate) struct SignedRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Simulation {
    /// Verifies a request that was signed for `service`. Returns the principal that signed it.
    pub(crate) fn verify_request(
        &self,
        request: &SignedRequest<'_>,
        service: &str,
    ) -> Result<Caller, SignatureError> {
        let authorization =
            header(request.headers, "authorization").ok_or(SignatureError::Missing)?;
        let incomplete = |what: &str| SignatureError::Incomplete(what.to_owned());
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
        let access_key = access_key_of(credential, date, service)?;

        let token = header(request.headers, "x-amz-security-token");
        let (keys, caller) = self.signing_keys(access_key, token)?;
        let now = self.now();
        if time + SKEW < now {
            return Err(SignatureError::Mismatch(format!(
                "Signature expired: {date} is now earlier than {} (5 min.)",
                format_date(now - SKEW)
            )));
        }
        if time > now + SKEW {
            return Err(SignatureError::Mismatch(format!(
                "Signature not yet current: {date} is still later than {} (5 min.)",
                format_date(now + SKEW)
            )));
        }
        let mut needed = vec!["host", "x-amz-date"];
        needed.extend(token.map(|_| "x-amz-security-token"));
        if needed.iter().any(|name| !signed.contains(name)) {
            return Err(incomplete("a header that must be signed is not"));
        }

        let host = header(request.headers, "host").ok_or(SignatureError::Missing)?;
        let path = request.uri.path_and_query().map_or("/", |p| p.as_str());
        // The signer adds the needed headers itself.
        let headers: Vec<(&str, &str)> = signed
            .iter()
            .filter(|name| !needed.contains(name))
            .filter_map(|&name| Some((name, header(request.headers, name)?)))
            .collect();
        let again = RequestToSign {
            method: request.method.as_str(),
            uri: &format!("http://{host}{path}"),
            headers: &headers,
            body: request.body,
        }
        .signature(&keys, service, time, request_settings())
        .ok_or_else(|| incomplete("the request can't be signed"))?;
        if again == signature {
            Ok(caller)
        } else {
            Err(SignatureError::Mismatch(
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. \
                 Consult the service documentation for details."
                    .into(),
            ))
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
