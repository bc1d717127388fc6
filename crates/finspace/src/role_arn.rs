//! ARNs of IAM roles.

use std::str::FromStr;

use base::invalid_value::InvalidValue;

/// The ARN of an IAM role: `arn:PARTITION:iam::ACCOUNT:role/PATH`.
///
/// ```
/// use finspace::role_arn::RoleArn;
/// let role: RoleArn = "arn:aws:iam::111122223333:role/user-alice".parse().unwrap();
/// assert_eq!(role.account, "111122223333");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoleArn {
    /// The AWS partition: `aws`, `aws-us-gov` or `aws-cn`.
    pub partition: String,
    /// The AWS account: twelve digits.
    pub account: String,
    /// The whole ARN.
    pub text: String,
}

/// Accepts the ARN of a role only, also as GetKxUser returns it.
impl FromStr for RoleArn {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = |what| {
            InvalidValue::new(
                what,
                "write \"arn:aws:iam::111122223333:role/NAME\" with the account's twelve digits",
            )
        };
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().unwrap_or("");
        let (arn, partition, service, region, account, resource) =
            (next(), next(), next(), next(), next(), next());
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if arn != "arn" || !partition.starts_with("aws") || !partition.chars().all(fine) {
            return Err(wrong("is not an ARN"));
        }
        if service != "iam" || !region.is_empty() {
            return Err(wrong("is not an ARN of IAM"));
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("holds no account number of twelve digits"));
        }
        let named = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
        let role = resource.strip_prefix("role/").unwrap_or("");
        if role.is_empty() || role.ends_with('/') || !role.chars().all(named) {
            return Err(wrong("names no role"));
        }
        Ok(Self {
            partition: partition.to_owned(),
            account: account.to_owned(),
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_of_any_partition_is_taken_apart() {
        let arn: RoleArn = "arn:aws-us-gov:iam::111122223333:role/team/user-alice"
            .parse()
            .unwrap();
        assert_eq!(arn.partition, "aws-us-gov");
        assert_eq!(arn.account, "111122223333");
        assert_eq!(
            arn.text,
            "arn:aws-us-gov:iam::111122223333:role/team/user-alice"
        );
    }

    #[test]
    fn what_is_no_role_is_refused() {
        for wrong in [
            "",
            "alice",
            "arn:aws:iam::1111:role/alice",
            "arn:aws:iam::111122223333:user/alice",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/a b",
            "arn:aws:sts::111122223333:assumed-role/alice/session",
            "arn:aws:iam:us-east-1:111122223333:role/alice",
        ] {
            assert!(wrong.parse::<RoleArn>().is_err(), "{wrong}");
        }
    }
}
