//! Tags of users, clusters and the environment.

use serde_json::{Value as Json, json};

use super::api::{ApiError, Call};
use super::finspace::{body, invalid, missing};

pub(super) fn list(call: &Call<'_>, arn: &str) -> Result<Json, ApiError> {
    known(call, arn)?;
    let tags = call.shared.look(|state| state.tags.get(arn).cloned());
    Ok(json!({ "tags": tags.unwrap_or_default() }))
}

pub(super) fn tag(call: &Call<'_>, arn: &str) -> Result<Json, ApiError> {
    known(call, arn)?;
    let body = body(call)?;
    let new = body["tags"]
        .as_object()
        .ok_or_else(|| invalid("tags is required".into()))?;
    call.shared.with(|state| {
        let tags = state.tags.entry(arn.to_owned()).or_default();
        for (key, value) in new {
            tags.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
        }
    });
    Ok(json!({}))
}

pub(super) fn untag(call: &Call<'_>, arn: &str) -> Result<Json, ApiError> {
    known(call, arn)?;
    let query = call.uri.query().unwrap_or_default();
    call.shared.with(|state| {
        if let Some(tags) = state.tags.get_mut(arn) {
            for (key, value) in form_urlencoded::parse(query.as_bytes()) {
                if key == "tagKeys" {
                    tags.remove(&*value);
                }
            }
        }
    });
    Ok(json!({}))
}

/// Whether there is something of this ARN to tag.
fn known(call: &Call<'_>, arn: &str) -> Result<(), ApiError> {
    let environment = call.shared.environment_arn();
    let rest = arn.strip_prefix(&environment).unwrap_or("none");
    let mut parts = rest.splitn(3, '/').skip(1);
    let known = match (parts.next(), parts.next()) {
        (None, _) => rest.is_empty(),
        (Some("kxUser"), Some(name)) => call.shared.look(|state| state.users.contains_key(name)),
        (Some("kxCluster"), Some(name)) => {
            call.shared.look(|state| state.clusters.contains_key(name))
        }
        _ => false,
    };
    if known {
        Ok(())
    } else {
        Err(missing(format!("Resource {arn} not found")))
    }
}
