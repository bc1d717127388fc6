//! The cost of checking a password against an argon2 hash.

use std::sync::Arc;

use secret::Secret;

use super::user::{PasswordVerifier, User};

/// The part of a PHC string that determines the cost of a check. It holds the algorithm, the version and
/// the parameters, without the salt and the hash.
///
/// Two strings with equal parts need the same work. Two different parts may describe the same work,
/// because the parameters can have any order.
pub fn hash_cost(phc: &Secret) -> &[u8] {
    let bytes = phc.expose();
    // The last two parts are the salt and the hash.
    let mut parts = bytes.rsplitn(3, |byte| *byte == b'$');
    parts.nth(2).unwrap_or(bytes)
}

/// Selects one hash of each cost among the passwords of these users.
pub(crate) fn refusal_costs<'u>(users: impl IntoIterator<Item = &'u Arc<User>>) -> Vec<Secret> {
    let mut costs: Vec<Secret> = Vec::new();
    for user in users {
        if let Some(PasswordVerifier::Argon2(phc)) = &user.password
            && costs.iter().all(|known| hash_cost(known) != hash_cost(phc))
        {
            costs.push(phc.clone());
        }
    }
    costs
}
