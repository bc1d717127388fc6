//! Who may do what: the one place that decides it, from policies where they are set.

use super::ACCOUNT;
use super::iam::{Policy, PolicyError, Request, Verdict};
use super::signature::Caller;
use super::state::Shared;

/// The IAM user that the base credentials are of.
pub(super) fn base_arn() -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/hopend")
}

impl Shared {
    /// Sets the policy of the base credentials' user, or of a role.
    pub(super) fn set_policy(&self, principal: &str, document: &str) -> Result<(), PolicyError> {
        let policy = Policy::of_identity(document)?;
        if principal != base_arn() {
            self.known_role(principal)?;
        }
        self.with(|state| state.policies.insert(principal.to_owned(), policy));
        Ok(())
    }

    /// Sets the trust policy of a role.
    pub(super) fn set_trust(&self, role: &str, document: &str) -> Result<(), PolicyError> {
        let policy = Policy::of_trust(document)?;
        self.known_role(role)?;
        self.with(|state| state.trusts.insert(role.to_owned(), policy));
        Ok(())
    }

    fn known_role(&self, arn: &str) -> Result<(), PolicyError> {
        let known = self.look(|state| state.users.values().any(|user| user.role == arn));
        known.then_some(()).ok_or_else(|| PolicyError::unknown(arn))
    }

    /// Whether the caller may do this; AWS's words if not.
    ///
    /// Without a policy, the base principal may do everything except ask for connection strings and
    /// use them, which takes the user's own role; a role may do that and nothing else.
    pub(super) fn permit(
        &self,
        caller: &Caller,
        action: &str,
        resource: &str,
    ) -> Result<(), String> {
        if self.faults.denies(&caller.arn, action, resource) {
            return Err(not_allowed(caller, action, resource));
        }
        // AWS answers this one whatever the policies say.
        if action == "sts:GetCallerIdentity" {
            return Ok(());
        }
        let request = Request {
            principal: caller.principal(),
            action,
            resource,
            context: &[],
        };
        match self.look(|state| Some(state.policies.get(request.principal)?.verdict(&request))) {
            Some(Verdict::Allowed) => Ok(()),
            Some(Verdict::NotAllowed) => Err(not_allowed(caller, action, resource)),
            Some(Verdict::Denied) => Err(format!(
                "{} with an explicit deny in an identity-based policy",
                not_authorized(caller, action, resource)
            )),
            None => {
                let own = matches!(
                    action,
                    "finspace:GetKxConnectionString" | "finspace:ConnectKxCluster"
                );
                (own == caller.role.is_some())
                    .then_some(())
                    .ok_or_else(|| not_allowed(caller, action, resource))
            }
        }
    }

    /// Whether the caller may take a role: the caller's policy and the role's trust policy both have
    /// to allow it, as AWS has it for a role that takes another and sets a source identity.
    pub(super) fn permit_role(
        &self,
        caller: &Caller,
        action: &str,
        role: &str,
        context: &[(&'static str, &str)],
    ) -> Result<(), String> {
        self.permit(caller, action, role)?;
        let request = Request {
            principal: caller.principal(),
            action,
            resource: role,
            context,
        };
        match self.look(|state| Some(state.trusts.get(role)?.verdict(&request))) {
            None | Some(Verdict::Allowed) => Ok(()),
            Some(Verdict::NotAllowed) => Err(format!(
                "{} because no resource-based policy allows the {action} action",
                not_authorized(caller, action, role)
            )),
            Some(Verdict::Denied) => Err(format!(
                "{} with an explicit deny in a resource-based policy",
                not_authorized(caller, action, role)
            )),
        }
    }
}

/// AWS's words for what no policy allows.
pub(super) fn not_allowed(caller: &Caller, action: &str, resource: &str) -> String {
    format!(
        "{} because no identity-based policy allows the {action} action",
        not_authorized(caller, action, resource)
    )
}

fn not_authorized(caller: &Caller, action: &str, resource: &str) -> String {
    format!(
        "User: {} is not authorized to perform: {action} on resource: {resource}",
        caller.arn
    )
}
