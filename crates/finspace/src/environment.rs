//! A FinSpace environment and the way to its API.

use std::path::PathBuf;

/// A FinSpace environment, the credentials that are used in it, and the way to its API.
///
/// It is the key of everything that is kept for an environment: two environments that differ in any field
/// use separate clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Environment {
    /// The name in the configuration, for messages and metrics.
    pub name: String,
    /// The id that FinSpace assigned (`environmentId`).
    pub id: String,
    /// The AWS region, such as `us-east-1`.
    pub region: String,
    /// The profile with the base credentials. None means the SDK's default chain.
    pub profile: Option<String>,
    /// The shared credentials file that has the profile. None means the file that the SDK finds.
    pub credentials_file: Option<PathBuf>,
    /// The URL of the FinSpace API. None means the endpoint of the region.
    pub endpoint_url: Option<String>,
    /// The URL of STS. None means the endpoint of the region.
    pub sts_endpoint_url: Option<String>,
    /// The PEM file of the authorities that sign the certificates of the clusters. None means the roots of
    /// the system.
    pub ca_file: Option<PathBuf>,
}
