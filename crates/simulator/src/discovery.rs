//! The `.aws` functions that FinSpace gives a q process on a cluster.

use std::time::Duration;

use super::state::Shared;
use q_ipc::time;
use q_ipc::value::{Table, Value};

/// How long the session lives that a node signs with.
const NODE_SESSION: Duration = Duration::from_secs(3600);

/// `.aws.list_kx_clusters[]`: the columns of the user guide's "q API reference", texts as char vectors.
pub(super) fn clusters(shared: &Shared) -> Value {
    let table = shared.look(|state| {
        let clusters = || state.clusters.values();
        Table::new()
            .with("cluster_name", Value::texts(clusters().map(|c| &c.name)))
            .with(
                "status",
                Value::texts(clusters().map(|c| c.status.to_string())),
            )
            .with(
                "cluster_type",
                Value::texts(clusters().map(|c| c.kind.to_string())),
            )
            .with(
                "description",
                Value::texts(clusters().map(|c| &c.description)),
            )
    });
    Value::Table(table)
}

/// `.aws.list_kx_cluster_nodes[cluster]`: names and zones as char vectors, launch times as timestamps.
pub(super) fn nodes(shared: &Shared, cluster: &str) -> Result<Value, String> {
    shared.look(|state| {
        let cluster = state
            .clusters
            .get(cluster)
            .ok_or_else(|| missing(cluster))?;
        let nodes = || cluster.nodes.iter();
        let launched = nodes().map(|node| time::timestamp(node.launched));
        let table = Table::new()
            .with("node_id", Value::texts(nodes().map(|node| &node.id)))
            .with("az_id", Value::texts(nodes().map(|node| &node.zone)))
            .with("launch_time", Value::Timestamps(launched.collect()));
        Ok(Value::Table(table))
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

fn missing(name: &str) -> String {
    format!("ResourceNotFoundException: {name}")
}
