//! A call to the management API or to STS, and the errors that answer it.

use axum::http::Uri;
use serde_json::{Value as Json, json};

use super::access;
use super::caller::Caller;
use super::state::{LOWER, Simulation, random};

/// An error in the terms of AWS.
#[derive(Debug)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: u16,
    /// Name of the error, such as `ValidationException`.
    pub(crate) code: String,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// ValidationException of the management API.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "ValidationException", message)
    }

    /// ResourceNotFoundException of the management API.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "ResourceNotFoundException", message)
    }

    fn denied(action: &str, why: String) -> Self {
        let code = if action.starts_with("sts:") {
            "AccessDenied"
        } else {
            "AccessDeniedException"
        };
        Self::new(403, code, why)
    }
}

/// A call whose signature is valid.
pub(crate) struct Call<'a> {
    pub(crate) simulation: &'a Simulation,
    pub(crate) caller: Caller,
    pub(crate) uri: &'a Uri,
    pub(crate) body: &'a [u8],
}

impl Call<'_> {
    /// The first query parameter with this name, decoded.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.uri.query().unwrap_or_default().as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The body of a call to the management API.
    pub(crate) fn json_body(&self) -> Result<Json, ApiError> {
        serde_json::from_slice(self.body)
            .map_err(|error| ApiError::new(400, "SerializationException", error.to_string()))
    }

    /// One page of a list: `maxResults` items under `name`, from `nextToken` on. The token holds the
    /// index of the next page's first item.
    pub(crate) fn page(&self, name: &str, items: Vec<Json>) -> Result<Json, ApiError> {
        let most = match self.query("maxResults") {
            None => self.simulation.options.page,
            Some(text) => text
                .parse()
                .ok()
                .filter(|most| *most <= 100)
                .ok_or_else(|| ApiError::invalid("maxResults is from 0 to 100"))?,
        };
        let most = if most == 0 { 100 } else { most };
        let start = match self.query("nextToken") {
            None => 0,
            Some(token) => token
                .strip_prefix("page-")
                .and_then(|token| usize::from_str_radix(token, 16).ok())
                .ok_or_else(|| ApiError::invalid("nextToken was not issued here"))?,
        };
        let left = items.len().saturating_sub(start);
        let mut json =
            json!({ name: items.into_iter().skip(start).take(most).collect::<Vec<_>>() });
        if left > most {
            json["nextToken"] = json!(format!("page-{:08x}", start + most));
        }
        Ok(json)
    }

    /// Checks that the caller may perform this action.
    pub(crate) fn authorize(&self, action: &str, resource: &str) -> Result<(), ApiError> {
        let permit = self.simulation.permit(&self.caller, action, resource);
        permit.map_err(|why| ApiError::denied(action, why))
    }

    /// Checks that the caller may assume this role, given these condition keys and values.
    pub(crate) fn authorize_role(
        &self,
        action: &str,
        role: &str,
        context: &[(&'static str, &str)],
    ) -> Result<(), ApiError> {
        let permit = self
            .simulation
            .permit_role(&self.caller, action, role, context);
        permit.map_err(|why| ApiError::denied(action, why))
    }

    /// The error for an action that no policy of the caller allows.
    pub(crate) fn denied(&self, action: &str, resource: &str) -> ApiError {
        let why = access::not_allowed(&self.caller, action, resource);
        ApiError::denied(action, why)
    }
}

/// A random text of the form of a request ID of AWS.
pub(crate) fn request_id() -> String {
    [8, 4, 4, 4, 12].map(|n| random(n, LOWER)).join("-")
}
