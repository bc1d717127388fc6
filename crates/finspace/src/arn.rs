//! ARNs of FinSpace resources.
//!
//! Source: Service Authorization Reference, "Amazon FinSpace": resource types `kxEnvironment`, `kxUser` and
//! `kxCluster`.

use std::fmt;

use crate::environment::Environment;

/// The account in an ARN as long as it is not known. It is valid in a policy, because the id of an
/// environment belongs to one account only.
pub const ANY_ACCOUNT: &str = "*";

/// The ARN of an environment, and the prefix of the ARNs of its users and clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentArn<'e> {
    /// The environment, which contributes its region and its id.
    pub environment: &'e Environment,
    /// `aws`, `aws-us-gov` or `aws-cn`.
    pub partition: String,
    /// Twelve digits, or [`ANY_ACCOUNT`].
    pub account: String,
}

impl<'e> EnvironmentArn<'e> {
    /// The ARN in any account, with the partition of the environment's region.
    pub fn in_any_account(environment: &'e Environment) -> Self {
        Self {
            environment,
            partition: partition_of(&environment.region).to_owned(),
            account: ANY_ACCOUNT.to_owned(),
        }
    }

    /// The ARN of a FinSpace user.
    pub fn user(&self, kx_user: &str) -> String {
        format!("{self}/kxUser/{kx_user}")
    }

    /// The ARN of a cluster, or of all clusters for `*`.
    pub fn cluster(&self, cluster: &str) -> String {
        format!("{self}/kxCluster/{cluster}")
    }
}

impl fmt::Display for EnvironmentArn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Environment { region, id, .. } = self.environment;
        let Self {
            partition, account, ..
        } = self;
        write!(
            f,
            "arn:{partition}:finspace:{region}:{account}:kxEnvironment/{id}"
        )
    }
}

/// The partition that a region belongs to: `aws`, `aws-us-gov` or `aws-cn`.
fn partition_of(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_regions() {
        assert_eq!(partition_of("us-east-1"), "aws");
        assert_eq!(partition_of("us-gov-west-1"), "aws-us-gov");
        assert_eq!(partition_of("cn-north-1"), "aws-cn");
    }

    #[test]
    fn users_and_clusters_are_beneath_their_environment() {
        let environment = Environment {
            id: "sdb3".into(),
            region: "us-gov-west-1".into(),
            ..Environment::default()
        };
        let arn = EnvironmentArn::in_any_account(&environment);
        let prefix = "arn:aws-us-gov:finspace:us-gov-west-1:*:kxEnvironment/sdb3";
        assert_eq!(arn.to_string(), prefix);
        assert_eq!(arn.user("bob"), format!("{prefix}/kxUser/bob"));
        assert_eq!(arn.cluster("*"), format!("{prefix}/kxCluster/*"));
    }
}
