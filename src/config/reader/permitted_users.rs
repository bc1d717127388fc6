//! Reads the users who may use an endpoint.

use std::sync::Arc;

use super::definitions::{Definitions, Reference};
use super::diagnostics::Evidence;
use super::document::TomlTable;
use super::name;
use super::reported::Reported;
use crate::config::user::User;

/// The default of `default_user_names`: the names that kola without a terminal and node-q send.
const DEFAULT_USER_NAMES: [&str; 2] = ["unknown", "anonymous"];

/// The users who may use an endpoint.
pub(super) struct PermittedUsers {
    pub(super) users: Vec<Arc<User>>,
    /// The names of permitted users whose own table has an error.
    pub(super) left_out: Vec<String>,
}

impl PermittedUsers {
    /// Reads `users` of an endpoint. Without the key, all users of the file are permitted.
    ///
    /// A user with an error is not admitted, and hopend never admits anybody else instead.
    pub(super) fn read(table: &TomlTable<'_>, users: &Definitions<User>) -> Result<Self, Reported> {
        let Some(value) = table.get("users") else {
            return Ok(users.all().collect());
        };
        let names = value.array()?;
        if names.is_empty() {
            return Err(value.problem(
                "is empty: nobody could use the endpoint",
                "name users, or remove the key for all of them",
            ));
        }
        let mut seen = Vec::new();
        let references = names.iter().map(|value| {
            let name = match value.text() {
                Ok(name) => name,
                Err(reported) => return Reference::Unknown(reported),
            };
            if seen.contains(&name) {
                value.problem("names the same user twice", "name each user once");
            }
            seen.push(name);
            users.resolve(value, name)
        });
        Ok(references.collect())
    }

    /// The number of users whom the file permits, including users with an error.
    pub(super) fn count(&self) -> usize {
        self.users.len() + self.left_out.len()
    }

    /// Whether a valid user with this name may use the endpoint.
    pub(super) fn admit(&self, name: &str) -> bool {
        self.users.iter().any(|user| user.name == name)
    }

    /// Reports if no permitted user can be identified from another host. The kernel identifies only
    /// accounts of this host.
    pub(super) fn require_remote_proof(&self, table: &TomlTable<'_>, with_certificates: bool) {
        let has_proof = |user: &Arc<User>| {
            user.password.is_some() || (with_certificates && user.certificate.is_some())
        };
        // A user with an error may have a password, so it is too early to complain.
        if self.users.is_empty() || !self.left_out.is_empty() || self.users.iter().any(has_proof) {
            return;
        }
        if let Some(value) = table.get("listen") {
            value.report(
                Evidence::AbsentFromFile,
                "is reachable from other hosts, where only passwords count, and no permitted user has one",
                "give a user a password (`hopend hash-password`), or listen on the loopback only",
            );
        }
    }
}

impl FromIterator<Reference<User>> for PermittedUsers {
    fn from_iter<T: IntoIterator<Item = Reference<User>>>(references: T) -> Self {
        let mut permitted = Self {
            users: Vec::new(),
            left_out: Vec::new(),
        };
        for reference in references {
            match reference {
                Reference::Valid(user) => permitted.users.push(user),
                Reference::LeftOut(part) => permitted.left_out.push(part.name),
                Reference::Unknown(_) => {}
            }
        }
        permitted
    }
}

/// Reads `default_user_names` of an endpoint. The name of a user of the file always counts as a name, so it
/// is removed, even if the user's table has an error.
pub(super) fn default_user_names(
    table: &TomlTable<'_>,
    users: &Definitions<User>,
) -> Result<Vec<String>, Reported> {
    let names = table.with_default("default_user_names", DEFAULT_USER_NAMES.to_vec(), |value| {
        value
            .array()?
            .iter()
            .map(|value| {
                let name = value.text()?;
                value.check(name::check_user(name).map(|()| name))
            })
            .collect()
    })?;
    let names = names.into_iter().filter(|name| !users.contain(name));
    Ok(names.map(str::to_owned).collect())
}
