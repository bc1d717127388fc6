//! The errors of an opening.

use std::path::PathBuf;
use std::sync::Arc;

use super::failures::AllAddressesFailed;
use crate::credential::FetchError;
use crate::upstream::UpstreamError;
use crate::upstream::tls::TlsError;
use base::error::{ErrorKind, with_fix};
use base::kdb_address::KdbAddress;

/// Why hopend has opened no connection to kdb+.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// hopend could not fetch a login for the user.
    #[error(transparent)]
    Credential(#[from] Arc<FetchError>),
    /// The dial or the login failed.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A FinSpace cluster refused a login that AWS had signed a moment before.
    #[error(
        "{refusal}. Fix: allow finspace:ConnectKxCluster on cluster {cluster} to the role of user {user}, \
         and see with hopend policy what else it needs."
    )]
    ClusterRefused {
        /// The cluster.
        cluster: String,
        /// The user's name.
        user: String,
        /// The failure of the second login.
        refusal: UpstreamError,
    },
    /// hopend chooses a node, and could not list the nodes of the cluster.
    #[error("no node can be chosen: {0}")]
    Nodes(Arc<FetchError>),
    /// The cluster does not have the node that the configuration names.
    #[error(
        "node {node} is not in cluster {cluster}, which has {there}. Fix: set node to one of these, or to \"spread\"."
    )]
    NodeGone {
        /// The id of the node in the configuration.
        node: String,
        /// The cluster.
        cluster: String,
        /// The nodes that the cluster has.
        there: String,
    },
    /// hopend chooses a node, and none of the cluster is RUNNING.
    #[error(
        "no node of cluster {cluster} is RUNNING: it has {there}. Fix: wait until one runs, or start one."
    )]
    NoneRunning {
        /// The cluster.
        cluster: String,
        /// The nodes that the cluster has.
        there: String,
    },
    /// hopend tried several addresses or nodes, and all attempts failed.
    #[error(transparent)]
    AllAddressesFailed(AllAddressesFailed),
    /// All addresses or nodes rest, and a connection for a warm pool is not worth an attempt there.
    #[error("no address was tried: all of them rest after a failure")]
    AllAddressesRest,
    /// The TLS configuration towards kdb+ is not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The login would cross the network unencrypted, and the configuration does not allow that.
    #[error(
        "{0}: the connection string is without TLS. Fix: set plaintext = true on the endpoint if that \
         is meant."
    )]
    Plaintext(KdbAddress),
    /// hopend cannot read the password of the endpoint's own login.
    #[error("password_file {path}: {source}. Fix: write the password on its first line.", path = .path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Other accounts can read or change the password file.
    #[error("password_file: {}", with_fix(.what, .remedy))]
    Exposed {
        /// The access that other accounts have.
        what: String,
        /// How to take it from them.
        remedy: String,
    },
    /// Neither the endpoint nor its login command names an address.
    #[error(
        "the login command gave no address. Fix: have it print a connection string, or set connect on \
         the endpoint."
    )]
    CommandWithoutAddress,
}

impl OpenError {
    /// The error whose kind counts: of several failed attempts, the deciding one.
    pub(super) fn deciding(&self) -> &Self {
        match self {
            Self::AllAddressesFailed(failed) => failed.deciding.deciding(),
            one => one,
        }
    }

    /// Whether kdb+ itself closed the connection. Then hopend closes the connection of the client, too,
    /// so that the client sees the same.
    pub fn is_close_by_kdb(&self) -> bool {
        self.kind() == ErrorKind::Denied
            || matches!(
                self.deciding(),
                Self::Upstream(UpstreamError::Capability { .. })
            )
    }

    /// Which party caused the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AllAddressesFailed(failed) => failed.deciding.kind(),
            Self::Credential(error) | Self::Nodes(error) => error.kind,
            Self::Upstream(error) => error.kind(),
            Self::ClusterRefused { .. } => ErrorKind::Denied,
            Self::NoneRunning { .. } | Self::AllAddressesRest => ErrorKind::Upstream,
            Self::NodeGone { .. }
            | Self::Tls(_)
            | Self::Plaintext(_)
            | Self::PasswordFile { .. }
            | Self::Exposed { .. }
            | Self::CommandWithoutAddress => ErrorKind::Configuration,
        }
    }
}
