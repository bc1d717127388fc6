//! IAM policies as hopend writes them.

use serde::Serialize;

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
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self {
            effect: "Allow",
            action: owned(actions),
            resource: owned(resources),
        }
    }
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
}
