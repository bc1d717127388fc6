//! Policy documents of IAM: identity policies and trust policies.
//!
//! Source: IAM user guide, "IAM JSON policy elements reference".

use std::collections::BTreeMap;

use serde::Serialize;

/// The version of the policy language of all documents.
const VERSION: &str = "2012-10-17";

/// A policy document. Its JSON is what `aws iam put-role-policy` takes for statements of type [`Statement`],
/// and `aws iam update-assume-role-policy` for statements of type [`TrustStatement`].
///
/// ```
/// use finspace::policy_document::{PolicyDocument, Statement};
/// let statement = Statement::allow(&["finspace:GetKxUser"], &["*"]);
/// assert_eq!(PolicyDocument::of(vec![statement]).version, "2012-10-17");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PolicyDocument<S> {
    /// The version of the policy language: `2012-10-17`.
    pub version: &'static str,
    /// The statements, which IAM reads in any order.
    pub statement: Vec<S>,
}

impl<S> PolicyDocument<S> {
    /// Makes a document of these statements.
    pub fn of(statement: Vec<S>) -> Self {
        Self {
            version: VERSION,
            statement,
        }
    }
}

/// A statement of an identity policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Statement {
    /// The effect: always `Allow`.
    pub effect: &'static str,
    /// The actions, as IAM names them, such as `finspace:GetKxUser`.
    pub action: Vec<String>,
    /// The ARNs of the resources, with `*` for parts that are not known.
    pub resource: Vec<String>,
}

impl Statement {
    /// Makes a statement that allows these actions on these resources.
    pub fn allow(actions: &[&str], resources: &[&str]) -> Self {
        Self {
            effect: "Allow",
            action: owned(actions),
            resource: owned(resources),
        }
    }
}

/// A statement of the trust policy of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TrustStatement {
    /// The effect: always `Allow`.
    pub effect: &'static str,
    /// The identity that may assume the role.
    pub principal: Principal,
    /// The actions, such as `sts:AssumeRole` and `sts:SetSourceIdentity`.
    pub action: Vec<String>,
    /// The conditions: values by operator and key. All of them must hold.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub condition: BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>,
}

/// An identity that may assume a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Principal {
    /// The ARN of a role or user. `arn:aws:iam::ACCOUNT:root` stands for every identity to which that
    /// account allows it.
    #[serde(rename = "AWS")]
    Aws(String),
    /// A service of AWS, such as `finspace.amazonaws.com`.
    Service(&'static str),
}

impl TrustStatement {
    /// Makes a statement that allows these actions on the role to `principal`, without a condition.
    pub fn allow(principal: Principal, actions: &[&str]) -> Self {
        Self {
            effect: "Allow",
            principal,
            action: owned(actions),
            condition: BTreeMap::new(),
        }
    }

    /// Adds the condition that `key` equals one of `values`.
    #[must_use]
    pub fn where_equal(mut self, key: &'static str, values: Vec<String>) -> Self {
        let equal = self.condition.entry("StringEquals").or_default();
        equal.insert(key, values);
        self
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_json_that_iam_takes() {
        let statement = Statement::allow(&["finspace:GetKxUser"], &["*"]);
        assert_eq!(
            serde_json::to_value(&statement).unwrap(),
            serde_json::json!({ "Effect": "Allow", "Action": ["finspace:GetKxUser"], "Resource": ["*"] })
        );
    }

    #[test]
    fn a_trust_policy_is_json_that_iam_takes() {
        let service = TrustStatement::allow(
            Principal::Service("finspace.amazonaws.com"),
            &["sts:AssumeRole"],
        );
        let root = Principal::Aws("arn:aws:iam::111122223333:root".into());
        let account = TrustStatement::allow(root, &["sts:AssumeRole"])
            .where_equal("sts:SourceIdentity", vec!["alice".into()]);
        assert_eq!(
            serde_json::to_value(PolicyDocument::of(vec![service, account])).unwrap(),
            serde_json::json!({ "Version": "2012-10-17", "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": { "Service": "finspace.amazonaws.com" },
                    "Action": ["sts:AssumeRole"]
                },
                {
                    "Effect": "Allow",
                    "Principal": { "AWS": "arn:aws:iam::111122223333:root" },
                    "Action": ["sts:AssumeRole"],
                    "Condition": { "StringEquals": { "sts:SourceIdentity": ["alice"] } }
                }
            ] })
        );
    }
}
