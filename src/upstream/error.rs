//! Why hopend could not connect to kdb+.

use std::io;
use std::time::Duration;

use crate::primitives::opening::OpenStage;
use base::error::{ErrorKind, MORE_DESCRIPTORS, NO_DESCRIPTORS};
use base::kdb_address::KdbAddress;

/// Why hopend has no logged-in connection to kdb+.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The host's name has no IP address.
    #[error("{address}: the name {host} does not resolve. Fix: check the name and this host's DNS.", host = .address.host)]
    Resolve {
        /// The address that was dialled.
        address: KdbAddress,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// No IP address of the host accepted the connection.
    #[error(
        "{address}: no connection. Fix: check that kdb+ listens there and that security groups and routes allow it."
    )]
    Connect {
        /// The address that was dialled.
        address: KdbAddress,
        /// The error of the last attempt.
        #[source]
        source: io::Error,
    },
    /// No file descriptor was left for a socket. The fault is on this host.
    #[error("{address}: not dialled: {NO_DESCRIPTORS}. Fix: {MORE_DESCRIPTORS}.")]
    Descriptors {
        /// The address that was dialled.
        address: KdbAddress,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("{address}: TLS failed. Fix: {remedy}.")]
    Tls {
        /// The address that was dialled.
        address: KdbAddress,
        /// The remedy, for an administrator.
        remedy: &'static str,
        /// The error of rustls.
        #[source]
        source: io::Error,
    },
    /// The host is neither a DNS name nor an IP address, so no certificate can be for it.
    #[error("{address}: no certificate can be for {host:?}. Fix: write a DNS name or an IP address.", host = .address.host)]
    ServerName {
        /// The address that was dialled.
        address: KdbAddress,
    },
    /// The address needs TLS, and the caller gave no TLS configuration.
    #[error("{address}: TLS is not set up")]
    NoTls {
        /// The address that was dialled.
        address: KdbAddress,
    },
    /// The connection broke during the login.
    #[error("{address}: the connection broke during the login")]
    Login {
        /// The address that was dialled.
        address: KdbAddress,
        /// The error of the connection.
        #[source]
        source: io::Error,
    },
    /// kdb+ closed the connection instead of answering the login.
    #[error("{address}: kdb+ refused the login of user {user:?}. Fix: let this user log in there.")]
    Rejected {
        /// The address that was dialled.
        address: KdbAddress,
        /// The q user of the login.
        user: String,
    },
    /// The address is one of hopend's own endpoints, and the session came through that endpoint.
    #[error(
        "{address}: the endpoint leads back to itself. Fix: in `connect` or the login, write the \
         address of kdb+ itself."
    )]
    Loop {
        /// The address that was dialled.
        address: KdbAddress,
    },
    /// kdb+ closed the connection instead of answering the login, but accepts the same login with
    /// another capability byte.
    #[error(
        "{address}: kdb+ does not serve {}; it accepts the login of user {user:?}. Fix: use a client \
         that announces capability 3 or more.",
        announced(*.capability)
    )]
    Capability {
        /// The address that was dialled.
        address: KdbAddress,
        /// The q user of the login.
        user: String,
        /// The capability that the client announced.
        capability: Option<u8>,
    },
    /// The dial and the login took longer than `limit`.
    #[error("{address}: nothing within {} s while {stage}", .limit.as_secs_f32())]
    Timeout {
        /// The address that was dialled.
        address: KdbAddress,
        /// The limit, such as the endpoint's `connect_timeout`.
        limit: Duration,
        /// The stage that was under way.
        stage: DialStage,
    },
}

fn announced(capability: Option<u8>) -> String {
    match capability {
        Some(capability) => format!("a client of capability {capability}"),
        None => "a client that announces no capability".into(),
    }
}

/// A stage of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStage {
    /// The resolver looks the name up.
    Resolving,
    /// The TCP connection is made.
    Connecting,
    /// The TLS handshake is under way.
    Tls,
    /// hopend waits for the capability byte, which answers its login.
    LoggingIn,
}

impl std::fmt::Display for DialStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving the name",
            Self::Connecting => "connecting",
            Self::Tls => "shaking hands over TLS",
            Self::LoggingIn => "logging in",
        })
    }
}

impl From<DialStage> for OpenStage {
    fn from(stage: DialStage) -> Self {
        match stage {
            DialStage::Resolving => Self::Resolve,
            DialStage::Connecting => Self::Connect,
            DialStage::Tls => Self::Tls,
            DialStage::LoggingIn => Self::Login,
        }
    }
}

impl UpstreamError {
    /// The party that caused the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected { .. } => ErrorKind::Denied,
            Self::Capability { .. } => ErrorKind::Client,
            Self::Descriptors { .. } => ErrorKind::Internal,
            Self::ServerName { .. } | Self::NoTls { .. } | Self::Loop { .. } => {
                ErrorKind::Configuration
            }
            _ => ErrorKind::Upstream,
        }
    }
}
