//! FinSpace's management API for Managed kdb Insights, REST-JSON.
//!
//! Source: the service model `finspace/2021-03-12` of botocore 1.43.

use std::time::SystemTime;

use axum::http::Method;
use serde_json::{Value as Json, json};

use super::api::{ApiError, Call};
use super::faults::Cut;
use super::operations::{Operation, REFUSED, labels, operation};
use super::state::{Cluster, Node, State, User};
use super::{ACCOUNT, REGION, names, tags};

pub(super) fn answer(call: &Call<'_>, method: &Method) -> Result<String, ApiError> {
    let path = call.uri.path();
    let operation = operation(method, path)
        .ok_or_else(|| ApiError::new(404, "UnknownOperationException", "no such operation"))?;
    if REFUSED.contains(operation) {
        return Err(invalid(format!(
            "the simulator does not offer {}",
            operation.name
        )));
    }
    let labels = labels(operation.path, path).unwrap_or_default();
    let label = |at: usize| labels.get(at).map_or("", String::as_str);
    let action = format!("finspace:{}", operation.name);
    call.authorize(&action, &resource(call, operation, &labels))?;
    if operation.path.starts_with("kx/environments/{}") && label(0) != call.shared.environment {
        return Err(missing(format!("Environment {} not found", label(0))));
    }
    let json = match operation.name {
        "ListKxEnvironments" => {
            let environment = call.shared.look(|state| environment(call, state));
            page(call, "environments", vec![environment])
        }
        "GetKxEnvironment" => Ok(call.shared.look(|state| environment(call, state))),
        "UpdateKxEnvironment" => update_environment(call),
        "GetKxConnectionString" => connection_string(call),
        "ListKxClusters" => list_clusters(call),
        "CreateKxCluster" => create_cluster(call),
        "GetKxCluster" => get_cluster(call, label(1)),
        "DeleteKxCluster" => delete_cluster(call, label(1)),
        "ListKxClusterNodes" => list_nodes(call, label(1)),
        "DeleteKxClusterNode" => delete_node(call, label(1), label(2)),
        "ListKxUsers" => list_users(call),
        "CreateKxUser" => put_user(call, None),
        "GetKxUser" => get_user(call, label(1)),
        "UpdateKxUser" => put_user(call, Some(label(1))),
        "DeleteKxUser" => delete_user(call, label(1)),
        "ListKxDatabases" => page(call, "kxDatabases", Vec::new()),
        "ListKxScalingGroups" => page(call, "scalingGroups", Vec::new()),
        "ListKxVolumes" => page(call, "kxVolumeSummaries", Vec::new()),
        "ListTagsForResource" => tags::list(call, label(0)),
        "TagResource" => tags::tag(call, label(0)),
        "UntagResource" => tags::untag(call, label(0)),
        other => Err(invalid(format!("the simulator does not offer {other}"))),
    };
    Ok(json?.to_string())
}

fn resource(call: &Call<'_>, operation: &Operation, labels: &[String]) -> String {
    let second = labels.get(1).map_or("", String::as_str);
    match operation.path.split('/').nth(3) {
        Some("connectionString") => {
            let name = call.query("clusterName").unwrap_or_default();
            let cluster = call
                .shared
                .look(|state| state.find(&name).map(|(cluster, _)| cluster.name.clone()));
            call.shared.cluster_arn(&cluster.unwrap_or(name))
        }
        Some("clusters") if labels.len() > 1 => call.shared.cluster_arn(second),
        Some("users") if labels.len() > 1 => call.shared.user_arn(second),
        _ if operation.path.starts_with("tags") => labels.first().cloned().unwrap_or_default(),
        _ if labels.is_empty() => "*".into(),
        _ => call.shared.environment_arn(),
    }
}

fn connection_string(call: &Call<'_>) -> Result<Json, ApiError> {
    let shared = call.shared;
    let name = need(call.query("clusterName"), "clusterName")?;
    let user_arn = need(call.query("userArn"), "userArn")?;
    let prefix = format!("{}/kxUser/", shared.environment_arn());
    let user = user_arn
        .strip_prefix(&prefix)
        .filter(|user| !user.is_empty())
        .ok_or_else(|| {
            invalid(format!(
                "userArn {user_arn} is not of environment {}",
                shared.environment
            ))
        })?;
    let (role, place) = shared.look(|state| {
        let role = state.users.get(user).map(|user| user.role.clone());
        let place = state.find(&name).map(|(cluster, node)| {
            (
                cluster.name.clone(),
                node.map(|node| node.id.clone()),
                node.map(|node| node.port)
                    .or(cluster.port)
                    .filter(|_| cluster.status == "RUNNING"),
            )
        });
        (role, place)
    });
    let role = role.ok_or_else(|| missing(format!("User {user} not found")))?;
    if call.caller.role.as_deref() != Some(&role) {
        return Err(call.denied("finspace:GetKxConnectionString", &user_arn));
    }
    let (cluster, node, port) =
        place.ok_or_else(|| missing(format!("Cluster {name} not found")))?;
    let port = port.ok_or_else(|| invalid(format!("Cluster {name} is not RUNNING")))?;
    let host = shared.inner_host(&cluster, node.as_deref());
    let password = shared
        .sign_login(&call.caller.access_key, user, &host)
        .ok_or_else(|| ApiError::new(500, "InternalServerException", "could not sign"))?;
    Ok(json!({ "signedConnectionString": format!(":tcps://localhost:{port}:{user}:{password}") }))
}

fn environment(call: &Call<'_>, state: &State) -> Json {
    let id = &call.shared.environment;
    without_null(json!({
        "name": state.environment_name,
        "environmentId": id,
        "awsAccountId": ACCOUNT,
        "status": "CREATED",
        "tgwStatus": "NONE",
        "dnsStatus": "NONE",
        "description": state.environment_description,
        "environmentArn": format!("arn:aws:finspace:{REGION}:{ACCOUNT}:kxEnvironment/{id}"),
        "dedicatedServiceAccountId": ACCOUNT,
        "creationTimestamp": seconds(call.shared.started),
        "updateTimestamp": seconds(call.shared.started),
        "availabilityZoneIds": ["use1-az1", "use1-az2", "use1-az3"],
    }))
}

fn update_environment(call: &Call<'_>) -> Result<Json, ApiError> {
    let body = body(call)?;
    call.shared.with(|state| {
        if let Some(name) = body["name"].as_str() {
            name.clone_into(&mut state.environment_name);
        }
        if let Some(description) = body["description"].as_str() {
            state.environment_description = Some(description.to_owned());
        }
    });
    Ok(call.shared.look(|state| environment(call, state)))
}

const AZ_MODES: [&str; 2] = ["SINGLE", "MULTI"];

const CLUSTER_TYPES: [&str; 5] = ["HDB", "RDB", "GATEWAY", "GP", "TICKERPLANT"];

fn list_clusters(call: &Call<'_>) -> Result<Json, ApiError> {
    let kind = call.query("clusterType");
    if let Some(kind) = kind.as_deref().filter(|kind| !CLUSTER_TYPES.contains(kind)) {
        return Err(invalid(format!("clusterType {kind} does not exist")));
    }
    let clusters = call.shared.look(|state| {
        let wanted = |cluster: &&Cluster| kind.as_ref().is_none_or(|kind| *kind == cluster.kind);
        state
            .clusters
            .values()
            .filter(wanted)
            .map(cluster_json)
            .collect()
    });
    page(call, "kxClusterSummaries", clusters)
}

fn get_cluster(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    let cluster = call
        .shared
        .look(|state| state.clusters.get(name).cloned())
        .ok_or_else(|| missing(format!("Cluster {name} not found")))?;
    let mut json = cluster_json(&cluster);
    // A count of nodes is at least 1.
    if !cluster.nodes.is_empty() {
        json["capacityConfiguration"] =
            json!({ "nodeType": "kx.s.xlarge", "nodeCount": cluster.nodes.len() });
    }
    Ok(json)
}

fn create_cluster(call: &Call<'_>) -> Result<Json, ApiError> {
    let body = body(call)?;
    let text = |name: &str| need(body[name].as_str().map(str::to_owned), name);
    let name = text("clusterName")?;
    let kind = text("clusterType")?;
    text("releaseLabel")?;
    let zones = text("azMode")?;
    if !AZ_MODES.contains(&zones.as_str()) {
        return Err(invalid(format!("azMode {zones} does not exist")));
    }
    if !names::is_cluster(&name) {
        return Err(invalid(format!("clusterName {name} is not valid")));
    }
    if !body["vpcConfiguration"].is_object() {
        return Err(invalid("vpcConfiguration is required".into()));
    }
    if !CLUSTER_TYPES.contains(&kind.as_str()) {
        return Err(invalid(format!("clusterType {kind} does not exist")));
    }
    let cluster = Cluster {
        name: name.clone(),
        kind,
        description: body["clusterDescription"]
            .as_str()
            .unwrap_or("created over the API")
            .into(),
        az_mode: zones,
        status: "CREATING",
        port: None,
        nodes: Vec::new(),
        next: 0,
        created: call.shared.now(),
    };
    call.shared.with(|state| {
        if state.clusters.contains_key(&name) {
            return Err(ApiError::new(
                409,
                "ConflictException",
                format!("Cluster {name} exists"),
            ));
        }
        let mut json = cluster_json(&cluster);
        json["environmentId"] = json!(call.shared.environment);
        state.clusters.insert(name.clone(), cluster);
        Ok(json)
    })
}

fn delete_cluster(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    call.shared
        .with(|state| {
            for connection in &state.connections {
                if connection.cluster() == name {
                    connection.cut(Cut::Fin);
                }
            }
            state.clusters.remove(name)
        })
        .map(|_| json!({}))
        .ok_or_else(|| missing(format!("Cluster {name} not found")))
}

fn list_nodes(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    let nodes = call
        .shared
        .look(|state| {
            let cluster = state.clusters.get(name)?;
            Some(cluster.nodes.iter().map(node_json).collect())
        })
        .ok_or_else(|| missing(format!("Cluster {name} not found")))?;
    page(call, "nodes", nodes)
}

fn delete_node(call: &Call<'_>, cluster: &str, node: &str) -> Result<Json, ApiError> {
    let found = call.shared.with(|state| {
        let nodes = &mut state.clusters.get_mut(cluster)?.nodes;
        let at = nodes.iter().position(|known| known.id == node)?;
        nodes.remove(at);
        for connection in &state.connections {
            if connection.node() == node {
                connection.cut(Cut::Fin);
            }
        }
        Some(json!({}))
    });
    found.ok_or_else(|| missing(format!("Node {node} not found")))
}

fn list_users(call: &Call<'_>) -> Result<Json, ApiError> {
    let users = call.shared.look(|state| {
        let json = |user: &User| {
            let mut json = user_json(call, user);
            // A user in a list is without it.
            json["environmentId"].take();
            json["createTimestamp"] = seconds(user.created);
            json["updateTimestamp"] = seconds(user.updated);
            without_null(json)
        };
        state.users.values().map(json).collect()
    });
    page(call, "users", users)
}

fn get_user(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    call.shared
        .look(|state| state.users.get(name).map(|user| user_json(call, user)))
        .ok_or_else(|| missing(format!("User {name} not found")))
}

fn put_user(call: &Call<'_>, existing: Option<&str>) -> Result<Json, ApiError> {
    let body = body(call)?;
    let role = need(body["iamRole"].as_str().map(str::to_owned), "iamRole")?;
    let name = match existing {
        Some(name) => name.to_owned(),
        None => need(body["userName"].as_str().map(str::to_owned), "userName")?,
    };
    if !names::is_user(&name) {
        return Err(invalid(format!("userName {name} is not valid")));
    }
    if !names::is_role(&role) {
        return Err(invalid(format!("iamRole {role} is not valid")));
    }
    let now = call.shared.now();
    call.shared.with(|state| {
        let created = match (state.users.get(&name), existing) {
            (None, Some(name)) => return Err(missing(format!("User {name} not found"))),
            (Some(_), None) => {
                return Err(ApiError::new(
                    409,
                    "ResourceAlreadyExistsException",
                    format!("User {name} exists"),
                ));
            }
            (Some(user), Some(_)) => user.created,
            (None, None) => now,
        };
        let user = User {
            name: name.clone(),
            role,
            created,
            updated: now,
        };
        let json = user_json(call, &user);
        state.users.insert(name.clone(), user);
        Ok(json)
    })
}

fn delete_user(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    call.shared
        .with(|state| state.users.remove(name))
        .map(|_| json!({}))
        .ok_or_else(|| missing(format!("User {name} not found")))
}

fn cluster_json(cluster: &Cluster) -> Json {
    json!({
        "clusterName": cluster.name,
        "clusterType": cluster.kind,
        "clusterDescription": cluster.description,
        "status": cluster.status,
        "releaseLabel": "1.0",
        "azMode": cluster.az_mode,
        "createdTimestamp": seconds(cluster.created),
        "lastModifiedTimestamp": seconds(cluster.created),
    })
}

fn node_json(node: &Node) -> Json {
    json!({
        "nodeId": node.id,
        "availabilityZoneId": node.zone,
        "launchTime": seconds(node.launched),
        "status": "RUNNING",
    })
}

fn user_json(call: &Call<'_>, user: &User) -> Json {
    json!({
        "userName": user.name,
        "userArn": call.shared.user_arn(&user.name),
        "environmentId": call.shared.environment,
        "iamRole": user.role,
    })
}

/// One page of a list. The token is where the next one starts.
fn page(call: &Call<'_>, name: &str, items: Vec<Json>) -> Result<Json, ApiError> {
    let most = match call.query("maxResults") {
        None => call.shared.options.page,
        Some(text) => text
            .parse()
            .ok()
            .filter(|most| *most <= 100)
            .ok_or_else(|| invalid("maxResults is from 0 to 100".into()))?,
    };
    let most = if most == 0 { 100 } else { most };
    let start = match call.query("nextToken") {
        None => 0,
        Some(token) => token
            .strip_prefix("page-")
            .and_then(|token| usize::from_str_radix(token, 16).ok())
            .ok_or_else(|| invalid("nextToken was not issued here".into()))?,
    };
    let left = items.len().saturating_sub(start);
    let mut json = json!({ name: items.into_iter().skip(start).take(most).collect::<Vec<_>>() });
    if left > most {
        json["nextToken"] = json!(format!("page-{:08x}", start + most));
    }
    Ok(json)
}

pub(super) fn body(call: &Call<'_>) -> Result<Json, ApiError> {
    serde_json::from_slice(call.body)
        .map_err(|error| ApiError::new(400, "SerializationException", error.to_string()))
}

fn need(value: Option<String>, name: &str) -> Result<String, ApiError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| invalid(format!("{name} is required")))
}

fn without_null(mut json: Json) -> Json {
    if let Some(object) = json.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    json
}

/// Seconds since 1970, as REST-JSON writes a timestamp.
fn seconds(time: SystemTime) -> Json {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    json!(seconds)
}

pub(super) fn invalid(message: String) -> ApiError {
    ApiError::new(400, "ValidationException", message)
}

pub(super) fn missing(message: String) -> ApiError {
    ApiError::new(404, "ResourceNotFoundException", message)
}
