//! Discovery: the clusters of an environment, and the nodes of a cluster.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::{AwsService, CallContext, DAEMON_IDENTITY};
use super::{AwsError, Clients, FinSpace, FinSpaceUser, StringRequest, finspace};
use crate::arn::EnvironmentArn;
use crate::environment::Environment;

/// A cluster, as ListKxClusters returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The name (`clusterName`), unique in its environment.
    pub name: String,
    /// The type (`clusterType`): HDB, RDB, GATEWAY, GP or TICKERPLANT.
    pub kind: String,
    /// The status, such as RUNNING or CREATING.
    pub status: String,
    /// The description (`clusterDescription`). Empty if it has none.
    pub description: String,
}

/// A node of a cluster, as ListKxClusterNodes returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The id (`nodeId`), never empty.
    pub id: String,
    /// The id of the availability zone (`availabilityZoneId`), such as `use1-az1`. May be empty.
    pub zone: String,
    /// The time of the launch (`launchTime`), if FinSpace tells it.
    pub launched: Option<SystemTime>,
    /// The status: RUNNING or PROVISIONING.
    pub status: String,
}

impl Node {
    /// Whether the node accepts connections.
    pub fn is_running(&self) -> bool {
        self.status == "RUNNING"
    }
}

impl FinSpace {
    /// Lists every cluster of an environment, in FinSpace's order. Calls ListKxClusters with the base
    /// credentials, or as the role of `user`.
    ///
    /// # Errors
    /// AWS refuses the call or does not answer.
    pub async fn clusters(
        &self,
        environment: &Arc<Environment>,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<Vec<Cluster>, AwsError> {
        let clients = self.clients(environment).await;
        let listed = clients.list_clusters(environment, user).await;
        self.checked(environment, &clients, listed).await
    }

    /// Lists every node of a cluster, in FinSpace's order. Calls ListKxClusterNodes with the base
    /// credentials, or as the role of `user`. A node without an id is left out.
    ///
    /// # Errors
    /// AWS refuses the call or does not answer.
    pub async fn nodes(
        &self,
        environment: &Arc<Environment>,
        cluster: &str,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<Vec<Node>, AwsError> {
        let clients = self.clients(environment).await;
        let listed = clients.list_nodes(environment, cluster, user).await;
        self.checked(environment, &clients, listed).await
    }
}

impl Clients {
    async fn list_clusters(
        &self,
        environment: &Arc<Environment>,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<Vec<Cluster>, AwsError> {
        let caller = self.listing_caller(environment, user).await?;
        let context = caller.context(
            &["finspace:ListKxClusters"],
            format!("environment {}", environment.id),
            EnvironmentArn::in_any_account(environment).to_string(),
        );
        let mut clusters = Vec::new();
        let mut next: Option<String> = None;
        // The SDK has no paginator for this operation.
        loop {
            let page = caller
                .client
                .list_kx_clusters()
                .environment_id(&environment.id)
                .set_next_token(next.clone())
                .send()
                .await
                .map_err(|error| AwsError::of_call(&context, &error))?;
            clusters.extend(page.kx_cluster_summaries.unwrap_or_default());
            let following = page.next_token.filter(|token| !token.is_empty());
            if following.is_none() {
                break;
            }
            if following == next {
                let why = "ListKxClusters gives the same page again and again";
                return Err(AwsError::malformed(AwsService::FinSpace, why.into()));
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
        let caller = self.listing_caller(environment, user).await?;
        let context = caller.context(
            &["finspace:ListKxClusterNodes"],
            format!("cluster {cluster} in environment {}", environment.id),
            EnvironmentArn::in_any_account(environment).cluster(cluster),
        );
        let mut pages = caller
            .client
            .list_kx_cluster_nodes()
            .environment_id(&environment.id)
            .cluster_name(cluster)
            .into_paginator()
            .send();
        let mut nodes = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| AwsError::of_call(&context, &error))?;
            nodes.extend(page.nodes.unwrap_or_default());
        }
        // No connection string can be requested for a node without an id.
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

    /// The caller of a list: the role of `user`, or the daemon itself.
    async fn listing_caller(
        &self,
        environment: &Arc<Environment>,
        user: Option<FinSpaceUser<'_>>,
    ) -> Result<ListingCaller, AwsError> {
        let Some(user) = user else {
            return Ok(ListingCaller {
                client: self.finspace.clone(),
                role: None,
            });
        };
        let request = StringRequest {
            environment,
            cluster: "",
            kx_user: user.kx_user,
            role: user.role,
            local_user: user.local_user,
        };
        let kx_user = self.user(&request).await?;
        let session = self.assume_role(&kx_user.role, user.local_user).await?;
        Ok(ListingCaller {
            client: self.as_role(&session),
            role: Some(kx_user.role),
        })
    }
}

/// A client and the identity that its credentials belong to.
struct ListingCaller {
    client: finspace::Client,
    /// The role of a user. None means the daemon's own credentials.
    role: Option<String>,
}

impl ListingCaller {
    /// The facts about a call that an error message needs.
    fn context(
        &self,
        actions: &'static [&'static str; 1],
        resource: String,
        resource_arn: String,
    ) -> CallContext {
        let [action] = actions;
        let grantee = self.role.as_deref().unwrap_or("the daemon's role");
        CallContext {
            action,
            needed_actions: actions,
            identity: self.role.as_deref().unwrap_or(DAEMON_IDENTITY).to_owned(),
            resource,
            resource_arn,
            remedy: format!("allow {action} to {grantee}"),
        }
    }
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
        assert!(error.is_credential_fault, "{error}");
        write_key(&folder, "NEW");
        aws.nodes(&environment, "hdb", None).await.unwrap();
    }
}
