//! The `.aws` functions that FinSpace gives a q process on a cluster.
//!
//! Names and descriptions are char vectors, launch times are timestamps.
//!
//! Source: FinSpace user guide, "q API reference".

use std::time::{Duration, SystemTime};

use super::state::Shared;
use crate::q::value::{Table, Value};

/// 2000-01-01 in seconds since 1970.
const Q_EPOCH: u64 = 946_684_800;

/// How long the session lives that a node signs with.
const NODE_SESSION: Duration = Duration::from_secs(3600);

/// `.aws.list_kx_clusters[]`.
pub(super) fn clusters(shared: &Shared) -> Value {
    shared.look(|state| {
        let clusters = state.clusters.values();
        Value::Table(
            Table::new()
                .with(
                    "cluster_name",
                    Value::texts(clusters.clone().map(|c| &c.name)),
                )
                .with("status", Value::texts(clusters.clone().map(|c| c.status)))
                .with(
                    "cluster_type",
                    Value::texts(clusters.clone().map(|c| &c.kind)),
                )
                .with(
                    "description",
                    Value::texts(clusters.map(|c| &c.description)),
                ),
        )
    })
}

/// `.aws.list_kx_cluster_nodes[cluster]`.
pub(super) fn nodes(shared: &Shared, cluster: &str) -> Result<Value, String> {
    shared.look(|state| {
        let cluster = state
            .clusters
            .get(cluster)
            .ok_or_else(|| missing(cluster))?;
        let nodes = cluster.nodes.iter();
        Ok(Value::Table(
            Table::new()
                .with("node_id", Value::texts(nodes.clone().map(|n| &n.id)))
                .with("az_id", Value::texts(nodes.clone().map(|n| &n.zone)))
                .with(
                    "launch_time",
                    Value::Timestamps(nodes.map(|n| timestamp(n.launched)).collect()),
                ),
        ))
    })
}

/// `.aws.get_kx_connection_string[cluster]` and, with a node,
/// `.aws.get_kx_node_connection_string[cluster;node]`: signed by a session of the user's role.
pub(super) fn connection_string(
    shared: &Shared,
    user: &str,
    cluster: &str,
    node: Option<&str>,
) -> Result<Value, String> {
    let (role, port) = shared.look(|state| {
        let role = state
            .users
            .get(user)
            .map(|user| user.role.clone())
            .ok_or_else(|| format!("ResourceNotFoundException: user {user}"))?;
        let place = state
            .clusters
            .get(cluster)
            .ok_or_else(|| missing(cluster))?;
        let port = match node {
            None => place.port,
            Some(id) => {
                let found = place.nodes.iter().find(|node| node.id == id);
                Some(found.ok_or_else(|| missing(id))?.port)
            }
        };
        Ok::<_, String>((role, port.ok_or("ValidationException: not RUNNING")?))
    })?;
    let session = shared.issue_session(&role, "node", NODE_SESSION);
    let action = "finspace:GetKxConnectionString";
    shared
        .permit(&session.caller(), action, &shared.cluster_arn(cluster))
        .map_err(|why| format!("AccessDeniedException: {why}"))?;
    let host = shared.inner_host(cluster, node);
    let password = shared
        .sign_login(&session.access_key, user, &host)
        .ok_or("InternalServerException")?;
    Ok(Value::text(&format!(
        ":tcps://localhost:{port}:{user}:{password}"
    )))
}

/// Nanoseconds since 2000.
pub(super) fn timestamp(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(Q_EPOCH))
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(i64::MIN)
}

fn missing(name: &str) -> String {
    format!("ResourceNotFoundException: {name}")
}
