//! The operations of FinSpace's management API for Managed kdb Insights (REST-JSON).
//!
//! Source: the service model `finspace/2021-03-12` of botocore 1.43.

use std::time::SystemTime;

use axum::http::Method;
use serde_json::{Value as Json, json};

use super::arn::{self, ACCOUNT};
use super::call::{ApiError, Call};
use super::faults::Cut;
use super::operations::{Operation, REFUSED, labels, operation};
use super::state::{Cluster, ClusterNode, FinSpaceUser, SimulatedState};
use super::{names, tags};

/// Performs the operation that the call names, and returns the JSON of its response.
pub(crate) fn answer(call: &Call<'_>, method: &Method) -> Result<String, ApiError> {
    let path = call.uri.path();
    let operation = operation(method, path)
        .ok_or_else(|| ApiError::new(404, "UnknownOperationException", "no such operation"))?;
    if REFUSED.contains(operation) {
        return Err(ApiError::invalid(format!(
            "the simulator does not offer {}",
            operation.name
        )));
    }
    let labels = labels(operation.path, path).unwrap_or_default();
    let label = |at: usize| labels.get(at).map_or("", String::as_str);
    let action = format!("finspace:{}", operation.name);
    call.authorize(&action, &resource(call, operation, &labels))?;
    if operation.path.starts_with("kx/environments/{}") && label(0) != call.simulation.environment {
        return Err(ApiError::not_found(format!(
            "Environment {} not found",
            label(0)
        )));
    }
    let json = match operation.name {
        "ListKxEnvironments" => {
            let environment = call.simulation.read(|state| environment(call, state));
            call.page("environments", vec![environment])
        }
        "GetKxEnvironment" => Ok(call.simulation.read(|state| environment(call, state))),
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
        "ListKxDatabases" => call.page("kxDatabases", Vec::new()),
        "ListKxScalingGroups" => call.page("scalingGroups", Vec::new()),
        "ListKxVolumes" => call.page("kxVolumeSummaries", Vec::new()),
        "ListTagsForResource" => tags::list(call, label(0)),
        "TagResource" => tags::tag(call, label(0)),
        "UntagResource" => tags::untag(call, label(0)),
        other => Err(ApiError::invalid(format!(
            "the simulator does not offer {other}"
        ))),
    };
    Ok(json?.to_string())
}

/// The ARN of the resource that an operation needs permission for.
fn resource(call: &Call<'_>, operation: &Operation, labels: &[String]) -> String {
    let second = labels.get(1).map_or("", String::as_str);
    match operation.path.split('/').nth(3) {
        Some("connectionString") => {
            let name = call.query("clusterName").unwrap_or_default();
            let cluster = call
                .simulation
                .read(|state| state.find(&name).map(|(cluster, _)| cluster.name.clone()));
            call.simulation.cluster_arn(&cluster.unwrap_or(name))
        }
        Some("clusters") if labels.len() > 1 => call.simulation.cluster_arn(second),
        Some("users") if labels.len() > 1 => call.simulation.user_arn(second),
        _ if operation.path.starts_with("tags") => labels.first().cloned().unwrap_or_default(),
        _ if labels.is_empty() => "*".into(),
        _ => call.simulation.environment_arn(),
    }
}

fn connection_string(call: &Call<'_>) -> Result<Json, ApiError> {
    let simulation = call.simulation;
    let name = required(call.query("clusterName"), "clusterName")?;
    let user_arn = required(call.query("userArn"), "userArn")?;
    let prefix = format!("{}/kxUser/", simulation.environment_arn());
    let user = user_arn
        .strip_prefix(&prefix)
        .filter(|user| !user.is_empty())
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "userArn {user_arn} is not of environment {}",
                simulation.environment
            ))
        })?;
    let (role, address) = simulation.read(|state| {
        let role = state.users.get(user).map(|user| user.role.clone());
        let address = state.find(&name).map(|(cluster, node)| {
            (
                cluster.name.clone(),
                node.map(|node| node.id.clone()),
                node.map(|node| node.port)
                    .or(cluster.port)
                    .filter(|_| cluster.status == "RUNNING"),
            )
        });
        (role, address)
    });
    let role = role.ok_or_else(|| ApiError::not_found(format!("User {user} not found")))?;
    if call.caller.role.as_deref() != Some(&role) {
        return Err(call.denied("finspace:GetKxConnectionString", &user_arn));
    }
    let (cluster, node, port) =
        address.ok_or_else(|| ApiError::not_found(format!("Cluster {name} not found")))?;
    let port = port.ok_or_else(|| ApiError::invalid(format!("Cluster {name} is not RUNNING")))?;
    let host = simulation.inner_host(&cluster, node.as_deref());
    let password = simulation
        .sign_login(&call.caller.access_key, user, &host)
        .ok_or_else(|| ApiError::new(500, "InternalServerException", "could not sign"))?;
    Ok(json!({ "signedConnectionString": format!(":tcps://localhost:{port}:{user}:{password}") }))
}

fn environment(call: &Call<'_>, state: &SimulatedState) -> Json {
    let id = &call.simulation.environment;
    without_null(json!({
        "name": state.environment_name,
        "environmentId": id,
        "awsAccountId": ACCOUNT,
        "status": "CREATED",
        "tgwStatus": "NONE",
        "dnsStatus": "NONE",
        "description": state.environment_description,
        "environmentArn": arn::environment(id),
        "dedicatedServiceAccountId": ACCOUNT,
        "creationTimestamp": seconds(call.simulation.started),
        "updateTimestamp": seconds(call.simulation.started),
        "availabilityZoneIds": ["use1-az1", "use1-az2", "use1-az3"],
    }))
}

fn update_environment(call: &Call<'_>) -> Result<Json, ApiError> {
    let body = call.json_body()?;
    call.simulation.update(|state| {
        if let Some(name) = body["name"].as_str() {
            name.clone_into(&mut state.environment_name);
        }
        if let Some(description) = body["description"].as_str() {
            state.environment_description = Some(description.to_owned());
        }
    });
    Ok(call.simulation.read(|state| environment(call, state)))
}

const AZ_MODES: [&str; 2] = ["SINGLE", "MULTI"];

const CLUSTER_TYPES: [&str; 5] = ["HDB", "RDB", "GATEWAY", "GP", "TICKERPLANT"];

fn list_clusters(call: &Call<'_>) -> Result<Json, ApiError> {
    let kind = call.query("clusterType");
    if let Some(kind) = kind.as_deref().filter(|kind| !CLUSTER_TYPES.contains(kind)) {
        return Err(ApiError::invalid(format!(
            "clusterType {kind} does not exist"
        )));
    }
    let clusters = call.simulation.read(|state| {
        let wanted = |cluster: &&Cluster| kind.as_ref().is_none_or(|kind| *kind == cluster.kind);
        state
            .clusters
            .values()
            .filter(wanted)
            .map(cluster_json)
            .collect()
    });
    call.page("kxClusterSummaries", clusters)
}

fn get_cluster(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    let cluster = call
        .simulation
        .read(|state| state.clusters.get(name).cloned())
        .ok_or_else(|| ApiError::not_found(format!("Cluster {name} not found")))?;
    let mut json = cluster_json(&cluster);
    // In the service model `nodeCount` is at least 1.
    if !cluster.nodes.is_empty() {
        json["capacityConfiguration"] =
            json!({ "nodeType": "kx.s.xlarge", "nodeCount": cluster.nodes.len() });
    }
    Ok(json)
}

fn create_cluster(call: &Call<'_>) -> Result<Json, ApiError> {
    let body = call.json_body()?;
    let text = |name: &str| required(body[name].as_str().map(str::to_owned), name);
    let name = text("clusterName")?;
    let kind = text("clusterType")?;
    text("releaseLabel")?;
    let zones = text("azMode")?;
    if !AZ_MODES.contains(&zones.as_str()) {
        return Err(ApiError::invalid(format!("azMode {zones} does not exist")));
    }
    if !names::is_cluster(&name) {
        return Err(ApiError::invalid(format!(
            "clusterName {name} is not valid"
        )));
    }
    if !body["vpcConfiguration"].is_object() {
        return Err(ApiError::invalid("vpcConfiguration is required"));
    }
    if !CLUSTER_TYPES.contains(&kind.as_str()) {
        return Err(ApiError::invalid(format!(
            "clusterType {kind} does not exist"
        )));
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
        created: call.simulation.now(),
    };
    call.simulation.update(|state| {
        if state.clusters.contains_key(&name) {
            return Err(ApiError::new(
                409,
                "ConflictException",
                format!("Cluster {name} exists"),
            ));
        }
        let mut json = cluster_json(&cluster);
        json["environmentId"] = json!(call.simulation.environment);
        state.clusters.insert(name.clone(), cluster);
        Ok(json)
    })
}

fn delete_cluster(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    call.simulation
        .update(|state| {
            for connection in &state.connections {
                if connection.cluster() == name {
                    connection.cut(Cut::Fin);
                }
            }
            state.clusters.remove(name)
        })
        .map(|_| json!({}))
        .ok_or_else(|| ApiError::not_found(format!("Cluster {name} not found")))
}

fn list_nodes(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    let nodes = call
        .simulation
        .read(|state| {
            let cluster = state.clusters.get(name)?;
            Some(cluster.nodes.iter().map(node_json).collect())
        })
        .ok_or_else(|| ApiError::not_found(format!("Cluster {name} not found")))?;
    call.page("nodes", nodes)
}

fn delete_node(call: &Call<'_>, cluster: &str, node: &str) -> Result<Json, ApiError> {
    let found = call.simulation.update(|state| {
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
    found.ok_or_else(|| ApiError::not_found(format!("Node {node} not found")))
}

fn list_users(call: &Call<'_>) -> Result<Json, ApiError> {
    let users = call.simulation.read(|state| {
        let json = |user: &FinSpaceUser| {
            let mut json = user_json(call, user);
            // The users in a list have no `environmentId`.
            json["environmentId"].take();
            json["createTimestamp"] = seconds(user.created);
            json["updateTimestamp"] = seconds(user.updated);
            without_null(json)
        };
        state.users.values().map(json).collect()
    });
    call.page("users", users)
}

fn get_user(call: &Call<'_>, name: &str) -> Result<Json, ApiError> {
    call.simulation
        .read(|state| state.users.get(name).map(|user| user_json(call, user)))
        .ok_or_else(|| ApiError::not_found(format!("User {name} not found")))
}

/// CreateKxUser, or UpdateKxUser for an existing user.
fn put_user(call: &Call<'_>, existing: Option<&str>) -> Result<Json, ApiError> {
    let body = call.json_body()?;
    let role = required(body["iamRole"].as_str().map(str::to_owned), "iamRole")?;
    let name = match existing {
        Some(name) => name.to_owned(),
        None => required(body["userName"].as_str().map(str::to_owned), "userName")?,
    };
    if !names::is_user(&name) {
        return Err(ApiError::invalid(format!("userName {name} is not valid")));
    }
    if !names::is_role(&role) {
        return Err(ApiError::invalid(format!("iamRole {role} is not valid")));
    }
    let now = call.simulation.now();
    call.simulation.update(|state| {
        let created = match (state.users.get(&name), existing) {
            (None, Some(name)) => {
                return Err(ApiError::not_found(format!("User {name} not found")));
            }
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
        let user = FinSpaceUser {
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
    call.simulation
        .update(|state| state.users.remove(name))
        .map(|_| json!({}))
        .ok_or_else(|| ApiError::not_found(format!("User {name} not found")))
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

fn node_json(node: &ClusterNode) -> Json {
    json!({
        "nodeId": node.id,
        "availabilityZoneId": node.zone,
        "launchTime": seconds(node.launched),
        "status": "RUNNING",
    })
}

fn user_json(call: &Call<'_>, user: &FinSpaceUser) -> Json {
    json!({
        "userName": user.name,
        "userArn": call.simulation.user_arn(&user.name),
        "environmentId": call.simulation.environment,
        "iamRole": user.role,
    })
}

/// The value of a required parameter.
fn required(value: Option<String>, name: &str) -> Result<String, ApiError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| ApiError::invalid(format!("{name} is required")))
}

/// Removes the keys whose value is null.
fn without_null(mut json: Json) -> Json {
    if let Some(object) = json.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    json
}

/// A timestamp of REST-JSON: seconds since 1970.
fn seconds(time: SystemTime) -> Json {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    json!(seconds)
}
