//! What a check of a password against an argon2 hash costs.

use std::sync::Arc;

use super::{User, Verifier};
use secret::Secret;

/// The cost of a check against a PHC string: its algorithm, version and parameters, as they stand in
/// front of the salt. Two equal costs mean the same work; the same work may be written in two ways.
pub fn hash_cost(phc: &Secret) -> &[u8] {
    let bytes = phc.expose();
    // What follows are the salt and the hash.
    let mut parts = bytes.rsplitn(3, |byte| *byte == b'$');
    parts.nth(2).unwrap_or(bytes)
}

/// One hash of each cost that the passwords of these users have.
pub(crate) fn refusal_costs<'u>(users: impl IntoIterator<Item = &'u Arc<User>>) -> Vec<Secret> {
    let mut costs: Vec<Secret> = Vec::new();
    for user in users {
        if let Some(Verifier::Argon2(phc)) = &user.password
            && costs.iter().all(|known| hash_cost(known) != hash_cost(phc))
        {
            costs.push(phc.clone());
        }
    }
    costs
}
