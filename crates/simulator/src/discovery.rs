//! The `.aws` functions that FinSpace provides to q processes on a cluster.

use std::time::Duration;

use super::state::Simulation;
use q_ipc::time;
use q_ipc::value::{Table, Value};

/// The life of the session with which a node signs connection strings.
const NODE_SESSION: Duration = Duration::from_secs(3600);

/// `.aws.list_kx_clusters[]`: a table with the columns that the user guide's "q API reference" lists.
/// Texts are char vectors.
pub(crate) fn clusters(simulation: &Simulation) -> Value {
    let table = simulation.read(|state| {
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

/// `.aws.list_kx_cluster_nodes[cluster]`: a table with IDs and zones as char vectors and launch times as
/// timestamps.
pub(crate) fn nodes(simulation: &Simulation, cluster: &str) -> Result<Value, String> {
    simulation.read(|state| {
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

/// `.aws.get_kx_connection_string[cluster]`, or with a node
/// `.aws.get_kx_node_connection_string[cluster;node]`. A session of the user's role signs the string.
///
/// # Errors
/// The name and text of AWS's error.
pub(crate) fn connection_string(
    simulation: &Simulation,
    user: &str,
    cluster: &str,
    node: Option<&str>,
) -> Result<Value, String> {
    let (role, port) = simulation.read(|state| {
        let role = state
            .users
            .get(user)
            .map(|user| user.role.clone())
            .ok_or_else(|| format!("ResourceNotFoundException: user {user}"))?;
        let cluster = state
            .clusters
            .get(cluster)
            .ok_or_else(|| missing(cluster))?;
        let port = match node {
            None => cluster.port,
            Some(id) => {
                let found = cluster.nodes.iter().find(|node| node.id == id);
                Some(found.ok_or_else(|| missing(id))?.port)
            }
        };
        Ok::<_, String>((role, port.ok_or("ValidationException: not RUNNING")?))
    })?;
    let session = simulation.issue_session(&role, "node", NODE_SESSION);
    let action = "finspace:GetKxConnectionString";
    simulation
        .permit(&session.caller(), action, &simulation.cluster_arn(cluster))
        .map_err(|why| format!("AccessDeniedException: {why}"))?;
    let host = simulation.inner_host(cluster, node);
    let password = simulation
        .sign_login(&session.access_key, user, &host)
        .ok_or("InternalServerException")?;
    Ok(Value::text(&format!(
        ":tcps://localhost:{port}:{user}:{password}"
    )))
}

fn missing(name: &str) -> String {
    format!("ResourceNotFoundException: {name}")
}
