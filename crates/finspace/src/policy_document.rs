//! IAM's own documents: identity policies and trust policies.
//!
//! Source: IAM user guide, "IAM JSON policy elements reference".

use std::collections::BTreeMap;

use serde::Serialize;

/// The version of the policy language that all of them are written in.
const VERSION: &str = "2012-10-17";

/// A policy, as `aws iam put-role-policy` and `aws iam update-assume-role-policy` take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Document<S> {
    /// `2012-10-17`.
    pub version: &'static str,
    /// What it allows.
    pub statement: Vec<S>,
}

impl<S> Document<S> {
    /// A policy of these statements.
    pub fn of(statement: Vec<S>) -> Self {
        Self {
            version: VERSION,
            statement,
        }
    }
}

/// One statement that allows something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Statement {
    /// `Allow`.
    pub effect: &'static str,
    /// What, as IAM names it: `finspace:GetKxUser`.
    pub action: Vec<String>,
    /// On what: ARNs, with `*` where the rest is not known.
    pub resource: Vec<String>,
}

impl Statement {
    /// Allows `actions` on `resources`.
    pub fn allow(actions: &[&str], resources: &[&str]) -> Self {
        Self {
            effect: "Allow",
            action: owned(actions),
            resource: owned(resources),
        }
    }
}

/// One statement of a role's trust policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Trust {
    /// `Allow`.
    pub effect: &'static str,
    /// Who may take the role.
    pub principal: Principal,
    /// `sts:AssumeRole`, and what goes with it.
    pub action: Vec<String>,
    /// Operator, key and values that have to hold as well.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub condition: BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>,
}

/// Who may take a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Principal {
    /// The ARN of a role or of a user; `…:root` for whomever the account itself allows it.
    #[serde(rename = "AWS")]
    Aws(String),
    /// A service of AWS.
    Service(&'static str),
}

impl Trust {
    /// Lets `principal` do `actions` on the role, unconditionally.
    pub fn allow(principal: Principal, actions: &[&str]) -> Self {
        Self {
            effect: "Allow",
            principal,
            action: owned(actions),
            condition: BTreeMap::new(),
        }
    }

    /// The same, where `key` equals one of `values`.
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
        let service = Trust::allow(
            Principal::Service("finspace.amazonaws.com"),
            &["sts:AssumeRole"],
        );
        let root = Principal::Aws("arn:aws:iam::111122223333:root".into());
        let account = Trust::allow(root, &["sts:AssumeRole"])
            .where_equal("sts:SourceIdentity", vec!["alice".into()]);
        assert_eq!(
            serde_json::to_value(Document::of(vec![service, account])).unwrap(),
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
