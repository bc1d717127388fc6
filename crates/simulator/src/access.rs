//! Decides which principal may perform which action.

use super::arn;
use super::caller::Caller;
use super::iam::{AccessRequest, Policy, PolicyError, Verdict};
use super::state::Simulation;

impl Simulation {
    /// Sets the identity policy of a role, or of the IAM user that owns the base credentials.
    pub(crate) fn set_policy(&self, principal: &str, document: &str) -> Result<(), PolicyError> {
        let policy = Policy::of_identity(document)?;
        if principal != arn::base_user() {
            self.known_role(principal)?;
        }
        self.update(|state| state.policies.insert(principal.to_owned(), policy));
        Ok(())
    }

    /// Sets the trust policy of a role.
    pub(crate) fn set_trust(&self, role: &str, document: &str) -> Result<(), PolicyError> {
        let policy = Policy::of_trust(document)?;
        self.known_role(role)?;
        self.update(|state| state.trusts.insert(role.to_owned(), policy));
        Ok(())
    }

    fn known_role(&self, arn: &str) -> Result<(), PolicyError> {
        let known = self.read(|state| state.users.values().any(|user| user.role == arn));
        known.then_some(()).ok_or_else(|| PolicyError::unknown(arn))
    }

    /// Checks that the caller may perform an action on a resource.
    ///
    /// A principal without a policy follows a simple rule. A role may ask for connection strings and use
    /// them, and nothing else. The base credentials may do everything but that.
    ///
    /// # Errors
    /// The denial in AWS's words.
    pub(crate) fn permit(
        &self,
        caller: &Caller,
        action: &str,
        resource: &str,
    ) -> Result<(), String> {
        if self.faults.denies(&caller.arn, action, resource) {
            return Err(not_allowed(caller, action, resource));
        }
        // AWS allows this call even where a policy denies it.
        if action == "sts:GetCallerIdentity" {
            return Ok(());
        }
        let request = AccessRequest {
            principal: caller.principal(),
            action,
            resource,
            context: &[],
        };
        match self.read(|state| Some(state.policies.get(request.principal)?.verdict(&request))) {
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

    /// Checks that the caller may assume a role. Both the caller's policy and the role's trust policy
    /// must allow it, as on AWS for a role that assumes another one or sets a source identity.
    ///
    /// # Errors
    /// The denial in AWS's words.
    pub(crate) fn permit_role(
        &self,
        caller: &Caller,
        action: &str,
        role: &str,
        context: &[(&'static str, &str)],
    ) -> Result<(), String> {
        self.permit(caller, action, role)?;
        let request = AccessRequest {
            principal: caller.principal(),
            action,
            resource: role,
            context,
        };
        match self.read(|state| Some(state.trusts.get(role)?.verdict(&request))) {
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

/// AWS's message for an action that no identity policy allows.
pub(crate) fn not_allowed(caller: &Caller, action: &str, resource: &str) -> String {
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
