//! ARNs of FinSpace's resources.
//!
//! Source: Service Authorization Reference, "Amazon FinSpace": resource types `kxEnvironment`,
//! `kxUser` and `kxCluster`.

use finspace::environment::Environment;

/// Where an environment is: what its ARNs have in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) environment: &'a Environment,
    /// `aws`, `aws-us-gov`, `aws-cn`.
    pub(super) partition: String,
    /// Twelve digits, or `*`: an environment's id is in one account only.
    pub(super) account: String,
}

impl Place<'_> {
    pub(super) fn environment(&self) -> String {
        format!(
            "arn:{}:finspace:{}:{}:kxEnvironment/{}",
            self.partition, self.environment.region, self.account, self.environment.id
        )
    }

    pub(super) fn user(&self, kx_user: &str) -> String {
        format!("{}/kxUser/{kx_user}", self.environment())
    }

    pub(super) fn cluster(&self, cluster: &str) -> String {
        format!("{}/kxCluster/{cluster}", self.environment())
    }
}

/// The partition that a region belongs to.
pub(super) fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}
