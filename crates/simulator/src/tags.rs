//! The operations on tags. Users, clusters and the environment can have tags.

use serde_json::{Value as Json, json};

use super::call::{ApiError, Call};

pub(crate) fn list(call: &Call<'_>, arn: &str) -> Result<Json, ApiError> {
    check_resource(call, arn)?;
    let tags = call.simulation.read(|state| state.tags.get(arn).cloned());
    Ok(json!({ "tags": tags.unwrap_or_default() }))
}

pub(crate) fn tag(call: &Call<'_>, arn: &str) -> Result<Json, ApiError> {
    check_resource(call, arn)?;
    let body = call.json_body()?;
    let new = body["tags"]
        .as_object()
        .ok_or_else(|| ApiError::invalid("tags is required"))?;
    call.simulation.update(|state| {
        let tags = state.tags.entry(arn.to_owned()).or_default();
        for (key, value) in new {
            tags.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
        }
    });
    Ok(json!({}))
}

pub(crate) fn untag(call: &Call<'_>, arn: &str) -> Result<Json, ApiError> {
    check_resource(call, arn)?;
    let query = call.uri.query().unwrap_or_default();
    call.simulation.update(|state| {
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

/// Checks that a resource with this ARN exists.
fn check_resource(call: &Call<'_>, arn: &str) -> Result<(), ApiError> {
    let environment = call.simulation.environment_arn();
    let rest = arn.strip_prefix(&environment).unwrap_or("none");
    let mut parts = rest.splitn(3, '/').skip(1);
    let known = match (parts.next(), parts.next()) {
        (None, _) => rest.is_empty(),
        (Some("kxUser"), Some(name)) => {
            call.simulation.read(|state| state.users.contains_key(name))
        }
        (Some("kxCluster"), Some(name)) => call
            .simulation
            .read(|state| state.clusters.contains_key(name)),
        _ => false,
    };
    if known {
        Ok(())
    } else {
        Err(ApiError::not_found(format!("Resource {arn} not found")))
    }
}
