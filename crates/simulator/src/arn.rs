//! The account and region of the simulation, and the ARNs in them.

/// The AWS account that owns every simulated resource.
pub const ACCOUNT: &str = "111122223333";

/// The region of the simulated environment.
pub const REGION: &str = "us-east-1";

/// The IAM user that owns the base credentials.
pub(crate) fn base_user() -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/hopend")
}

/// The role of a FinSpace user.
pub(crate) fn user_role(user: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/user-{user}")
}

/// The session that AssumeRole opens for a role.
pub(crate) fn assumed_role(role: &str, session_name: &str) -> String {
    let role_name = role.rsplit('/').next().unwrap_or_default();
    format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role_name}/{session_name}")
}

/// A FinSpace environment, by its ID.
pub(crate) fn environment(id: &str) -> String {
    format!("arn:aws:finspace:{REGION}:{ACCOUNT}:kxEnvironment/{id}")
}
