//! The `.aws` functions that FinSpace gives a q process on a cluster.

use std::time::Duration;

use super::state::Shared;
use crate::finspace::{Cluster, Node, q_api};
use crate::q::value::Value;

/// How long the session lives that a node signs with.
const NODE_SESSION: Duration = Duration::from_secs(3600);

/// `.aws.list_kx_clusters[]`.
pub(super) fn clusters(shared: &Shared) -> Value {
    let clusters: Vec<_> = shared.look(|state| {
        let clusters = state.clusters.values();
        clusters
            .map(|cluster| Cluster {
                name: cluster.name.clone(),
                kind: cluster.kind.to_string(),
                status: cluster.status.to_string(),
                description: cluster.description.clone(),
            })
            .collect()
    });
    Value::Table(q_api::clusters(&clusters))
}

/// `.aws.list_kx_cluster_nodes[cluster]`.
pub(super) fn nodes(shared: &Shared, cluster: &str) -> Result<Value, String> {
    let nodes: Vec<_> = shared.look(|state| {
        let cluster = state
            .clusters
            .get(cluster)
            .ok_or_else(|| missing(cluster))?;
        let nodes = cluster.nodes.iter().map(|node| Node {
            id: node.id.clone(),
            zone: node.zone.clone(),
            launched: Some(node.launched),
            status: String::new(),
        });
        Ok::<_, String>(nodes.collect())
    })?;
    Ok(Value::Table(q_api::nodes(&nodes)))
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
