//! A FinSpace environment.

use std::path::PathBuf;

/// A FinSpace environment and how its API is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Environment {
    /// What the file calls it.
    pub name: String,
    /// The service's `environmentId`.
    pub id: String,
    /// AWS region.
    pub region: String,
    /// Profile for the base credentials; the SDK's default chain without one.
    pub profile: Option<String>,
    /// The shared credentials file that holds the profile; the SDK's own places without one.
    pub credentials_file: Option<PathBuf>,
    /// Instead of the region's FinSpace endpoint.
    pub endpoint_url: Option<String>,
    /// Instead of the region's STS endpoint.
    pub sts_endpoint_url: Option<String>,
    /// PEM file of the authorities that sign the clusters' certificates; the system's roots without
    /// one.
    pub ca_file: Option<PathBuf>,
}
