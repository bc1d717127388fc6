//! Evaluates IAM policies: identity policies and the trust policies of roles.
//!
//! A policy with an element that is not evaluated here is refused when it is set. So no ignored element
//! changes a decision.
//!
//! Source: IAM user guide, "IAM JSON policy elements reference" and "Policy evaluation logic".

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// The condition keys that a request can have here.
const CONDITION_KEYS: [&str; 2] = ["sts:SourceIdentity", "sts:RoleSessionName"];

/// The reason why a policy can't be set: it has an element that is not evaluated, or an unknown ARN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the simulator can't take this policy: {0}")]
pub struct PolicyError(String);

/// A policy whose every element can be evaluated.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    statements: Vec<Statement>,
}

/// A request to perform an action.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessRequest<'a> {
    /// The ARN of the role or of the IAM user, never that of a session.
    pub(crate) principal: &'a str,
    /// Such as `finspace:GetKxUser`.
    pub(crate) action: &'a str,
    /// An ARN, or `*` for an action without a resource.
    pub(crate) resource: &'a str,
    /// Condition keys and their values.
    pub(crate) context: &'a [(&'static str, &'a str)],
}

/// The decision of one policy on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// A statement denies the request.
    Denied,
    /// No statement applies to the request.
    NotAllowed,
}

impl Policy {
    /// Reads an identity policy, in which every statement has a Resource.
    pub(crate) fn of_identity(document: &str) -> Result<Self, PolicyError> {
        let policy = Self::parse(document)?;
        for statement in &policy.statements {
            if statement.resource.is_none() || statement.principal.is_some() {
                return Err(refused("an identity policy has Resource and no Principal"));
            }
        }
        Ok(policy)
    }

    /// Reads the trust policy of a role, in which every statement has a Principal.
    pub(crate) fn of_trust(document: &str) -> Result<Self, PolicyError> {
        let policy = Self::parse(document)?;
        for statement in &policy.statements {
            if statement.principal.is_none() || statement.resource.is_some() {
                return Err(refused("a trust policy has Principal and no Resource"));
            }
        }
        Ok(policy)
    }

    fn parse(document: &str) -> Result<Self, PolicyError> {
        let written: PolicyDocument =
            serde_json::from_str(document).map_err(|error| refused(error.to_string()))?;
        if written.version != "2012-10-17" {
            return Err(refused(format!("Version {}", written.version)));
        }
        for statement in &written.statement {
            statement.check()?;
        }
        Ok(Self {
            statements: written.statement,
        })
    }

    pub(crate) fn verdict(&self, request: &AccessRequest<'_>) -> Verdict {
        let mut allowed = false;
        for statement in self.statements.iter().filter(|s| s.applies(request)) {
            match statement.effect {
                Effect::Deny => return Verdict::Denied,
                Effect::Allow => allowed = true,
            }
        }
        if allowed {
            Verdict::Allowed
        } else {
            Verdict::NotAllowed
        }
    }
}

impl PolicyError {
    pub(crate) fn unknown(arn: &str) -> Self {
        Self(format!("nobody here is {arn}"))
    }
}

fn refused(why: impl Into<String>) -> PolicyError {
    PolicyError(why.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct PolicyDocument {
    version: String,
    #[serde(default, rename = "Id")]
    _id: Option<String>,
    #[serde(deserialize_with = "one_or_many")]
    statement: Vec<Statement>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Statement {
    #[serde(default, rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    #[serde(deserialize_with = "one_or_many")]
    action: Vec<String>,
    #[serde(default, deserialize_with = "some_of")]
    resource: Option<Vec<String>>,
    #[serde(default)]
    principal: Option<Principals>,
    #[serde(default)]
    condition: BTreeMap<ConditionOperator, BTreeMap<String, ConditionValues>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Principals {
    #[serde(default, rename = "AWS", deserialize_with = "one_or_many")]
    aws: Vec<String>,
    /// Read and ignored: no AWS service calls the simulator.
    #[serde(default, rename = "Service", deserialize_with = "one_or_many")]
    _service: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum ConditionOperator {
    StringEquals,
    StringLike,
}

#[derive(Debug, Clone, Deserialize)]
struct ConditionValues(#[serde(deserialize_with = "one_or_many")] Vec<String>);

fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let values = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Array(values) => values,
        value => vec![value],
    };
    let read = values.into_iter().map(serde_json::from_value);
    read.collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn some_of<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    one_or_many(deserializer).map(Some)
}

impl Statement {
    fn check(&self) -> Result<(), PolicyError> {
        for action in &self.action {
            if action != "*" && !action.contains(':') {
                return Err(refused(format!("Action {action:?} names no service")));
            }
        }
        for resource in self.resource.iter().flatten() {
            if resource != "*" && segments(resource).is_none() {
                return Err(refused(format!("Resource {resource:?} is no ARN")));
            }
        }
        for principal in self.principal.iter().flat_map(|p| &p.aws) {
            let known = segments(principal).is_some_and(|[.., resource]| {
                let named = resource.starts_with("role/") || resource.starts_with("user/");
                (named || resource == "root") && !principal.contains(['*', '?'])
            });
            if !known {
                return Err(refused(format!(
                    "Principal {principal:?} is no ARN of an account, a role or a user"
                )));
            }
        }
        for (key, values) in self.condition.values().flatten() {
            if !CONDITION_KEYS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(key))
            {
                return Err(refused(format!("Condition key {key:?}")));
            }
            if values.0.iter().any(|value| value.contains("${")) {
                return Err(refused(format!("a policy variable for {key:?}")));
            }
        }
        Ok(())
    }

    fn applies(&self, request: &AccessRequest<'_>) -> bool {
        let action = request.action.to_ascii_lowercase();
        self.action
            .iter()
            .any(|pattern| matches(&pattern.to_ascii_lowercase(), &action))
            && self.resource.as_ref().is_none_or(|patterns| {
                let mut patterns = patterns.iter();
                patterns.any(|pattern| arn_matches(pattern, request.resource))
            })
            && self.principal.as_ref().is_none_or(|principals| {
                let mut trusted = principals.aws.iter();
                trusted.any(|trusted| trusts(trusted, request.principal))
            })
            && self.condition.iter().all(|(operator, keys)| {
                let mut keys = keys.iter();
                keys.all(|(key, values)| holds(*operator, key, &values.0, request))
            })
    }
}

/// Whether a condition holds. It fails if the request does not have the key.
fn holds(
    operator: ConditionOperator,
    key: &str,
    values: &[String],
    request: &AccessRequest<'_>,
) -> bool {
    let mut context = request.context.iter();
    let Some((_, actual)) = context.find(|(name, _)| name.eq_ignore_ascii_case(key)) else {
        return false;
    };
    values.iter().any(|value| match operator {
        ConditionOperator::StringEquals => value == actual,
        ConditionOperator::StringLike => matches(value, actual),
    })
}

/// Whether the ARN in a trust policy is that of this role or user, or of its account.
fn trusts(trusted: &str, principal: &str) -> bool {
    let account = |arn| segments(arn).map(|[_, _, _, _, account, _]| account);
    trusted == principal || trusted.ends_with(":root") && account(trusted) == account(principal)
}

/// Whether an ARN matches a pattern. A wildcard matches within one segment only.
fn arn_matches(pattern: &str, arn: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match (segments(pattern), segments(arn)) {
        (Some(patterns), Some(parts)) => patterns
            .iter()
            .zip(parts)
            .all(|(pattern, part)| matches(pattern, part)),
        _ => false,
    }
}

/// The segments of an ARN: `arn`, partition, service, region, account and resource.
fn segments(arn: &str) -> Option<[&str; 6]> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let parts: [&str; 6] = parts.try_into().ok()?;
    (parts[0] == "arn").then_some(parts)
}

/// Whether a text matches a pattern: `*` stands for any number of characters, `?` for one.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .any(|at| matches(rest.as_str(), &text[at..])),
        Some(wanted) => {
            let mut text = text.chars();
            let first = text.next();
            first.is_some_and(|c| wanted == '?' || wanted == c)
                && matches(rest.as_str(), text.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CLUSTER: &str = "arn:aws:finspace:us-east-1:111122223333:kxEnvironment/e/kxCluster/hdb";
    const HOPEND: &str = "arn:aws:iam::111122223333:role/hopend";
    const ALICE: &str = "arn:aws:iam::111122223333:role/user-alice";

    fn document(statements: &Value) -> String {
        json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
    }

    fn identity(statements: &Value) -> Policy {
        Policy::of_identity(&document(statements)).unwrap()
    }

    fn ask(policy: &Policy, action: &str, resource: &str) -> Verdict {
        policy.verdict(&AccessRequest {
            principal: HOPEND,
            action,
            resource,
            context: &[],
        })
    }

    #[test]
    fn nothing_is_allowed_but_what_a_statement_allows() {
        let policy = identity(&json!({
            "Effect": "Allow", "Action": "finspace:ConnectKxCluster", "Resource": CLUSTER
        }));
        assert_eq!(
            ask(&policy, "finspace:ConnectKxCluster", CLUSTER),
            Verdict::Allowed
        );
        assert_eq!(
            ask(&policy, "finspace:GetKxCluster", CLUSTER),
            Verdict::NotAllowed
        );
        let other = CLUSTER.replace("hdb", "rdb");
        assert_eq!(
            ask(&policy, "finspace:ConnectKxCluster", &other),
            Verdict::NotAllowed
        );
        assert_eq!(
            ask(&identity(&json!([])), "sts:AssumeRole", ALICE),
            Verdict::NotAllowed
        );
    }

    #[test]
    fn what_one_statement_denies_no_other_allows() {
        let policy = identity(&json!([
            { "Effect": "Allow", "Action": "*", "Resource": "*" },
            { "Sid": "No", "Effect": "Deny", "Action": ["sts:*"], "Resource": [ALICE] }
        ]));
        assert_eq!(ask(&policy, "sts:AssumeRole", ALICE), Verdict::Denied);
        assert_eq!(ask(&policy, "sts:AssumeRole", HOPEND), Verdict::Allowed);
    }

    #[test]
    fn actions_are_matched_whatever_their_case_and_resources_by_segment() {
        let allow = |action: &str, resource: &str| {
            identity(&json!({ "Effect": "Allow", "Action": action, "Resource": resource }))
        };
        let yes = |policy: &Policy| ask(policy, "finspace:GetKxUser", CLUSTER) == Verdict::Allowed;
        assert!(yes(&allow("FinSpace:getkx*", CLUSTER)));
        assert!(yes(&allow("finspace:GetKxUse?", "arn:*:finspace:*:*:*")));
        assert!(yes(&allow(
            "finspace:*",
            "arn:aws:finspace:us-east-1:*:kxEnvironment/?/*/hdb"
        )));
        assert!(
            !yes(&allow("finspace:*", "arn:aws:*:*:*:kxenvironment/*")),
            "case counts"
        );
        assert!(!yes(&allow("finspace:GetKx", "*")));
    }

    #[test]
    fn a_role_trusts_the_named_one_or_its_account_where_the_condition_holds() {
        let verdict = |principal: &str, source: Option<&str>| {
            let policy = Policy::of_trust(&document(&json!({
                "Effect": "Allow",
                "Principal": { "AWS": principal },
                "Action": "sts:AssumeRole",
                "Condition": { "StringEquals": { "sts:SourceIdentity": ["alice", "bob"] } }
            })));
            let context: Vec<_> = source
                .map(|name| ("sts:SourceIdentity", name))
                .into_iter()
                .collect();
            policy.unwrap().verdict(&AccessRequest {
                principal: HOPEND,
                action: "sts:AssumeRole",
                resource: ALICE,
                context: &context,
            })
        };
        assert_eq!(verdict(HOPEND, Some("bob")), Verdict::Allowed);
        assert_eq!(
            verdict("arn:aws:iam::111122223333:root", Some("alice")),
            Verdict::Allowed
        );
        assert_eq!(
            verdict("arn:aws:iam::444455556666:root", Some("alice")),
            Verdict::NotAllowed
        );
        assert_eq!(verdict(ALICE, Some("alice")), Verdict::NotAllowed);
        assert_eq!(verdict(HOPEND, Some("carol")), Verdict::NotAllowed);
        assert_eq!(verdict(HOPEND, None), Verdict::NotAllowed);
    }

    #[test]
    fn like_takes_wildcards_and_equals_does_not() {
        let holds = |operator: &str, value: &str| {
            let policy = identity(&json!({
                "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*",
                "Condition": { operator: { "STS:roleSessionName": value } }
            }));
            let verdict = policy.verdict(&AccessRequest {
                principal: HOPEND,
                action: "sts:AssumeRole",
                resource: ALICE,
                context: &[("sts:RoleSessionName", "alice")],
            });
            verdict == Verdict::Allowed
        };
        assert!(holds("StringLike", "al*") && holds("StringLike", "alic?"));
        assert!(holds("StringEquals", "alice") && !holds("StringEquals", "al*"));
        assert!(!holds("StringLike", "Al*"));
    }

    #[test]
    fn what_it_does_not_evaluate_is_refused() {
        let statement = json!({ "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*" });
        let with = |key: &str, value: Value| {
            let mut changed = statement.clone();
            changed[key] = value;
            Policy::of_identity(&document(&changed))
                .unwrap_err()
                .to_string()
        };
        for (key, value, said) in [
            ("NotAction", json!("sts:*"), "NotAction"),
            ("Effect", json!("Maybe"), "Maybe"),
            ("Action", json!("AssumeRole"), "names no service"),
            ("Resource", json!("role/alice"), "is no ARN"),
            ("Principal", json!({ "AWS": HOPEND }), "no Principal"),
            ("Principal", json!("*"), "Principals"),
            (
                "Condition",
                json!({ "Bool": { "aws:SecureTransport": true } }),
                "Bool",
            ),
            (
                "Condition",
                json!({ "StringEquals": { "aws:username": "a" } }),
                "aws:username",
            ),
            (
                "Condition",
                json!({ "StringLike": { "sts:SourceIdentity": "${a}" } }),
                "variable",
            ),
        ] {
            let refusal = with(key, value);
            assert!(refusal.contains(said), "{key}: {refusal}");
        }
        let old = r#"{"Version":"2008-10-17","Statement":[]}"#;
        assert!(Policy::of_identity(old).is_err());
        assert!(Policy::of_identity("[]").is_err());
        let trust =
            json!({ "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": { "AWS": "*" } });
        assert!(Policy::of_trust(&document(&trust)).is_err());
        assert!(Policy::of_trust(&document(&statement)).is_err());
    }
}
