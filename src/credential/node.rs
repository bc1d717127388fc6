//! Asks a cluster over q for the connection string of one of its nodes.
//!
//! Source: FinSpace user guide, "q API reference": `.aws.get_kx_node_connection_string`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Credential, FetchError, Retry};
use crate::upstream::tls::TlsConfigs;
use crate::upstream::{self, UpstreamError};
use base::error::{ErrorKind, chain};
use base::kdb_address::KdbAddress;
use finspace::connection_string::ConnectionString;
use finspace::environment::Environment;
use q_ipc::handshake::Hello;
use q_ipc::value::Value;
use secret::Secret;

/// The longest time from the dial to the response.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// The longest time for the dial and the login.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// The capability that hopend announces: the highest without messages of more than 2 GB.
const CAPABILITY: u8 = 3;

/// Why the cluster gave no connection string.
#[derive(Debug, thiserror::Error)]
enum NodeStringError {
    #[error("{0}")]
    Tls(#[from] upstream::tls::TlsError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Query(#[from] upstream::QueryError),
    #[error("no answer within {} s", TIME_LIMIT.as_secs())]
    Slow,
    #[error("it answered '{0}")]
    Refused(String),
    #[error("its own connection string is without TLS ({0}), and nothing was sent")]
    Plaintext(KdbAddress),
    #[error("{0:?} is not the name of a cluster or node")]
    Name(String),
    #[error("it returned no connection string: {0}")]
    NoString(finspace::connection_string::ConnectionStringError),
}

/// Logs in to the cluster with `login`, the cluster's own connection string, and asks for the
/// connection string of the node.
///
/// # Errors
/// hopend cannot reach the cluster, the cluster does not know the node, or its answer is no connection
/// string.
pub(crate) async fn ask_cluster(
    environment: &Arc<Environment>,
    cluster: &str,
    node: &str,
    login: Credential,
) -> Result<Credential, FetchError> {
    let asked = timeout(TIME_LIMIT, node_string(environment, cluster, node, &login)).await;
    let string = asked.unwrap_or(Err(NodeStringError::Slow)).map_err(|error| {
        let denied = matches!(
            error,
            NodeStringError::Refused(_) | NodeStringError::Plaintext(_) | NodeStringError::Name(_)
        );
        let connect = matches!(error, NodeStringError::Upstream(UpstreamError::Rejected { .. }));
        FetchError {
            kind: ErrorKind::Upstream,
            retry: if denied { Retry::Refused } else { Retry::Soon },
            message: format!(
                "cluster {cluster} gave no connection string for node {node}: {}",
                chain(&error)
            ),
            remedy: if connect {
                format!("allow finspace:ConnectKxCluster on cluster {cluster} to the user's role")
            } else {
                "check with node = \"any\" that this host reaches the cluster, as node_via = \"cluster\" \
                 needs it, or set node_via = \"api\""
                    .into()
            },
        }
    })?;
    Ok(Credential {
        valid_for: [string.valid_for(), login.valid_for]
            .into_iter()
            .flatten()
            .min(),
        issuer_time: login.issuer_time,
        expires: [string.expires(), login.expires]
            .into_iter()
            .flatten()
            .min(),
        address: Some(string.address),
        user: string.user,
        password: string.password,
    })
}

async fn node_string(
    environment: &Arc<Environment>,
    cluster: &str,
    node: &str,
    login: &Credential,
) -> Result<ConnectionString, NodeStringError> {
    // The names become part of a q expression, so they must not contain q code.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    for name in [cluster, node] {
        if name.is_empty() || !name.chars().all(plain) {
            return Err(NodeStringError::Name(name.to_owned()));
        }
    }
    let address = login
        .address
        .as_ref()
        .ok_or_else(|| garbled("no address"))?;
    // Without TLS, anyone who reads the login on the network could use it until it expires.
    if !address.tls {
        return Err(NodeStringError::Plaintext(address.clone()));
    }
    let ca_file = environment.ca_file.clone();
    let tls = tokio::task::spawn_blocking(move || TlsConfigs::default().config(ca_file.as_deref()));
    let tls = tls
        .await
        .map_err(|panicked| garbled(&panicked.to_string()))??;
    let hello = Hello {
        user: login.user.clone(),
        password: login.password.clone(),
        capability: Some(CAPABILITY),
    };
    let mut upstream = upstream::open(address, Some(&tls), &hello, DIAL_LIMIT).await?;
    let request = format!(".aws.get_kx_node_connection_string[\"{cluster}\";\"{node}\"]");
    match upstream::ask(&mut upstream.stream, &request).await? {
        Value::Error(text) => Err(NodeStringError::Refused(text)),
        value => {
            let text = value.as_text().map(Secret::from);
            let text = text.ok_or_else(|| garbled("no text"))?;
            let text = String::from_utf8_lossy(text.expose());
            ConnectionString::parse(&text).map_err(NodeStringError::NoString)
        }
    }
}

fn garbled(what: &str) -> NodeStringError {
    NodeStringError::Query(upstream::QueryError::Garbled(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn asked(cluster: &str, node: &str) -> (FetchError, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialled = tokio::spawn(async move { listener.accept().await.is_ok() });
        let environment = Arc::new(Environment {
            name: "prod".into(),
            id: "sdb3moagybykax4oexvsq4".into(),
            region: "us-east-1".into(),
            profile: None,
            credentials_file: None,
            endpoint_url: None,
            sts_endpoint_url: None,
            ca_file: None,
        });
        let login = Credential {
            address: Some(KdbAddress {
                tls: false,
                host: "127.0.0.1".into(),
                port,
            }),
            user: "bob".into(),
            password: Secret::from("signed"),
            expires: None,
            valid_for: None,
            issuer_time: None,
        };
        let error = ask_cluster(&environment, cluster, node, login).await;
        let was_dialled = dialled.is_finished();
        dialled.abort();
        (error.unwrap_err(), was_dialled)
    }

    #[tokio::test]
    async fn a_signed_login_never_goes_without_tls() {
        let (error, dialled) = asked("hdb-cluster", "node-1").await;
        assert!(error.message.contains("without TLS"), "{error}");
        assert!(!dialled);
    }

    #[tokio::test]
    async fn a_name_is_no_q() {
        for (cluster, node) in [("hdb", "1\"];exit 1;[\""), ("h\\", "node-1"), ("hdb", "")] {
            let (error, _) = asked(cluster, node).await;
            assert!(error.message.contains("not the name"), "{error}");
        }
    }
}
