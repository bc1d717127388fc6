//! Why a session got no kdb+.

use std::path::PathBuf;
use std::sync::Arc;

use super::tried::NoneOfThem;
use crate::credential::FetchError;
use crate::upstream::UpstreamError;
use crate::upstream::tls::TlsError;
use base::address::Address;
use base::error::{ErrorKind, with_fix};

/// Why a session got no kdb+.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No login.
    #[error(transparent)]
    Credential(#[from] Arc<FetchError>),
    /// No kdb+, or it refused.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A FinSpace cluster refused a login that was signed a moment ago.
    #[error(
        "{refusal}. Fix: allow finspace:ConnectKxCluster on cluster {cluster} to the role of user {user}, \
         and see with hopend policy what else it needs."
    )]
    ClusterRefused {
        /// The cluster.
        cluster: String,
        /// The user's name.
        user: String,
        /// What it looked like.
        refusal: UpstreamError,
    },
    /// The cluster's nodes can't be listed, and one of them is needed.
    #[error("no node can be chosen: {0}")]
    Nodes(Arc<FetchError>),
    /// The node of the configuration is none of the cluster's.
    #[error(
        "node {node} is not in cluster {cluster}, which has {there}. Fix: set node to one of these, or to \"spread\"."
    )]
    NodeGone {
        /// What the configuration names.
        node: String,
        /// The cluster.
        cluster: String,
        /// Those that there are.
        there: String,
    },
    /// No node can be used.
    #[error(
        "no node of cluster {cluster} is RUNNING: it has {there}. Fix: wait until one runs, or start one."
    )]
    NoneRunning {
        /// The cluster.
        cluster: String,
        /// Those that there are.
        there: String,
    },
    /// Several addresses or nodes were tried.
    #[error(transparent)]
    NoneOfThem(NoneOfThem),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The login would go over the wire in the clear.
    #[error(
        "{0}: the connection string is without TLS. Fix: set plaintext = true on the endpoint if that \
         is meant."
    )]
    Plaintext(Address),
    /// The password can't be read.
    #[error("password_file {path}: {source}. Fix: write the password on its first line.", path = .path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Other accounts can read or change the password file.
    #[error("password_file: {}", with_fix(.what, .remedy))]
    Exposed {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Neither the endpoint nor the login command says where kdb+ is.
    #[error(
        "the login command gave no address. Fix: have it print a connection string, or set connect on \
         the endpoint."
    )]
    NoAddress,
    /// Nothing lies behind it.
    #[error("a console leads to no kdb+")]
    Console,
}

impl OpenError {
    /// The error itself; of several attempts the one that counts.
    pub(super) fn deciding(&self) -> &Self {
        match self {
            Self::NoneOfThem(tried) => tried.deciding.deciding(),
            one => one,
        }
    }

    /// Whether kdb+ itself closed the connection, which is what the client is to see.
    pub fn is_close_by_kdb(&self) -> bool {
        self.kind() == ErrorKind::Denied
            || matches!(
                self.deciding(),
                Self::Upstream(UpstreamError::Capability { .. })
            )
    }

    /// Whose side.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoneOfThem(tried) => tried.deciding.kind(),
            Self::Credential(error) | Self::Nodes(error) => error.kind,
            Self::Upstream(error) => error.kind(),
            Self::ClusterRefused { .. } => ErrorKind::Denied,
            Self::NoneRunning { .. } => ErrorKind::Upstream,
            Self::NodeGone { .. }
            | Self::Tls(_)
            | Self::Plaintext(_)
            | Self::PasswordFile { .. }
            | Self::Exposed { .. }
            | Self::NoAddress
            | Self::Console => ErrorKind::Configuration,
        }
    }
}
