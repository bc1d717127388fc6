//! What an environment has: clusters and their nodes.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::{Asked, partition_of};
use super::{AwsError, FinSpace, StringRequest, finspace};
use crate::config::{Environment, User};

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
    /// Every cluster of an environment, in the service's order. Asked with the daemon's own
    /// credentials, or as the role of a user.
    pub async fn clusters(
        &self,
        environment: &Arc<Environment>,
        user: Option<&User>,
    ) -> Result<Vec<Cluster>, AwsError> {
        let (client, as_whom) = self.asker(environment, user).await?;
        let asked = asked(
            &["finspace:ListKxClusters"],
            as_whom,
            format!("environment {}", environment.id),
            arn(environment, ""),
        );
        let mut clusters = Vec::new();
        let mut next = None;
        // The model has no paginator for this one.
        loop {
            let page = client
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

    /// Every node of a cluster, in the service's order. Asked with the daemon's own credentials, or
    /// as the role of a user.
    pub async fn nodes(
        &self,
        environment: &Arc<Environment>,
        cluster: &str,
        user: Option<&User>,
    ) -> Result<Vec<Node>, AwsError> {
        let (client, as_whom) = self.asker(environment, user).await?;
        let asked = asked(
            &["finspace:ListKxClusterNodes"],
            as_whom,
            format!("cluster {cluster} in environment {}", environment.id),
            arn(environment, &format!("/kxCluster/{cluster}")),
        );
        let mut pages = client
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

    /// Who asks: a client, and whose credentials it has; none for the daemon's own.
    async fn asker(
        &self,
        environment: &Arc<Environment>,
        user: Option<&User>,
    ) -> Result<(finspace::Client, Option<String>), AwsError> {
        let clients = self.clients(environment).await;
        let Some(user) = user else {
            return Ok((clients.finspace.clone(), None));
        };
        let request = StringRequest {
            environment,
            cluster: "",
            kx_user: &user.kx_user,
            role: user.role_arn.as_ref(),
            local_user: &user.name,
        };
        let known = clients.user(&request).await?;
        let session = clients.assume_role(&known.role, &user.name).await?;
        Ok((clients.as_role(&session), Some(known.role)))
    }
}

fn asked(
    allow: &'static [&'static str; 1],
    as_whom: Option<String>,
    resource: String,
    arn: String,
) -> Asked {
    let [action] = allow;
    let role = as_whom.clone();
    Asked {
        action,
        allow,
        as_whom: as_whom.unwrap_or_else(|| "the daemon's own AWS credentials".into()),
        resource,
        arn,
        remedy: format!(
            "allow {action} to {}",
            role.as_deref().unwrap_or("the daemon's role")
        ),
    }
}

/// Of the environment, or of what is in it. The account is not known here.
fn arn(environment: &Environment, within: &str) -> String {
    let Environment { region, id, .. } = environment;
    let partition = partition_of(region);
    format!("arn:{partition}:finspace:{region}:*:kxEnvironment/{id}{within}")
}

fn text(value: Option<impl AsRef<str>>) -> String {
    value.map_or_else(String::new, |value| value.as_ref().to_owned())
}
