//! What an environment has: clusters and their nodes.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::{Asked, AwsService, partition_of};
use super::{AwsError, Clients, FinSpace, StringRequest, finspace};
use crate::FinSpaceUser;
use crate::environment::Environment;

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
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<Vec<Cluster>, AwsError> {
        let clients = self.clients(environment).await;
        let listed = clients.list_clusters(environment, user).await;
        self.told(environment, &clients, listed).await
    }

    /// Every node of a cluster, in the service's order. Asked with the daemon's own credentials, or
    /// as the role of a user.
    pub async fn nodes(
        &self,
        environment: &Arc<Environment>,
        cluster: &str,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<Vec<Node>, AwsError> {
        let clients = self.clients(environment).await;
        let listed = clients.list_nodes(environment, cluster, user).await;
        self.told(environment, &clients, listed).await
    }
}

impl Clients {
    async fn list_clusters(
        &self,
        environment: &Arc<Environment>,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<Vec<Cluster>, AwsError> {
        let (client, as_whom) = self.asker(environment, user).await?;
        let asked = asked(
            &["finspace:ListKxClusters"],
            as_whom,
            format!("environment {}", environment.id),
            arn(environment, ""),
        );
        let mut clusters = Vec::new();
        let mut next: Option<String> = None;
        // The model has no paginator for this one.
        loop {
            let page = client
                .list_kx_clusters()
                .environment_id(&environment.id)
                .set_next_token(next.clone())
                .send()
                .await
                .map_err(|error| AwsError::of_call(&asked, &error))?;
            clusters.extend(page.kx_cluster_summaries.unwrap_or_default());
            let following = page.next_token.filter(|token| !token.is_empty());
            if following.is_none() {
                break;
            }
            if following == next {
                let why = "ListKxClusters gives the same page again and again";
                return Err(AwsError::garbled(AwsService::FinSpace, why.into()));
            }
            next = following;
        }
        let clusters = clusters.into_iter().map(|cluster| Cluster {
            name: cluster.cluster_name.unwrap_or_default(),
            kind: text(cluster.cluster_type),
            status: text(cluster.status),
            description: cluster.cluster_description.unwrap_or_default(),
        });
        Ok(clusters.collect())
    }

    async fn list_nodes(
        &self,
        environment: &Arc<Environment>,
        cluster: &str,
        user: Option<FinSpaceUser<'_>>,
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
        // One without an id can't be asked for.
        let nodes = nodes.into_iter().filter_map(|node| {
            Some(Node {
                id: node.node_id.filter(|id| !id.is_empty())?,
                zone: node.availability_zone_id.unwrap_or_default(),
                launched: node
                    .launch_time
                    .and_then(|time| SystemTime::try_from(time).ok()),
                status: text(node.status),
            })
        });
        Ok(nodes.collect())
    }

    /// Who asks: a client, and whose credentials it has; none for the daemon's own.
    async fn asker(
        &self,
        environment: &Arc<Environment>,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<(finspace::Client, Option<String>), AwsError> {
        let Some(user) = user else {
            return Ok((self.finspace.clone(), None));
        };
        let request = StringRequest {
            environment,
            cluster: "",
            kx_user: user.kx_user,
            role: user.role,
            local_user: user.local_user,
        };
        let known = self.user(&request).await?;
        let session = self.assume_role(&known.role, user.local_user).await?;
        Ok((self.as_role(&session), Some(known.role)))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{HeaderMap, StatusCode};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// An API that turns the access key OLD away, and else gives the same page for ever.
    async fn api() -> String {
        let answer = |headers: HeaderMap| async move {
            let signed = headers["authorization"].to_str().unwrap_or_default();
            if signed.contains("=OLD/") {
                let expired = r#"{"message":"it is over"}"#;
                let code = [("x-amzn-errortype", "ExpiredTokenException")];
                return (StatusCode::FORBIDDEN, code, expired);
            }
            let page = r#"{"kxClusterSummaries":[{"clusterName":"hdb"}],"nextToken":"x",
                "nodes":[{"availabilityZoneId":"use1-az1"},{"nodeId":"a","status":"RUNNING"}]}"#;
            (StatusCode::OK, [("x-amzn-errortype", "")], page)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn write_key(folder: &tempfile::TempDir, key: &str) -> std::path::PathBuf {
        let path = folder.path().join("credentials");
        let text = format!("[hopend]\naws_access_key_id = {key}\naws_secret_access_key = s\n");
        std::fs::write(&path, text).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, closed).unwrap();
        path
    }

    async fn environment(folder: &tempfile::TempDir, key: &str) -> Arc<Environment> {
        Arc::new(Environment {
            name: "prod".into(),
            id: "sdb3moagybykax4oexvsq4".into(),
            region: "us-east-1".into(),
            profile: Some("hopend".into()),
            credentials_file: Some(write_key(folder, key)),
            endpoint_url: Some(api().await),
            sts_endpoint_url: None,
            ca_file: None,
        })
    }

    #[tokio::test]
    async fn pages_that_repeat_end() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(&folder, "NEW").await;
        let aws = FinSpace::default();
        let error = timeout(LIMIT, aws.clusters(&environment, None)).await;
        let error = error.expect("it asks for ever").unwrap_err();
        assert!(error.message.contains("the same page"), "{error}");
    }

    #[tokio::test]
    async fn a_node_without_an_id_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(&folder, "NEW").await;
        let nodes = FinSpace::default().nodes(&environment, "hdb", None).await;
        assert!(nodes.unwrap().iter().all(|node| node.id == "a"));
    }

    #[tokio::test]
    async fn credentials_that_were_renewed_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(&folder, "OLD").await;
        let aws = FinSpace::default();
        let error = aws.nodes(&environment, "hdb", None).await.unwrap_err();
        assert!(error.credentials, "{error}");
        write_key(&folder, "NEW");
        aws.nodes(&environment, "hdb", None).await.unwrap();
    }
}
