//! Lists of clusters and nodes as q tables, as the `.aws` functions of a FinSpace cluster return them.
//!
//! Names and descriptions are char vectors. Launch times are timestamps, null if FinSpace tells none.
//!
//! Source: FinSpace user guide, "q API reference".

use super::{Cluster, Node};
use q_ipc::time;
use q_ipc::value::{Table, Value};

/// The table that `.aws.list_kx_clusters[]` returns, with the columns `cluster_name`, `status`,
/// `cluster_type` and `description`.
pub fn clusters(clusters: &[Cluster]) -> Table {
    let texts = |column: fn(&Cluster) -> &str| Value::texts(clusters.iter().map(column));
    Table::new()
        .with("cluster_name", texts(|cluster| &cluster.name))
        .with("status", texts(|cluster| &cluster.status))
        .with("cluster_type", texts(|cluster| &cluster.kind))
        .with("description", texts(|cluster| &cluster.description))
}

/// The table that `.aws.list_kx_cluster_nodes[cluster]` returns, with the columns `node_id`, `az_id` and
/// `launch_time`.
pub fn nodes(nodes: &[Node]) -> Table {
    let texts = |column: fn(&Node) -> &str| Value::texts(nodes.iter().map(column));
    let launched = nodes
        .iter()
        .map(|node| node.launched.map_or(time::NULL, time::timestamp));
    Table::new()
        .with("node_id", texts(|node| &node.id))
        .with("az_id", texts(|node| &node.zone))
        .with("launch_time", Value::Timestamps(launched.collect()))
}
