//! What an environment has: clusters and their nodes.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::Asked;
use super::{AwsError, FinSpace};
use crate::config::Environment;

/// A cluster, as ListKxClusters tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// `clusterName`.
    pub name: String,
    /// `clusterType`: HDB, RDB, GATEWAY, GP, TICKERPLANT.
    pub kind: String,
    /// `status`: RUNNING, CREATING, …
    pub status: String,
    /// `clusterDescription`, empty without one.
    pub description: String,
}

/// A node of a cluster, as ListKxClusterNodes tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `nodeId`.
    pub id: String,
    /// `availabilityZoneId`.
    pub zone: String,
    /// `launchTime`, where it is told.
    pub launched: Option<SystemTime>,
    /// `status`: RUNNING, PROVISIONING.
    pub status: String,
}

impl Node {
    /// Whether it takes connections.
    pub fn is_running(&self) -> bool {
        self.status == "RUNNING"
    }
}

impl FinSpace {
    /// Every cluster of an environment, in the service's order, with the daemon's own credentials.
    pub async fn clusters(&self, environment: &Arc<Environment>) -> Result<Vec<Cluster>, AwsError> {
        let asked = asked(
            "finspace:ListKxClusters",
            format!("environment {}", environment.id),
        );
        let clients = self.clients(environment).await;
        let mut clusters = Vec::new();
        let mut next = None;
        // The model has no paginator for this one.
        loop {
            let page = clients
                .finspace
                .list_kx_clusters()
                .environment_id(&environment.id)
                .set_next_token(next)
                .send()
                .await
                .map_err(|error| AwsError::of_call(&asked, &error))?;
            clusters.extend(page.kx_cluster_summaries.unwrap_or_default());
            next = page.next_token;
            if next.is_none() {
                break;
            }
        }
        let clusters = clusters.into_iter().map(|cluster| Cluster {
            name: cluster.cluster_name.unwrap_or_default(),
            kind: text(cluster.cluster_type),
            status: text(cluster.status),
            description: cluster.cluster_description.unwrap_or_default(),
        });
        Ok(clusters.collect())
    }

    /// Every node of a cluster, in the service's order, with the daemon's own credentials.
    pub async fn nodes(
        &self,
        environment: &Arc<Environment>,
        cluster: &str,
    ) -> Result<Vec<Node>, AwsError> {
        let asked = asked(
            "finspace:ListKxClusterNodes",
            format!("cluster {cluster} in environment {}", environment.id),
        );
        let clients = self.clients(environment).await;
        let mut pages = clients
            .finspace
            .list_kx_cluster_nodes()
            .environment_id(&environment.id)
            .cluster_name(cluster)
            .into_paginator()
            .send();
        let mut nodes = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| AwsError::of_call(&asked, &error))?;
            nodes.extend(page.nodes.unwrap_or_default());
        }
        let nodes = nodes.into_iter().map(|node| Node {
            id: node.node_id.unwrap_or_default(),
            zone: node.availability_zone_id.unwrap_or_default(),
            launched: node
                .launch_time
                .and_then(|time| SystemTime::try_from(time).ok()),
            status: text(node.status),
        });
        Ok(nodes.collect())
    }
}

fn asked(action: &'static str, resource: String) -> Asked {
    Asked {
        action,
        as_whom: "the daemon's own AWS credentials".into(),
        resource,
        remedy: format!("allow {action} to the daemon's role"),
    }
}

fn text(value: Option<impl AsRef<str>>) -> String {
    value.map_or_else(String::new, |value| value.as_ref().to_owned())
}
