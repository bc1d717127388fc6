//! The principal that signed a request.

use super::arn;

/// The principal that signed a request or a connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The ARN of the IAM user or of the assumed role's session.
    pub(crate) arn: String,
    /// `UserId` in the answer of GetCallerIdentity.
    pub(crate) user_id: String,
    /// The ARN of the role, for the credentials of a session; `None` for the base credentials.
    pub(crate) role: Option<String>,
    pub(crate) access_key: String,
}

impl Caller {
    /// The IAM user that owns the base credentials.
    pub(crate) fn base(access_key: &str) -> Self {
        Self {
            arn: arn::base_user(),
            user_id: "AIDASIMULATEDHOPEND01".into(),
            role: None,
            access_key: access_key.to_owned(),
        }
    }

    /// The ARN of the role or of the IAM user, to which policies are attached.
    pub(crate) fn principal(&self) -> &str {
        self.role.as_deref().unwrap_or(&self.arn)
    }
}
