//! Denials: AWS refused a call because a policy does not allow it.

use super::error::{CallContext, MissingPermission};
use crate::policy_document::Statement;

/// The remedy of a denial.
pub(super) struct DenialRemedy {
    /// The action for an administrator, without the statement.
    pub(super) text: String,
    /// The permission to add. None if adding one does not help.
    pub(super) missing: Option<Box<MissingPermission>>,
}

/// The facts in AWS's message: `User: … is not authorized to perform: … on resource: …`.
struct Denial<'s> {
    /// The ARN of a user or of a role session.
    principal: Option<&'s str>,
    resource: Option<&'s str>,
}

/// Whether the error code of AWS means a denial.
pub(super) fn is_denial(code: &str) -> bool {
    matches!(code, "AccessDenied" | "AccessDeniedException")
}

/// Finds out from AWS's message which policy has to change.
pub(super) fn remedy_of_denial(context: &CallContext, message: &str) -> DenialRemedy {
    let denial = Denial::parse(message);
    let identity = denial.principal.map(identity_of);
    let is_assume_role = context.action == "sts:AssumeRole";
    if let Some((_, policy)) = message.split_once("explicit deny in ") {
        let identity = identity.unwrap_or_else(|| context.identity.clone());
        return DenialRemedy {
            text: format!(
                "take the Deny out of {policy}, which forbids it to {identity} whatever else allows it"
            ),
            missing: None,
        };
    }
    if is_assume_role && message.contains("no resource-based policy") {
        let identity = identity.unwrap_or_else(|| "the daemon's role".into());
        return DenialRemedy {
            text: format!(
                "trust {identity} in the trust policy of {}, for sts:AssumeRole and \
                 sts:SetSourceIdentity",
                context.resource
            ),
            missing: None,
        };
    }
    let text = match &identity {
        Some(identity) if is_assume_role => format!(
            "allow sts:AssumeRole and sts:SetSourceIdentity on it to {identity}, and trust that in \
             the role's trust policy"
        ),
        _ => context.remedy.clone(),
    };
    let resource = denial.resource.unwrap_or(&context.resource_arn);
    let missing = MissingPermission {
        identity: identity.unwrap_or_else(|| context.identity.clone()),
        statement: Statement::allow(context.needed_actions, &[resource]),
    };
    DenialRemedy {
        text,
        missing: Some(Box::new(missing)),
    }
}

impl<'s> Denial<'s> {
    fn parse(message: &'s str) -> Self {
        let arn_after = |label: &str| {
            let (_, rest) = message.split_once(label)?;
            let arn = rest.split(' ').next()?;
            arn.starts_with("arn:").then_some(arn)
        };
        Self {
            principal: arn_after("User: "),
            resource: arn_after("on resource: "),
        }
    }
}

/// The identity whose policies count. For a role session it is the ARN of the role, without the path of
/// the role, which the session does not tell.
fn identity_of(principal: &str) -> String {
    let role = principal
        .split_once(":assumed-role/")
        .and_then(|(head, rest)| {
            let role = rest.split('/').next()?;
            Some(format!(
                "{}:role/{role}",
                head.replacen(":sts:", ":iam:", 1)
            ))
        });
    role.unwrap_or_else(|| principal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> CallContext {
        CallContext {
            action: "sts:AssumeRole",
            needed_actions: &["sts:AssumeRole", "sts:SetSourceIdentity"],
            identity: "the daemon's own AWS credentials".into(),
            resource: "arn:aws:iam::111122223333:role/user-alice".into(),
            resource_arn: "arn:aws:iam::111122223333:role/user-alice".into(),
            remedy: "allow it".into(),
        }
    }

    #[test]
    fn a_denial_names_the_role_behind_the_session_and_the_statement_it_lacks() {
        let DenialRemedy { text, missing } = remedy_of_denial(
            &context(),
            "User: arn:aws:sts::111122223333:assumed-role/bastion/i-0abc is not authorized to \
             perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/user-alice",
        );
        let bastion = "arn:aws:iam::111122223333:role/bastion";
        assert!(
            text.contains(bastion) && text.contains("trust policy"),
            "{text}"
        );
        let missing = missing.unwrap();
        assert_eq!(missing.identity, bastion);
        assert_eq!(
            missing.to_string(),
            r#"{"Effect":"Allow","Action":["sts:AssumeRole","sts:SetSourceIdentity"],"Resource":["arn:aws:iam::111122223333:role/user-alice"]}"#
        );
    }

    #[test]
    fn a_denial_by_the_roles_own_policy_is_mended_there() {
        let DenialRemedy { text, missing } = remedy_of_denial(
            &context(),
            "User: arn:aws:iam::111122223333:user/hopend is not authorized to perform: \
             sts:AssumeRole on resource: arn:aws:iam::111122223333:role/user-alice because no \
             resource-based policy allows the sts:AssumeRole action",
        );
        assert!(
            text.starts_with("trust arn:aws:iam::111122223333:user/hopend in"),
            "{text}"
        );
        assert_eq!(missing, None);
    }

    #[test]
    fn an_explicit_denial_is_mended_where_it_stands() {
        let DenialRemedy { text, missing } = remedy_of_denial(
            &context(),
            "User: arn:aws:iam::111122223333:user/hopend is not authorized to perform: \
             sts:AssumeRole on resource: arn:aws:iam::111122223333:role/user-alice with an \
             explicit deny in a service control policy",
        );
        assert!(
            text.starts_with(
                "take the Deny out of a service control policy, which forbids it to arn:"
            ),
            "{text}"
        );
        assert_eq!(missing, None);
    }

    #[test]
    fn a_denial_without_details_has_what_was_asked_for() {
        let DenialRemedy { missing, .. } = remedy_of_denial(&context(), "Access denied");
        let missing = missing.unwrap();
        assert_eq!(missing.identity, "the daemon's own AWS credentials");
        assert_eq!(missing.statement.resource, [context().resource_arn]);
    }
}
