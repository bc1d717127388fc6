//! A node's own connection string, asked of its cluster over q.
//!
//! Source: FinSpace user guide, "q API reference": `.aws.get_kx_node_connection_string`.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Credential, FetchError, Retry};
use crate::config::Environment;
use crate::connection_string::ConnectionString;
use crate::error::{ErrorKind, chain};
use crate::q::compress::decompress;
use crate::q::frame::{HEADER_LEN, Header, MessageType};
use crate::q::handshake::Hello;
use crate::q::message;
use crate::q::value::{Value, decode};
use crate::secret::Secret;
use crate::upstream::tls::TlsConfigs;
use crate::upstream::{self, UpstreamError, UpstreamStream};

/// From the dial to the answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// The dial and the login alone.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of the longest answer that is read: a connection string has 2,048 characters at the most.
const ANSWER_LIMIT: usize = 64 * 1024;
/// The last one before messages of over 2 GB.
const CAPABILITY: u8 = 3;

/// Why the cluster gave no string.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Tls(#[from] upstream::tls::TlsError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    #[error("no answer within {} s", TIME_LIMIT.as_secs())]
    Slow,
    #[error("it sent what is no answer: {0}")]
    Garbled(String),
    #[error("it answered '{0}")]
    Refused(String),
    #[error("it returned no connection string: {0}")]
    NoString(crate::connection_string::ConnectionStringError),
}

/// Opens a session to the cluster with its connection string, and asks for the node's.
///
/// # Errors
/// The cluster can't be had, knows no such node, or answers something else.
pub(super) async fn ask_cluster(
    environment: &Arc<Environment>,
    cluster: &str,
    node: &str,
    login: Credential,
) -> Result<Credential, FetchError> {
    let asked = timeout(TIME_LIMIT, ask(environment, cluster, node, &login)).await;
    let string = asked.unwrap_or(Err(AskError::Slow)).map_err(|error| {
        let denied = matches!(error, AskError::Refused(_));
        let connect = matches!(error, AskError::Upstream(UpstreamError::Rejected { .. }));
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
                "node_via = \"cluster\" needs a session to the cluster from this host; check it with \
                 node = \"any\", or set node_via = \"api\""
                    .into()
            },
        }
    })?;
    Ok(Credential {
        expires: [string.expires(), login.expires]
            .into_iter()
            .flatten()
            .min(),
        address: Some(string.address),
        user: string.user,
        password: string.password,
    })
}

async fn ask(
    environment: &Arc<Environment>,
    cluster: &str,
    node: &str,
    login: &Credential,
) -> Result<ConnectionString, AskError> {
    let ca_file = environment.ca_file.clone();
    let tls = tokio::task::spawn_blocking(move || TlsConfigs::default().config(ca_file.as_deref()));
    let tls = tls
        .await
        .map_err(|panicked| AskError::Garbled(panicked.to_string()))??;
    let address = login
        .address
        .as_ref()
        .ok_or_else(|| AskError::Garbled("no address".into()))?;
    let hello = Hello {
        user: login.user.clone(),
        password: login.password.clone(),
        capability: Some(CAPABILITY),
    };
    let mut upstream = upstream::open(address, Some(&tls), &hello, DIAL_LIMIT).await?;
    // Both names have letters, digits, hyphens and underscores only.
    let question = format!(".aws.get_kx_node_connection_string[\"{cluster}\";\"{node}\"]");
    let question = message::text(MessageType::Sync, &question);
    upstream.stream.write_all(&question).await?;
    upstream.stream.flush().await?;
    match answer(&mut upstream.stream).await? {
        Value::Error(text) => Err(AskError::Refused(text)),
        value => {
            let text = value.as_text().map(Secret::from);
            let text = text.ok_or_else(|| AskError::Garbled("no text".into()))?;
            let text = String::from_utf8_lossy(text.expose());
            ConnectionString::parse(&text).map_err(AskError::NoString)
        }
    }
}

/// The answer to the one question; what the cluster says of its own accord before is left aside.
async fn answer(stream: &mut UpstreamStream) -> Result<Value, AskError> {
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).await?;
        let parsed = Header::parse(header).map_err(garbled)?;
        let length = usize::try_from(parsed.length).unwrap_or(usize::MAX);
        if length > ANSWER_LIMIT {
            return Err(AskError::Garbled(format!("a message of {length} bytes")));
        }
        let mut message = Zeroizing::new(vec![0; length.max(HEADER_LEN)]);
        message[..HEADER_LEN].copy_from_slice(&header);
        stream.read_exact(&mut message[HEADER_LEN..]).await?;
        if parsed.message_type != MessageType::Response {
            continue;
        }
        if parsed.compression != 0 {
            message = Zeroizing::new(decompress(&message, ANSWER_LIMIT).map_err(garbled)?);
        }
        return decode(&message[HEADER_LEN..], parsed.little_endian).map_err(garbled);
    }
}

fn garbled(error: impl std::fmt::Display) -> AskError {
    AskError::Garbled(error.to_string())
}
